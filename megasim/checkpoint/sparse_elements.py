"""Sparse tensors read as their dense values, a range at a time, without building them.

Source of the layouts: the docs of torch.sparse. Blocks (bsr, bsc) and dense dimensions behind the
sparse ones (hybrid tensors) are spread out; batches of matrices are not known here.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from megasim.checkpoint.dtypes import AnyArray

Positions = npt.NDArray[np.int64]


class SparseElements:
    """What a sparse tensor stores, sorted by its place among the dense elements.

    Takes memory for what is stored: 8 bytes an element and the element itself. Elements stored
    twice are added, as torch does.

    >>> SparseElements("coo", (2, 3), [np.array([[0, 1], [2, 0]])], np.array([5.0, 7.0])).read(
    ...     1, 6, np.empty(5)
    ... ).tolist()
    [0.0, 5.0, 7.0, 0.0, 0.0]
    """

    def __init__(
        self, layout: str, shape: Sequence[int], indices: Sequence[AnyArray], values: AnyArray
    ) -> None:
        """Raises ValueError where indices and values do not fit the shape.

        Args:
            layout: "coo", "csr", "csc", "bsr" or "bsc".
            shape: of the dense tensor.
            indices: coo: (sparse dimensions, stored) in one array; else the compressed indices,
                (rows or columns + 1,), and the plain ones, (stored,).
            values: (stored, …): blocks first, then dense dimensions.
        """
        if layout == "coo":
            positions = _coordinate(shape, indices[0], values)
        else:
            positions = _compressed(layout, shape, indices, values)
        flat = values.reshape(-1)
        if len(positions) > 1 and not (np.diff(positions) > 0).all():
            order = np.argsort(positions, kind="stable")
            positions, flat = positions[order], flat[order]
            first = np.flatnonzero(np.diff(positions, prepend=-1))
            if len(first) < len(positions):
                flat = np.add.reduceat(flat, first, dtype=flat.dtype)
                positions = positions[first]
        self._positions, self._values = positions, flat

    def transposed(self, rows: int, columns: int) -> SparseElements:
        """Return the transpose of a matrix of so many rows and columns."""
        row, column = np.divmod(self._positions, columns)
        positions = column * rows + row
        order = np.argsort(positions)
        turned = object.__new__(SparseElements)
        turned._positions, turned._values = positions[order], self._values[order]
        return turned

    def read(self, start: int, stop: int, out: AnyArray) -> AnyArray:
        """Fill `out` with the dense elements `start` to `stop`, and return it."""
        low, high = np.searchsorted(self._positions, (start, stop))
        out[:] = 0
        out[self._positions[low:high] - start] = self._values[low:high]
        return out


def _coordinate(shape: Sequence[int], index: AnyArray, values: AnyArray) -> Positions:
    dense = tuple(shape[len(index) :])
    if index.ndim != 2 or values.shape != (index.shape[1], *dense):
        raise ValueError("a sparse tensor whose indices and values do not match")
    position = np.zeros(index.shape[1], dtype=np.int64)
    for numbers, size in zip(index, shape, strict=False):
        position = position * size + _within(numbers, size)
    return _spread(position * math.prod(dense), np.arange(math.prod(dense), dtype=np.int64))


def _compressed(
    layout: str, shape: Sequence[int], indices: Sequence[AnyArray], values: AnyArray
) -> Positions:
    compressed, plain = indices
    by_rows, in_blocks = layout in ("csr", "bsr"), layout in ("bsr", "bsc")
    blocks = values.shape[1:3] if in_blocks else (1, 1)
    dense = tuple(shape[2:])
    if (
        len(shape) < 2
        or len(blocks) != 2
        or 0 in blocks
        or any(size % block for size, block in zip(shape, blocks, strict=False))
        or values.shape != (len(plain), *(blocks if in_blocks else ()), *dense)
    ):
        raise ValueError("a sparse tensor whose indices and values do not match")
    rows, columns = shape[0] // blocks[0], shape[1] // blocks[1]
    lines, across = (rows, columns) if by_rows else (columns, rows)
    ends = compressed.astype(np.int64, copy=False)
    counts: Positions = ends[1:] - ends[:-1]
    if (
        compressed.shape != (lines + 1,)
        or compressed[0] != 0
        or compressed[-1] != len(plain)
        or (counts < 0).any()
    ):
        raise ValueError("a sparse tensor whose compressed indices are damaged")
    line = np.repeat(np.arange(lines, dtype=np.int64), counts)
    other = _within(plain, across)
    row, column = (line, other) if by_rows else (other, line)
    width = math.prod(dense)
    corner = (row * blocks[0] * shape[1] + column * blocks[1]) * width
    inside = (
        np.arange(blocks[0], dtype=np.int64)[:, None] * shape[1]
        + np.arange(blocks[1], dtype=np.int64)
    ).reshape(-1) * width
    return _spread(corner, _spread(inside, np.arange(width, dtype=np.int64)))


def _within(numbers: AnyArray, size: int) -> Positions:
    if len(numbers) and not (int(numbers.min()) >= 0 and int(numbers.max()) < size):
        raise ValueError("a sparse tensor with an index beyond its shape")
    return numbers.astype(np.int64, copy=False)


def _spread(corners: Positions, inside: Positions) -> Positions:
    """Return every corner with everything inside of its block, as (corners * inside,)."""
    return corners if len(inside) == 1 else (corners[:, None] + inside).reshape(-1)
