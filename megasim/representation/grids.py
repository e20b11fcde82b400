"""The parts that quantised tensors are made of: grids of codes, scales and zero points.

A grid gives the numbers of any box of it. Codes have one number for each value; scales and zero
points one for each block of values, over which `Blocks` and `Indexed` spread them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Protocol

import numpy as np
import numpy.typing as npt

from megasim.checkpoint.dtypes import STORAGE_DTYPES, AnyArray
from megasim.checkpoint.tensor_refs import ElementReader
from megasim.checkpoint.tensors import TensorRef
from megasim.kernels.elements import float8_table, to_single
from megasim.kernels.state import Singles
from megasim.representation.boxes import Box, BoxDecoder, Interval, as_singles, read_box

# The value of each code of a 4-bit float of two exponent bits and one of mantissa (OCP MX, 2023).
E2M1: Final = tuple(
    sign * size for sign in (1.0, -1.0) for size in (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
)


class Grid(Protocol):
    """Numbers in rows and columns."""

    def read(self, reader: ElementReader, box: Box) -> AnyArray:
        """Return the numbers of a box, (rows, columns) of integers or float32."""


class Spread(Protocol):
    """A number for each value of a tensor, fewer of which are stored."""

    def over(self, reader: ElementReader, box: Box) -> AnyArray:
        """Return the numbers of a box of values, in a shape that broadcasts to that of the box."""


@dataclass(frozen=True)
class Numbers:
    """Numbers that are stored as they are.

    Attributes:
        ref: the tensor. columns: of it as a matrix.
        dtype: what its elements are, where the file calls them something else.
    """

    ref: TensorRef
    columns: int
    dtype: str

    def read(self, reader: ElementReader, box: Box) -> AnyArray:
        return as_singles(read_box(reader, self.ref, self.columns, box), self.dtype)


@dataclass(frozen=True)
class Packed:
    """Unsigned integers of some bits each, packed one after another into words of 32 bits or bytes.

    The lowest bits of a word come first, and an integer may go on in the next word.

    Attributes:
        ref: the words. columns: of the words as a matrix.
        bits: of an integer, 1 to 8.
        along: 1 if the words of a row hold a row of integers, 0 if those of a column a column.
        order: which integers the bits of a word hold, from the lowest bits on; None: in order.
    """

    ref: TensorRef
    columns: int
    bits: int
    along: int = 1
    order: tuple[int, ...] | None = None

    def read(self, reader: ElementReader, box: Box) -> AnyArray:
        if self.along == 1:
            first, last = self._words(box.left, box.right)
            words = read_box(reader, self.ref, self.columns, Box(box.top, box.bottom, first, last))
            return self._unpacked(words, first, box.left, box.right)
        first, last = self._words(box.top, box.bottom)
        words = read_box(reader, self.ref, self.columns, Box(first, last, box.left, box.right))
        return self._unpacked(np.ascontiguousarray(words.T), first, box.top, box.bottom).T

    def _words(self, start: int, stop: int) -> tuple[int, int]:
        """Return the words that hold a range of integers, from one that begins with an integer."""
        size = STORAGE_DTYPES[self.ref.dtype].itemsize * 8
        step = self.bits if size % self.bits else 1  # words after which an integer begins anew
        first = start * self.bits // size // step * step
        return first, -(-stop * self.bits // size)

    def _unpacked(
        self, words: AnyArray, first: int, start: int, stop: int
    ) -> npt.NDArray[np.uint8]:
        """Return integers `start` to `stop` of each row, whose words begin with word `first`."""
        size = words.dtype.itemsize * 8
        data = words.view(np.uint8)
        begin = start - first * size // self.bits
        end = begin + stop - start
        if self.bits == 8:
            return data[:, begin:end]
        if self.bits == 4:
            codes = np.empty((len(data), 2 * data.shape[1]), np.uint8)
            np.bitwise_and(data, 15, out=codes[:, ::2])
            np.right_shift(data, 4, out=codes[:, 1::2])
        elif size % self.bits == 0 and self.bits < 4:
            shifts = np.arange(0, 8, self.bits, dtype=np.uint8)
            split = data[:, :, None] >> shifts & np.uint8((1 << self.bits) - 1)
            codes = split.reshape(len(data), -1)
        else:
            single = np.unpackbits(data, axis=1, bitorder="little")
            whole = single.shape[1] // self.bits * self.bits
            weights = 1 << np.arange(self.bits, dtype=np.uint8)
            codes = single[:, :whole].reshape(len(data), -1, self.bits) @ weights
        if self.order is not None:
            place = np.argsort(self.order)
            codes = codes.reshape(len(codes), -1, len(place))[:, :, place].reshape(len(codes), -1)
        return codes[:, begin:end]


@dataclass(frozen=True)
class Shifted:
    """A grid with a whole number added to all of it, modulo another one where that is given."""

    grid: Packed | Numbers
    by: int
    modulo: int | None = None

    def read(self, reader: ElementReader, box: Box) -> AnyArray:
        found = self.grid.read(reader, box).astype(np.float32) + np.float32(self.by)
        return found if self.modulo is None else np.remainder(found, np.float32(self.modulo))


@dataclass(frozen=True)
class Rescaled:
    """A grid of scales, times the one scale of the whole tensor, or divided by it."""

    grid: Numbers
    whole: TensorRef
    divided: bool

    def read(self, reader: ElementReader, box: Box) -> AnyArray:
        factor = as_singles(reader.read(self.whole), self.whole.dtype)
        scales = self.grid.read(reader, box)
        return np.divide(scales, factor) if self.divided else np.multiply(scales, factor)


def _dtype_of(grid: Numbers | Packed | Shifted | Rescaled) -> str:
    inner = grid.grid if isinstance(grid, Rescaled) else grid
    return inner.dtype if isinstance(inner, Numbers) else ""


@dataclass(frozen=True)
class Same:
    """One number for all values."""

    number: float

    def over(self, reader: ElementReader, box: Box) -> AnyArray:
        return np.full((1, 1), self.number, np.float32)


@dataclass(frozen=True)
class Blocks:
    """A number for each block of values.

    Attributes:
        grid: the numbers, as many in a row as there are blocks beside each other.
        columns: of the values.
        height: rows of a matrix, where the values are several matrices one below another: a block
            ends with its matrix.
        block: rows and columns of a block; the last of a matrix may be smaller.
    """

    grid: Numbers | Packed | Shifted | Rescaled
    columns: int
    height: int
    block: tuple[int, int]

    @property
    def dtype(self) -> str:
        """Of the numbers, where they are stored as they are."""
        return _dtype_of(self.grid)

    def over(self, reader: ElementReader, box: Box) -> AnyArray:
        tall, wide = self.block
        left, right = box.left // wide, -(-box.right // wide)
        rows = np.arange(box.top, box.bottom)
        matrix, row = np.divmod(rows, self.height)
        down = matrix * -(-self.height // tall) + row // tall
        area = Box(int(down[0]), int(down[-1]) + 1, left, right)
        found = self.grid.read(reader, area)
        if tall > 1:
            found = found[down - area.top]
        if right - left == 1:
            return found
        across = np.repeat(found, wide, axis=1)
        skipped = box.left - left * wide
        return across[:, skipped : skipped + box.shape[1]]


@dataclass(frozen=True)
class Indexed:
    """A number for each value out of a grid, in which the row or column of it has an index.

    Attributes:
        grid: groups × columns of the values, or rows of the values × groups.
        index: the group of each row (`axis` 0) or column (`axis` 1) of the values; all are in the
            grid.
        groups: how many there are.
    """

    grid: Numbers | Packed | Shifted
    index: TensorRef
    axis: int
    groups: int

    @property
    def dtype(self) -> str:
        """Of the numbers, where they are stored as they are."""
        return _dtype_of(self.grid)

    def over(self, reader: ElementReader, box: Box) -> AnyArray:
        start, stop = (box.top, box.bottom) if self.axis == 0 else (box.left, box.right)
        index = reader.read(self.index, start, stop)
        if self.axis == 0:
            found = self.grid.read(reader, Box(0, self.groups, box.left, box.right))
        else:
            found = self.grid.read(reader, Box(box.top, box.bottom, 0, self.groups))
        chosen: AnyArray = found.take(index, self.axis)
        return chosen


def edges_of(
    levels: Sequence[float], beyond: float = 0.0, *, even: bool = False
) -> tuple[Singles, Singles]:
    """Return where the numbers that are rounded to each of some levels begin, and where they end.

    Args:
        levels: in any order; a level that stands twice, as 0 and −0, has one interval.
        beyond: how far the intervals of the smallest and the largest level reach beyond these.
        even: whether what lies in the middle of two levels goes to the one of even place, as in
            tables of floats by their bits; else it may go to either.

    >>> [ends.tolist() for ends in edges_of([1.0, 0.0, 4.0], 0.5)]
    [[0.5, -0.5, 2.5], [2.5, 0.5, 4.5]]
    """
    given = np.array(levels, np.float32)
    known = np.unique(given[np.isfinite(given)])
    middles = (known[1:] + known[:-1]) / 2
    low = np.concatenate([[known[0] - beyond], middles]).astype(np.float32)
    high = np.concatenate([middles, [known[-1] + beyond]]).astype(np.float32)
    place = np.searchsorted(known, np.where(np.isfinite(given), given, known[0]))
    if even:
        odd = np.arange(len(given)) % 2 == 1
        up, down = np.float32(np.inf), np.float32(-np.inf)
        return (
            np.where(odd, np.nextafter(low[place], up), low[place]),
            np.where(odd, np.nextafter(high[place], down), high[place]),
        )
    return low[place], high[place]


def scaled_interval(low: AnyArray, high: AnyArray, scales: AnyArray, slack: float) -> Interval:
    """Return intervals of codes times their scales, wider by `slack` of their far ends.

    Scales may be negative.
    """
    first, second = low * scales, high * scales
    size = np.maximum(np.abs(first), np.abs(second)) * np.float32(slack)
    return np.minimum(first, second) - size, np.maximum(first, second) + size


# How much a stored scale may be off from that by which the codes were made, as a part of it: what
# rounding it to its dtype took away.
_ROUNDED: Final = {"float16": 2.0**-10, "bfloat16": 2.0**-7}
_ARITHMETIC: Final = 2.0**-20


def slack_of(dtype: str) -> float:
    """Return how much scales of a dtype may be off from those that made the codes."""
    if dtype == "float8_e8m0fnu":
        return 0.0  # powers of two: products are exact
    return _ROUNDED.get(dtype, 0.0) + _ARITHMETIC


@dataclass(frozen=True)
class Affine(BoxDecoder):
    """Values = (codes − zeros) × scales; the difference is exact, the product rounded once."""

    codes: Numbers | Packed
    scales: Blocks | Indexed
    zeros: Same | Blocks | Indexed | None = None

    def fill(self, reader: ElementReader, box: Box, out: Singles) -> None:
        if isinstance(self.codes, Numbers) and self.codes.dtype.startswith("float8"):
            raw = read_box(reader, self.codes.ref, self.codes.columns, box)
            to_single(raw.reshape(-1), self.codes.dtype, out.reshape(-1))
        else:
            out[...] = self.codes.read(reader, box)
        if self.zeros is not None:
            out -= self.zeros.over(reader, box)
        out *= self.scales.over(reader, box)

    def interval_box(self, reader: ElementReader, box: Box) -> Interval | None:
        dtype = self.codes.dtype if isinstance(self.codes, Numbers) else ""
        low, high = self._code_interval(reader, box, dtype)
        if self.zeros is not None:
            zeros = self.zeros.over(reader, box)
            # the quotient and the zero point were added up in the dtype of the scales
            slack = np.float32(slack_of(self.scales.dtype) / 2)
            size = np.maximum(np.abs(low), np.abs(high)) * slack
            low, high = low - size - zeros, high + size - zeros
        scales = self.scales.over(reader, box)
        return scaled_interval(low, high, scales, slack_of(self.scales.dtype))

    def _code_interval(self, reader: ElementReader, box: Box, dtype: str) -> Interval:
        """Return what is rounded to each code of a box, before zero points and scales."""
        if not dtype.startswith("float8"):
            codes = self.codes.read(reader, box).astype(np.float32)
            return codes - np.float32(0.5), codes + np.float32(0.5)
        assert isinstance(self.codes, Numbers)
        table = float8_table(dtype)
        largest = np.sort(table[np.isfinite(table)])[-2:]
        # a power of two as scale is rounded down, and what is beyond the largest code cut off
        beyond = largest[1] * (1 / 7 if self.scales.dtype == "float8_e8m0fnu" else 0)
        beyond = max(float(beyond), float(largest[1] - largest[0]) / 2)
        low, high = edges_of(table.tolist(), beyond, even=True)
        raw = read_box(reader, self.codes.ref, self.codes.columns, box)
        return low[raw], high[raw]


@dataclass(frozen=True)
class Levels(BoxDecoder):
    """Values = the number that each code stands for, times its scale, rounded once."""

    codes: Packed
    levels: tuple[float, ...]
    scales: Blocks

    def fill(self, reader: ElementReader, box: Box, out: Singles) -> None:
        table = np.array(self.levels, np.float32)
        np.take(table, self.codes.read(reader, box), out=out, mode="clip")
        out *= self.scales.over(reader, box)

    def interval_box(self, reader: ElementReader, box: Box) -> Interval | None:
        # with a power of two as scale, which is rounded down, up to 8 is cut off to 6
        is_power = self.scales.dtype == "float8_e8m0fnu"
        low, high = edges_of(self.levels, 2.0 if is_power else 1.0, even=True)
        codes = self.codes.read(reader, box)
        scales = self.scales.over(reader, box)
        return scaled_interval(low[codes], high[codes], scales, slack_of(self.scales.dtype))
