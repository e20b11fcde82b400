"""Filling the gaps of a distance matrix, on request only."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from scipy.sparse.csgraph import connected_components, csgraph_from_dense, shortest_path

from megasim.geometry.embedding import squared_distances
from megasim.matrix.distance_matrix import DistanceMatrix

COMPLETED = "completed"  # the source of a value that was filled in


def complete_matrix(matrix: DistanceMatrix) -> DistanceMatrix:
    """Return the matrix with each gap filled by the shortest path of squared distances.

    That is the distance if the known steps between the two models stood at right angles: a
    guess that takes them for unrelated, so that no filled value is evidence of a direction.
    Filled values have the source "completed" and no error, since none is known. Models that no
    chain of values joins to the others cannot be placed: the largest group is kept, the first
    of equals.

    Args:
        matrix: values missing or not finite count as gaps.
    """
    squared = squared_distances(matrix)
    squared[~np.isfinite(squared)] = np.nan
    # explicit zeros of the sparse form are edges: identical models
    known = csgraph_from_dense(squared, null_value=np.nan)
    _, group = connected_components(known, directed=False)
    kept = np.flatnonzero(group == np.argmax(np.bincount(group)))
    if len(kept) < len(matrix.models):
        return complete_matrix(matrix.subset(matrix.models[i] for i in kept))
    gaps = np.isnan(squared)
    filled = np.where(gaps, shortest_path(known, directed=False), squared)
    values = 1.0 - filled / 2.0 if matrix.metric == "cossim" else np.sqrt(filled)
    values = np.where(gaps, (values + values.T) / 2.0, matrix.values)
    sources = np.where(gaps, COMPLETED, matrix.sources).astype("U9")
    return replace(matrix, values=values, sources=sources)
