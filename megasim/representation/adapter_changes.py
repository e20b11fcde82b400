"""The change that an adapter makes to one weight, in the forms that its factors give it.

A change is a matrix of as many rows as the weight has, and of all other dimensions as columns. That
of a LoRA is never written out: what is asked of it follows from its factors, by QR decompositions
of a few columns. Others are made row by row. All arithmetic is in float64.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np
import numpy.typing as npt

Doubles = npt.NDArray[np.float64]
Shape = tuple[int, ...]

# Elements of a change that are made at a time.
_PIECE = 1 << 21


class BadFactors(ValueError):
    """The factors of an adapter do not fit each other; the message says how."""


class Change(Protocol):
    """The change of one weight, as a matrix of (rows, columns)."""

    @property
    def rows(self) -> int:
        """The first dimension of the weight."""

    @property
    def columns(self) -> int:
        """The product of its other dimensions."""

    def block(self, start: int, stop: int) -> Doubles:
        """Return rows `start` to `stop`, as (stop − start, columns)."""


@dataclass(frozen=True, eq=False)
class LowRankChange:
    """up · down: (rows, r) and (r, columns), the strength within `up`."""

    up: Doubles
    down: Doubles

    @property
    def rows(self) -> int:
        return len(self.up)

    @property
    def columns(self) -> int:
        return int(self.down.shape[1])

    def block(self, start: int, stop: int) -> Doubles:
        return self.up[start:stop] @ self.down

    @cached_property
    def core(self) -> Doubles:
        """A small matrix of the same singular values."""
        left: Doubles = np.asarray(np.linalg.qr(self.up, mode="r"))
        right: Doubles = np.asarray(np.linalg.qr(self.down.T, mode="r"))
        core: Doubles = left @ right.T
        return core


@dataclass(frozen=True, eq=False)
class WholeChange:
    """A change that is held as it is."""

    values: npt.NDArray[np.float32] | Doubles

    @property
    def rows(self) -> int:
        return len(self.values)

    @property
    def columns(self) -> int:
        return int(self.values.shape[1])

    def block(self, start: int, stop: int) -> Doubles:
        return self.values[start:stop].astype(np.float64)


@dataclass(frozen=True, eq=False)
class HadamardChange:
    """The product, element by element, of two low-rank matrices."""

    first: LowRankChange
    second: LowRankChange

    @property
    def rows(self) -> int:
        return self.first.rows

    @property
    def columns(self) -> int:
        return self.first.columns

    def block(self, start: int, stop: int) -> Doubles:
        return self.first.block(start, stop) * self.second.block(start, stop)


@dataclass(frozen=True, eq=False)
class KroneckerChange:
    """The Kronecker product of (a, b) and (c, d, k), as (a·c, b·d·k); the strength within."""

    first: Doubles
    second: Doubles

    @property
    def rows(self) -> int:
        return int(self.first.shape[0] * self.second.shape[0])

    @property
    def columns(self) -> int:
        return int(self.first.shape[1]) * math.prod(self.second.shape[1:])

    def block(self, start: int, stop: int) -> Doubles:
        outer, inner = np.divmod(np.arange(start, stop), self.second.shape[0])
        products = self.first[outer][:, :, None, None] * self.second[inner][:, None]
        return products.reshape(stop - start, self.columns)


@dataclass(frozen=True, eq=False)
class StackedChange:
    """Changes of parts of a weight, one above another; None where a part stays as it is."""

    parts: tuple[Change | None, ...]
    sizes: tuple[int, ...]
    columns: int

    @property
    def rows(self) -> int:
        return sum(self.sizes)

    def block(self, start: int, stop: int) -> Doubles:
        found = np.zeros((stop - start, self.columns))
        begin = 0
        for part, size in zip(self.parts, self.sizes, strict=True):
            low, high = max(start, begin), min(stop, begin + size)
            if part is not None and low < high:
                found[low - start : high - start] = part.block(low - begin, high - begin)
            begin += size
        return found


@dataclass(frozen=True, eq=False)
class ScaledChange:
    change: Change
    factor: float

    @property
    def rows(self) -> int:
        return self.change.rows

    @property
    def columns(self) -> int:
        return self.change.columns

    def block(self, start: int, stop: int) -> Doubles:
        return self.change.block(start, stop) * self.factor


def row_blocks(rows: int, columns: int) -> Iterator[tuple[int, int]]:
    """Yield ranges of rows that have about two million elements each."""
    step = max(1, _PIECE // max(columns, 1))
    for start in range(0, rows, step):
        yield start, min(start + step, rows)


def check_fit(fits: bool, what: str) -> None:
    """Raise BadFactors, naming what is of wrong shapes, unless it fits."""
    if not fits:
        raise BadFactors(f"wrong shapes: {what}")
