"""Which models of a matrix can be put on one map: those measured over the same keys."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from megasim.errors import printable
from megasim.matrix.distance_matrix import DistanceMatrix, LayerMatrices
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


def at_originals(matrix: DistanceMatrix, copies: Mapping[str, str]) -> DistanceMatrix:
    """Return the matrix with quantised copies at distance 0 of what they are copies of.

    What rounding to codes adds is no step that anybody made: left in, each copy would stand far
    out, in a dimension of its own. A copy has the distances of its original instead. The matrix is
    returned as it is where no two other models would be left.

    >>> given = DistanceMatrix.from_values("abq", [[0, 1, 9], [1, 0, 9], [9, 9, 0]])
    >>> at_originals(given, {"q": "a"}).values.tolist()
    [[0.0, 1.0, 0.0], [1.0, 0.0, 1.0], [0.0, 1.0, 0.0]]
    """
    at = _places(matrix.models, copies)
    values = matrix.values[np.ix_(at, at)]
    return replace(matrix, values=values) if np.nansum(values) > 0 else matrix


def layers_at_originals(layers: LayerMatrices, copies: Mapping[str, str]) -> LayerMatrices:
    """Return the matrices of layers, the same done to them."""
    at = _places(layers.models, copies)
    return replace(layers, values=layers.values[:, at][:, :, at])


def _places(models: Sequence[str], copies: Mapping[str, str]) -> npt.NDArray[np.int64]:
    """Return for each model the place of it, or of what it is a copy of."""
    place = {name: i for i, name in enumerate(models)}
    return np.array([place.get(copies.get(name, name), i) for name, i in place.items()])


def quantised_sentence(copies: Mapping[str, str]) -> str:
    """Return which models stand where their originals do, and why.

    >>> quantised_sentence({"q8": "base", "q4": "base"})
    'Quantised copies stand where their originals do, since rounding alone tells them apart: q8, \
q4 with base.'
    """
    by_original: dict[str, list[str]] = {}
    for copy, original in copies.items():
        by_original.setdefault(original, []).append(copy)
    told = "; ".join(
        f"{listed(names, _NAMED, 60)} with {printable(original, 60)}"
        for original, names in by_original.items()
    )
    return (
        "Quantised copies stand where their originals do, since rounding alone tells them apart: "
        f"{told}."
    )
