"""Candidates among very many vectors by an index of faiss, where that library is installed.

The blocked products of `neighbours` look at all N²/2 pairs. An index of inverted lists sorts the
vectors into cells about centroids, and looks only into the cells that are nearest to each vector:
less work from some thousands of vectors on, and most of it where models come in families. What
lies in a cell that was not looked into is missed, so a few candidates may differ from those of the
products; on simulated families none of the true ten nearest did.
"""

from __future__ import annotations

from importlib.util import find_spec

import numpy as np
import numpy.typing as npt

from megasim.interrupts import stop_if_asked
from megasim.progress import NO_PROGRESS, Progress

Singles = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]

# Of fewer, the products take no longer than to find the centroids.
FEW_VECTORS = 5_000
# Cells for N vectors: this times √N; of them a share is looked into, and so many at least.
_CELLS = 4
_SHARE = 1 / 64
_LEAST_CELLS = 8
# To find centroids: vectors a cell, and rounds of k-means. More moves the cells, not what is found.
_SAMPLES = 40
_ROUNDS = 8
_ASKED_AT_ONCE = 4096
# Vectors so many times as long as the median one are of another scale.
_OTHER_SCALE = 100
# The largest number that half precision holds is 65,504.
_MOST = 60_000.0


def pays_to_index(count: int) -> bool:
    """Whether an index finds the candidates of so many vectors sooner, and faiss is there."""
    return count >= FEW_VECTORS and find_spec("faiss") is not None


def indexed_candidates(
    vectors: Singles, k: int, *, progress: Progress = NO_PROGRESS, what: str = "Nearest"
) -> Ints:
    """Return the places of k of the nearest others of each vector, (N, k), the nearest first.

    The index holds the vectors in half precision: 2·N·D bytes beside them.

    Args:
        vectors: (N, D) float32, which are changed: centred, as half precision is relative.
        k: 1 to N − 1.
    """
    import faiss

    count, dimensions = vectors.shape
    _centre(vectors)
    cells = max(min(int(_CELLS * count**0.5), count // _SAMPLES), 1)
    index = faiss.IndexIVFScalarQuantizer(
        faiss.IndexFlatL2(dimensions), dimensions, cells, faiss.ScalarQuantizer.QT_fp16
    )
    index.by_residual = False  # what is kept is the vector, whatever its cell
    index.cp.niter, index.cp.max_points_per_centroid = _ROUNDS, _SAMPLES
    threads = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)  # the same centroids, however many cores there are
    try:
        index.train(vectors)
    finally:
        faiss.omp_set_num_threads(threads)
    for start in range(0, count, _ASKED_AT_ONCE):
        index.add(vectors[start : start + _ASKED_AT_ONCE])
        stop_if_asked()
    found = np.full((count, k), -1, dtype=np.int64)
    progress.start(what, count, "models")
    try:
        for start in range(0, count, _ASKED_AT_ONCE):
            rows = np.arange(start, min(start + _ASKED_AT_ONCE, count))
            index.nprobe = min(max(_LEAST_CELLS, int(cells * _SHARE)), cells)
            while len(rows):  # those whose cells hold fewer than k look into more
                _, near = index.search(vectors[rows], k + 1)
                found[rows] = _without_themselves(near, rows)
                rows = rows[(found[rows] < 0).any(axis=1)] if index.nprobe < cells else rows[:0]
                index.nprobe = min(4 * index.nprobe, cells)
            progress.advance(min(_ASKED_AT_ONCE, count - start))
            stop_if_asked()
    finally:
        progress.finish()
    return found


def _centre(vectors: Singles) -> None:
    """Take the mean away, and bring what is left into the range of half precision.

    Vectors of another scale, as of codes without their scales, have no part in the mean: it would
    take the others to where half precision does not tell them apart.
    """
    lengths = np.sqrt(np.einsum("ij,ij->i", vectors, vectors, dtype=np.float64))
    usual = lengths <= _OTHER_SCALE * np.median(lengths)
    vectors -= vectors.mean(axis=0, dtype=np.float64, where=usual[:, None]).astype(np.float32)
    np.clip(vectors, -_MOST, _MOST, out=vectors)


def _without_themselves(near: Ints, rows: Ints) -> Ints:
    """Return (n, k) of (n, k + 1) places: without each one's own, or else without the last."""
    others = near != rows[:, None]
    others[others.all(axis=1), -1] = False
    return np.asarray(near[others].reshape(len(near), near.shape[1] - 1))
