"""The nearest of many vectors, all against all, in blocked matrix products.

‖a − b‖² = ‖a‖² + ‖b‖² − 2a·b takes one product of matrices for all pairs of two blocks, and cancels
where a and b are near: the products are in single precision, good to some 1e-7 of the norms. So
vectors are taken relative to their mean, some more neighbours should be asked for than are needed,
and the distances of those found are computed anew from differences. Vectors nearer to each other
than some 1e-3 of their distance from the mean may be left out for others as near, and only these.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from megasim.interrupts import stop_if_asked
from megasim.progress import NO_PROGRESS, Progress

Singles = npt.NDArray[np.float32]
Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

# Vectors of a block: 2048 × 2048 squared distances are 17 MB.
_BLOCK = 2048


@dataclass(frozen=True)
class Neighbours:
    """For each of N vectors its K nearest others, nearest first.

    Attributes:
        places: (N, K) int64, which vectors they are; −1 where there are fewer.
        distances: (N, K) float64, inf where there are fewer.
    """

    places: Ints
    distances: Floats


def nearest_vectors(
    vectors: Singles, k: int, *, progress: Progress = NO_PROGRESS, what: str = "Nearest"
) -> Neighbours:
    """Return the k nearest others of each vector, (N, D) float32, which are changed: centred.

    Takes N²·D/2 multiplications; memory beside the vectors: 24·k bytes for each, and some blocks.

    >>> found = nearest_vectors(np.float32([[0, 0], [3, 0], [9, 0]]), 1)
    >>> found.places.tolist(), found.distances.tolist()
    ([[1], [0], [1]], [[3.0], [3.0], [6.0]])
    """
    count = len(vectors)
    mean = np.zeros(vectors.shape[1])
    for start in range(0, count, _BLOCK):
        mean += vectors[start : start + _BLOCK].sum(axis=0, dtype=np.float64)
    vectors -= (mean / max(count, 1)).astype(np.float32)
    squares = np.einsum("ij,ij->i", vectors, vectors)
    best = _Best(count, k)
    progress.start(what, count * (count + 1) // 2, "pairs")
    try:
        for i in range(0, count, _BLOCK):
            rows = slice(i, min(i + _BLOCK, count))
            doubled: Singles = np.multiply(vectors[rows], -2, dtype=np.float32)
            for j in range(i, count, _BLOCK):
                columns = slice(j, min(j + _BLOCK, count))
                near: Singles = doubled @ vectors[columns].T
                near += squares[rows, None]
                near += squares[None, columns]
                if i == j:
                    np.fill_diagonal(near, np.inf)
                best.take(near, i, j)
                if i != j:
                    best.take(near, j, i, turned=True)
                size = len(near)
                progress.advance(near.size if i != j else size * (size + 1) // 2)
                stop_if_asked()
    finally:
        progress.finish()
    return best.exact(vectors)


class _Best:
    """The nearest so far of each vector."""

    def __init__(self, count: int, k: int) -> None:
        self._values = np.full((count, k), np.inf, dtype=np.float32)
        self._places = np.full((count, k), -1, dtype=np.int32)

    def take(self, near: Singles, first: int, other: int, turned: bool = False) -> None:
        """Take in a block: its rows, or columns where it is turned, are vectors from `first` on."""
        size = near.shape[1 if turned else 0]
        values = self._values[first : first + size]
        places = self._places[first : first + size]
        k = values.shape[1]
        limits = values.max(axis=1)
        if np.isinf(limits).any() and near.shape[0 if turned else 1] > k:
            # nothing is known of them: no more than k of the block are worth sorting
            kth = np.partition(near, k - 1, axis=0 if turned else 1)
            kth = kth[k - 1] if turned else kth[:, k - 1]
            limits = np.minimum(limits, np.nextafter(kth, np.float32(np.inf)))
        row, column = np.nonzero(near < (limits if turned else limits[:, None]))
        if not len(row):
            return
        found = near[row, column]
        row, column = (column, row) if turned else (row, column)
        order = np.lexsort((found, row))
        row, column, found = row[order], column[order], found[order]
        rank = np.arange(len(row)) - np.searchsorted(row, row, side="left")
        keep = rank < k
        row, column, found, rank = row[keep], column[keep], found[keep], rank[keep]
        changed, at = np.unique(row, return_inverse=True)
        both = np.full((len(changed), 2 * k), np.inf, dtype=np.float32)
        where = np.full((len(changed), 2 * k), -1, dtype=np.int32)
        both[:, :k], where[:, :k] = values[changed], places[changed]
        both[at, k + rank], where[at, k + rank] = found, column + other
        chosen = np.argpartition(both, k - 1, axis=1)[:, :k]
        values[changed] = np.take_along_axis(both, chosen, axis=1)
        places[changed] = np.take_along_axis(where, chosen, axis=1)

    def exact(self, vectors: Singles) -> Neighbours:
        """Return the distances anew from differences, nearest first."""
        count, k = self._places.shape
        distances = np.full((count, k), np.inf)
        places = self._places.astype(np.int64)
        for i in range(count):
            there = places[i] >= 0
            apart = (vectors[places[i][there]] - vectors[i]).astype(np.float64)
            distances[i, there] = np.sqrt(np.einsum("ij,ij->i", apart, apart))
        # of equally near ones the first
        order = np.lexsort((places, distances), axis=1)
        return Neighbours(
            np.take_along_axis(places, order, axis=1), np.take_along_axis(distances, order, axis=1)
        )
