"""Values that stand in rows and columns, decoded one box of them at a time."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, fields, is_dataclass
from typing import Final, NamedTuple, TypeAlias

import numpy as np

from megasim.checkpoint.dtypes import STORAGE_DTYPES, AnyArray
from megasim.checkpoint.tensor_refs import Decoder, ElementReader
from megasim.checkpoint.tensors import TensorRef
from megasim.kernels.elements import is_wide, to_double, to_single
from megasim.kernels.state import Singles

# Values decoded at once: codes, scales and values then stay in the cache of a core.
_PIECE: Final = 1 << 18
# Of transposed values: each piece passes over all rows that are stored.
_WIDE_PIECE: Final = 1 << 20


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


def refs_in(value: object) -> tuple[TensorRef, ...]:
    """Return the stored tensors in a decoder or a part of one, in the order of its fields."""
    if isinstance(value, TensorRef):
        return (value,)
    if not is_dataclass(value):
        return ()
    return tuple(ref for f in fields(value) for ref in refs_in(getattr(value, f.name)))


def described(value: object) -> str:
    """Return a text that changes with all of a decoder but the bytes of its stored tensors."""
    if isinstance(value, TensorRef):
        return f"{value.dtype} {value.shape}"
    if not is_dataclass(value):
        return repr(value)
    told = ", ".join(f"{f.name}={described(getattr(value, f.name))}" for f in fields(value))
    return f"{type(value).__name__}({told})"


Interval: TypeAlias = tuple[AnyArray, AnyArray]


@dataclass(frozen=True)
class BoxDecoder:
    """A decoder of values in rows and columns: those that derive from it fill a box of them.

    Attributes:
        rows, columns: of the values as a matrix; more dimensions count as more rows.
        name: what the representation is called.
    """

    rows: int
    columns: int
    name: str

    piece = _PIECE

    @property
    def scheme(self) -> str:
        """What the representation is called."""
        return self.name

    @property
    def stored(self) -> tuple[TensorRef, ...]:
        """What the values are made of, in the order of the fields."""
        return refs_in(self)

    @property
    def identity(self) -> str:
        """All parameters; the stored tensors are known by their bytes."""
        return described(self)

    def fill(self, reader: ElementReader, box: Box, out: Singles) -> None:
        """Fill `out`, (rows, columns) of the box and contiguous, with its values."""
        raise NotImplementedError

    def read(self, reader: ElementReader, start: int, stop: int, out: AnyArray) -> None:
        """Fill `out` with the values of a range in row-major order."""
        begin = start
        for box in boxes(start, stop, self.columns, self.piece):
            count = math.prod(box.shape)
            self.fill(reader, box, out[start - begin : start - begin + count].reshape(box.shape))
            start += count

    def interval_box(self, reader: ElementReader, box: Box) -> Interval | None:
        """Return the ends of the intervals of a box, each (rows, columns); None: not known."""
        return None

    def intervals(
        self, reader: ElementReader, start: int, stop: int
    ) -> tuple[Singles, Singles] | None:
        """Return the ends of the intervals that the codes of a range stand for."""
        ends = np.empty((2, stop - start), np.float32)
        begin = start
        for box in boxes(start, stop, self.columns, self.piece):
            found = self.interval_box(reader, box)
            if found is None:
                return None
            stretch = slice(start - begin, start - begin + math.prod(box.shape))
            for whole, part in zip(ends, found, strict=True):
                whole[stretch].reshape(box.shape)[...] = part
            start += math.prod(box.shape)
        return ends[0], ends[1]

    def transposed(self) -> Decoder:
        """Return the decoder of the transposed values."""
        return transposed(self, 1)


@dataclass(frozen=True)
class Transposed(BoxDecoder):
    """The transposes of some matrices of decoded values, one below another.

    Attributes:
        height: rows of one transposed matrix.
        inner: the matrices as they are stored.
    """

    height: int
    inner: BoxDecoder

    piece = _WIDE_PIECE

    def _stored_boxes(self, box: Box) -> Iterator[tuple[slice, Box]]:
        """Yield which rows of a box are columns of which stored box."""
        top = box.top
        while top < box.bottom:
            matrix, left = divmod(top, self.height)
            right = min(left + box.bottom - top, self.height)
            first = matrix * self.columns  # of the rows of a stored matrix
            rows = slice(top - box.top, top - box.top + right - left)
            yield rows, Box(first + box.left, first + box.right, left, right)
            top += right - left

    def fill(self, reader: ElementReader, box: Box, out: Singles) -> None:
        for rows, stored in self._stored_boxes(box):
            values = np.empty(stored.shape, np.float32)
            self.inner.fill(reader, stored, values)
            out[rows] = values.T

    def interval_box(self, reader: ElementReader, box: Box) -> Interval | None:
        low, high = np.empty(box.shape, np.float32), np.empty(box.shape, np.float32)
        for rows, stored in self._stored_boxes(box):
            found = self.inner.interval_box(reader, stored)
            if found is None:
                return None
            low[rows], high[rows] = (end.T for end in found)
        return low, high

    def transposed(self) -> Decoder:
        return self.inner if self.height == self.rows else transposed(self, 1)


def transposed(inner: BoxDecoder, matrices: int) -> BoxDecoder:
    """Return the decoder of the transposes of some matrices, which stand one below another."""
    height = inner.columns
    columns = inner.rows // max(matrices, 1)
    return Transposed(height * matrices, columns, inner.name, height, inner)


def read_box(reader: ElementReader, ref: TensorRef, columns: int, box: Box) -> AnyArray:
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
    if dtype == "float32":
        return raw
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
