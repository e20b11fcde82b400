"""Values that stand in rows and columns, decoded one box of them at a time."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import NamedTuple

import numpy as np

from megasim.checkpoint.decoder import Decoder
from megasim.checkpoint.dtypes import STORAGE_DTYPES, AnyArray
from megasim.checkpoint.tensors import TensorReader, TensorRef
from megasim.kernels.elements import is_wide, to_double, to_single
from megasim.kernels.state import Singles

# Values decoded at once: codes, scales and values then stay in the cache of a core.
_PIECE = 1 << 18
# Of transposed values: each piece passes over all rows that are stored.
_WIDE_PIECE = 1 << 20


class Box(NamedTuple):
    """Rows `top` to `bottom` and columns `left` to `right` of a matrix."""

    top: int
    bottom: int
    left: int
    right: int

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        return self.bottom - self.top, self.right - self.left


def boxes(start: int, stop: int, columns: int, piece: int = _PIECE) -> Iterator[Box]:
    """Cut a range of row-major elements into boxes: parts of one row, or some whole rows.

    Args:
        piece: elements that a box holds at most.

    >>> list(boxes(2, 11, 4))  # doctest: +NORMALIZE_WHITESPACE
    [Box(top=0, bottom=1, left=2, right=4), Box(top=1, bottom=2, left=0, right=4),
     Box(top=2, bottom=3, left=0, right=3)]
    """
    while start < stop:
        row, left = divmod(start, columns)
        whole = min((stop - start) // columns, piece // columns)
        if left or not whole:
            right = min(columns, left + stop - start, left + piece)
            yield Box(row, row + 1, left, right)
            start += right - left
        else:
            yield Box(row, row + whole, 0, columns)
            start += whole * columns


@dataclass(frozen=True)
class BoxDecoder:
    """A decoder of values in rows and columns: those that derive from it fill a box of them.

    Attributes:
        rows, columns: of the values as a matrix; more dimensions count as more rows.
    """

    rows: int
    columns: int

    @property
    def scheme(self) -> str:
        raise NotImplementedError

    @property
    def stored(self) -> tuple[TensorRef, ...]:
        raise NotImplementedError

    @property
    def identity(self) -> str:
        """The scheme and all parameters; the stored tensors are known by their bytes."""
        given = ((field.name, getattr(self, field.name)) for field in fields(self))
        said = ", ".join(f"{n} {v}" for n, v in given if not isinstance(v, TensorRef))
        return f"{self.scheme}: {said}"

    def fill(self, reader: TensorReader, box: Box, out: Singles) -> None:
        """Fill `out`, (rows, columns) of the box and contiguous, with its values."""
        raise NotImplementedError

    def read(self, reader: TensorReader, start: int, stop: int, out: AnyArray) -> None:
        """Fill `out` with the values of a range in row-major order."""
        begin = start
        for box in boxes(start, stop, self.columns):
            count = math.prod(box.shape)
            self.fill(reader, box, out[start - begin : start - begin + count].reshape(box.shape))
            start += count

    def transposed(self) -> Decoder:
        """Return the decoder of the transposed values."""
        return Transposed(self.columns, self.rows, self)


@dataclass(frozen=True)
class Transposed(BoxDecoder):
    """The transpose of a matrix of decoded values."""

    inner: BoxDecoder

    @property
    def scheme(self) -> str:
        return self.inner.scheme

    @property
    def stored(self) -> tuple[TensorRef, ...]:
        return self.inner.stored

    @property
    def identity(self) -> str:
        return f"transposed {self.inner.identity}"

    def fill(self, reader: TensorReader, box: Box, out: Singles) -> None:
        values = np.empty(out.shape[::-1], np.float32)
        self.inner.fill(reader, Box(box.left, box.right, box.top, box.bottom), values)
        out[...] = values.T

    def read(self, reader: TensorReader, start: int, stop: int, out: AnyArray) -> None:
        begin = start
        for box in boxes(start, stop, self.columns, _WIDE_PIECE):
            count = math.prod(box.shape)
            self.fill(reader, box, out[start - begin : start - begin + count].reshape(box.shape))
            start += count

    def transposed(self) -> Decoder:
        return self.inner


def read_box(reader: TensorReader, ref: TensorRef, columns: int, box: Box) -> AnyArray:
    """Return the elements of a box of a stored tensor, seen as a matrix of so many columns."""
    rows, width = box.shape
    out = np.empty(box.shape, STORAGE_DTYPES[ref.dtype])
    if width == columns or rows == 1:
        first = box.top * columns + box.left
        return reader.read(ref, first, first + rows * width, out.reshape(-1)).reshape(box.shape)
    for i, row in enumerate(range(box.top, box.bottom)):
        reader.read(ref, row * columns + box.left, row * columns + box.right, out[i])
    return out


def as_singles(raw: AnyArray, dtype: str) -> Singles:
    """Return stored numbers of any dtype as float32, of the shape of `raw`."""
    flat = np.ascontiguousarray(raw).reshape(-1)
    out = np.empty(len(flat), np.float32)
    if is_wide(dtype):
        wide = np.empty(len(flat), np.float64)
        to_double(flat, dtype, wide)
        out[:] = wide
    else:
        to_single(flat, dtype, out)
    shaped: Singles = out.reshape(raw.shape)
    return shaped
