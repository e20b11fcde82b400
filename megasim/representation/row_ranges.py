"""Some rows of a tensor as a tensor of its own, whatever its representation."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from megasim.checkpoint.dtypes import STORAGE_DTYPES
from megasim.checkpoint.tensor_refs import ElementReader
from megasim.checkpoint.tensors import TensorRef
from megasim.kernels.state import Singles
from megasim.representation.boxes import Box, BoxDecoder, Interval


@dataclass(frozen=True)
class RowRange(BoxDecoder):
    """Rows of decoded values, from `first` on.

    Attributes:
        inner: all rows.
    """

    first: int
    inner: BoxDecoder

    def _inner_box(self, box: Box) -> Box:
        return Box(box.top + self.first, box.bottom + self.first, box.left, box.right)

    def fill(self, reader: ElementReader, box: Box, out: Singles) -> None:
        self.inner.fill(reader, self._inner_box(box), out)

    def interval_box(self, reader: ElementReader, box: Box) -> Interval | None:
        return self.inner.interval_box(reader, self._inner_box(box))


def row_range(ref: TensorRef, key: str, first: int, last: int) -> TensorRef | None:
    """Return rows `first` to `last` of a tensor under a name of their own; nothing is read.

    None where they cannot be told apart from the others: of sparse tensors, of those that stand
    within a pickle, and where the parts that a tensor is joined of do not end at a row.

    >>> whole = TensorRef("qkv", "float16", (6, 5), "m", 100)
    >>> part = row_range(whole, "k", 2, 4)
    >>> part.shape, part.offset
    ((2, 5), 120)
    """
    if not ref.shape or not 0 <= first < last <= ref.shape[0]:
        return None
    shape = (last - first, *ref.shape[1:])
    size = math.prod(ref.shape[1:])
    if ref.parts:
        parts = _parts_between(ref, first * size, last * size)
        return None if parts is None else replace(ref, key=key, shape=shape, parts=parts)
    if isinstance(ref.decoder, BoxDecoder):
        inner = ref.decoder
        if inner.rows != ref.shape[0]:
            return None
        decoder = RowRange(shape[0], inner.columns, inner.name, first, inner)
        return replace(ref, key=key, shape=shape, decoder=decoder)
    if ref.decoder is not None or ref.sparse is not None or ref.data is not None:
        return None
    step = size if ref.strides is None else ref.strides[0]
    begin = ref.offset + first * step * STORAGE_DTYPES[ref.dtype].itemsize
    return replace(ref, key=key, shape=shape, offset=begin)


def swapped_halves(ref: TensorRef) -> list[TensorRef]:
    """Return the second half of the rows of a tensor and the first.

    Of an odd number of rows, and of those that `row_range` cannot tell apart, the tensor alone.

    >>> [half.offset for half in swapped_halves(TensorRef("w", "int8", (4, 3), "m", 0))]
    [6, 0]
    """
    rows = ref.shape[0] if ref.shape else 0
    halves = [row_range(ref, ref.key, rows // 2, rows), row_range(ref, ref.key, 0, rows // 2)]
    found = [half for half in halves if half is not None]
    return found if len(found) == 2 and rows % 2 == 0 else [ref]


def _parts_between(ref: TensorRef, start: int, stop: int) -> tuple[TensorRef, ...] | None:
    """Return the parts of a joined tensor that hold a range of its elements."""
    found: list[TensorRef] = []
    begin = 0
    for part in ref.parts:
        low, high = max(start - begin, 0), min(stop - begin, part.numel)
        begin += part.numel
        if low >= high:
            continue
        width = math.prod(part.shape[1:])
        if low % width or high % width:
            return None
        cut = row_range(part, part.key, low // width, high // width)
        if cut is None:
            return None
        found.append(cut)
    return tuple(found)
