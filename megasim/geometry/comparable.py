"""Which models of a matrix can be put on one map: those measured over the same keys."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from megasim.matrix.distance_matrix import DistanceMatrix
from megasim.wording.sentences import listed

# Pairs that cover less of a component than this are of other shapes: of another architecture.
SAME_KEYS = 0.98
_NAMED = 6


def partly_covered(matrix: DistanceMatrix) -> npt.NDArray[np.bool_]:
    """Return the pairs, (N, N), whose models hold other keys or shapes, or none in common.

    Published values do not say what they cover, and count as covering all.
    """
    partial = matrix.coverage < SAME_KEYS
    np.fill_diagonal(partial, False)
    return np.asarray(partial)


def over_the_same_keys(matrix: DistanceMatrix) -> DistanceMatrix:
    """Return the matrix without the values of pairs that are `partly_covered`.

    What such a pair lacks would bend a map.
    """
    return replace(matrix, values=np.where(partly_covered(matrix), np.nan, matrix.values))


def one_architecture(matrix: DistanceMatrix) -> tuple[DistanceMatrix, tuple[str, ...]]:
    """Return the models of one architecture, as many as a greedy choice finds, and the others.

    A pair that was not compared leaves nobody out. The matrix is returned as it is where fewer
    than two models are left, or where no pair is `partly_covered`.
    """
    partial = partly_covered(matrix)
    if not partial.any():
        return matrix, ()
    marked = replace(matrix, values=np.where(partial, np.nan, 0.0))
    kept = set(marked.largest_complete().models)
    if len(kept) < 2:
        return matrix, ()
    others = tuple(name for name in matrix.models if name not in kept)
    return matrix.subset([name for name in matrix.models if name in kept]), others


def left_out_sentence(left_out: Sequence[str], of: int) -> str:
    """Return who is not on a map, and why.

    >>> left_out_sentence(["sd2"], 5)
    'Left out: 1 of 5 models (sd2), which shares less than 98 % of its keys with the others, as \
another architecture does.'
    """
    one = len(left_out) == 1
    words = ("shares", "its", "does") if one else ("share", "their", "do")
    another = "another architecture" if one else "other architectures"
    return (
        f"Left out: {len(left_out)} of {of} models ({listed(left_out, _NAMED, 60)}), which "
        f"{words[0]} less than {100 * SAME_KEYS:.0f} % of {words[1]} keys with the others, as "
        f"{another} {words[2]}."
    )
