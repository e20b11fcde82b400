"""Elements that do not lie one after another: gathered out of a file in small pieces."""

from __future__ import annotations

import math
from collections.abc import Sequence
from io import RawIOBase

import numpy as np

from megasim.checkpoint.byte_source import read_into
from megasim.checkpoint.dtypes import STORAGE_DTYPES, AnyArray
from megasim.checkpoint.tensor_refs import TensorRef

# Strided elements are gathered out of pieces of this many bytes, which stay in a core's cache.
PIECE = 1 << 18
# Up to this many unneeded bytes are read along: a read of its own would cost more.
_GAP = 1 << 13


def is_scattered(ref: TensorRef) -> bool:
    """Whether elements that follow each other lie all over the tensor, as in a transpose."""
    strides = [s for n, s in zip(ref.shape, ref.strides or (), strict=True) if n > 1]
    return strides[:1] < [max(strides, default=0)]


class StridedElements:
    """Reads a strided tensor by ranges of its row-major order."""

    def __init__(self, file: RawIOBase, ref: TensorRef, piece: memoryview) -> None:
        assert ref.strides is not None
        itemsize = STORAGE_DTYPES[ref.dtype].itemsize
        self._file = file
        self._ref = ref
        self._strides = tuple(stride * itemsize for stride in ref.strides)
        self._piece = piece

    def read(self, start: int, stop: int, out: AnyArray) -> None:
        """Fill `out`, of one dimension, with elements `start` to `stop`."""
        self._range(0, self._ref.offset, start, stop, out)

    def _range(self, level: int, offset: int, start: int, stop: int, out: AnyArray) -> None:
        """Split a range of the dimensions from `level` on into boxes: head, whole rows, tail."""
        shape, strides = self._ref.shape[level:], self._strides[level:]
        row = math.prod(shape[1:])
        first, last = -(-start // row), stop // row  # the whole rows of the range
        if first > last:  # the range lies within one row
            offset += last * strides[0]
            self._range(level + 1, offset, start - last * row, stop - last * row, out)
            return
        head, tail = first * row - start, stop - last * row
        if head:
            before = offset + (first - 1) * strides[0]
            self._range(level + 1, before, row - head, row, out[:head])
        if last > first:
            whole = out[head : len(out) - tail].reshape(last - first, *shape[1:])
            order = sorted(range(len(shape)), key=lambda i: -strides[i])  # as it lies in the file
            lying = [strides[i] for i in order]
            self._box(offset + first * strides[0], lying, whole.transpose(order))
        if tail:
            self._range(level + 1, offset + last * strides[0], 0, tail, out[len(out) - tail :])

    def _box(self, offset: int, strides: Sequence[int], out: AnyArray) -> None:
        """Fill `out` with elements that lie at `strides`, in bytes, the largest first."""
        step, inner = strides[0], strides[1:]
        run = out.itemsize + sum((n - 1) * s for n, s in zip(out.shape[1:], inner, strict=True))
        if run > PIECE and inner:
            for i in range(len(out)):
                self._box(offset + i * step, inner, out[i])
            return
        pitch = step if step - run <= _GAP else run  # bytes from row to row in the piece
        count = max(1, (PIECE - run) // max(pitch, 1) + 1)
        for i in range(0, len(out), count):
            target = out[i : i + count]
            size = (len(target) - 1) * pitch + run
            ends = [size] if pitch == step else range(run, size + 1, run)
            begin = 0
            for row, end in enumerate(ends):
                self._read_run(offset + (i + row) * step, self._piece[begin:end])
                begin = end
            target[...] = np.ndarray(target.shape, out.dtype, self._piece, 0, (pitch, *inner))

    def _read_run(self, offset: int, target: memoryview) -> None:
        read_into(self._file, offset, target, self._ref.path, self._ref.key)
