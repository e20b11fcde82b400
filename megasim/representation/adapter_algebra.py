"""Norms, distances, products and ranks of the changes that adapters make."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np

from megasim.representation.adapter_changes import (
    Change,
    Doubles,
    LowRankChange,
    StackedChange,
    WholeChange,
    check_fit,
    row_blocks,
)

# Singular values below this share of the largest count as none: what is left of them in float32.
RANK_TOLERANCE = 1e-6
# A change of no factors is decomposed as a whole, to find its rank, up to this many elements.
_LARGEST_DECOMPOSED = 1 << 22


def norm_of(change: Change) -> float:
    """Return the Frobenius norm of a change.

    >>> norm_of(LowRankChange(np.array([[3.0], [4.0]]), np.array([[1.0, 0.0]])))
    5.0
    """
    if isinstance(change, LowRankChange):
        return float(np.linalg.norm(change.core))
    return math.sqrt(sum(float((b**2).sum()) for b in _blocks(change)))


def distance_of(a: Change, b: Change) -> float:
    """Return ‖a − b‖ of two changes of one shape.

    Of two of low rank, from the QR decomposition of [U_a U_b] and of [D_a; −D_b], which does not
    cancel where a and b are nearly equal.

    >>> one = LowRankChange(np.array([[2.0], [0.0]]), np.array([[1.0, 0.0]]))
    >>> half = LowRankChange(np.array([[1.0], [0.0]]), np.array([[2.0, 0.0]]))
    >>> distance_of(one, half)
    0.0
    """
    check_fit((a.rows, a.columns) == (b.rows, b.columns), "two changes")
    if isinstance(a, LowRankChange) and isinstance(b, LowRankChange):
        up, down = np.hstack([a.up, b.up]), np.vstack([a.down, -b.down])
        if up.shape[1] <= min(up.shape[0], down.shape[1]):
            return float(np.linalg.norm(LowRankChange(up, down).core))
    total = 0.0
    for start, stop in row_blocks(a.rows, a.columns):
        total += float(((a.block(start, stop) - b.block(start, stop)) ** 2).sum())
    return math.sqrt(total)


def product_of(a: Change, b: Change) -> float:
    """Return the inner product of two changes of one shape: the sum over all elements of a · b."""
    check_fit((a.rows, a.columns) == (b.rows, b.columns), "two changes")
    if isinstance(a, LowRankChange) and isinstance(b, LowRankChange):
        return float(((a.up.T @ b.up) * (a.down @ b.down.T)).sum())
    return sum(
        float((a.block(start, stop) * b.block(start, stop)).sum())
        for start, stop in row_blocks(a.rows, a.columns)
    )


def rank_of(change: Change) -> int | None:
    """Return how many singular values of a change are above a millionth of the largest.

    None for a change of no factors that is too large to be decomposed.

    >>> rank_of(LowRankChange(np.array([[1.0, 2.0], [0.0, 0.0]]), np.eye(2, 3)))
    1
    """
    if isinstance(change, LowRankChange):
        values = np.linalg.svd(change.core, compute_uv=False)
    elif change.rows * change.columns <= _LARGEST_DECOMPOSED:
        whole = change.block(0, change.rows)
        gram = whole @ whole.T if change.rows <= change.columns else whole.T @ whole
        values = np.sqrt(np.maximum(np.linalg.eigvalsh(gram), 0))
    else:
        return None
    largest = float(values.max(initial=0))
    return int((values > RANK_TOLERANCE * largest).sum()) if largest > 0 else 0


def _blocks(change: Change) -> Iterator[Doubles]:
    for start, stop in row_blocks(change.rows, change.columns):
        yield change.block(start, stop)


def stacked(parts: Sequence[Change | None], sizes: Sequence[int], columns: int) -> Change:
    """Return changes of parts of a weight as one. Of low-rank parts, a change of low rank."""
    if len(parts) == 1 and parts[0] is not None:
        return parts[0]
    lows = [part for part in parts if isinstance(part, LowRankChange)]
    rank = sum(part.up.shape[1] for part in lows)
    if len(lows) == sum(part is not None for part in parts) and rank <= min(sum(sizes), columns):
        up = np.zeros((sum(sizes), rank))
        row = column = 0
        for part, size in zip(parts, sizes, strict=True):
            if isinstance(part, LowRankChange):
                width = part.up.shape[1]
                up[row : row + size, column : column + width] = part.up
                column += width
            row += size
        return LowRankChange(up, np.vstack([part.down for part in lows]))
    return StackedChange(tuple(parts), tuple(sizes), columns)


def transposed(change: Change) -> Change:
    """Return the transpose of a change of a matrix."""
    if isinstance(change, LowRankChange):
        return LowRankChange(change.down.T, change.up.T)
    return WholeChange(np.ascontiguousarray(np.vstack(list(_blocks(change))).T))


def rows_of_change(change: Change, start: int, stop: int) -> Change:
    """Return rows `start` to `stop` of a change as a change of their own."""
    if isinstance(change, LowRankChange):
        return LowRankChange(change.up[start:stop], change.down)
    return WholeChange(change.block(start, stop))


def with_swapped_halves(change: Change) -> Change:
    """Return a change whose second half of rows stands before the first.

    >>> turned = with_swapped_halves(LowRankChange(np.array([[1.0], [2.0]]), np.ones((1, 3))))
    >>> turned.block(0, 1).tolist()
    [[2.0, 2.0, 2.0]]
    """
    middle = change.rows // 2
    if isinstance(change, LowRankChange):
        return LowRankChange(np.roll(change.up, -middle, axis=0), change.down)
    whole = change.block(0, change.rows)
    return WholeChange(np.roll(whole, -middle, axis=0))
