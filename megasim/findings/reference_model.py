"""The model that others are best compared with: the one nearest to all of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence

import numpy as np
import numpy.typing as npt

from megasim.errors import NoAnswerError
from megasim.matrix.distance_matrix import DistanceMatrix
from megasim.store.rows import Pair, Store


def central_model(
    store: Store,
    components: Iterable[str],
    pairs: Sequence[Pair],
    matrix: Callable[[str], DistanceMatrix],
) -> str:
    """Return the `reference_model` of the first component that has one.

    Without one, the model of most pairs, or "" where there is no pair.

    Args:
        components: their names, the most important first.
        pairs: ids of models, of which anything is known.
        matrix: returns the distances of a component among the models in question.
    """
    for component in (*components, "all"):
        try:
            return reference_model(matrix(component))
        except NoAnswerError:
            continue
    names = {i: name for name, i in store.model_ids().items()}
    most = Counter(i for pair in pairs for i in pair).most_common(1)
    return names[most[0][0]] if most else ""


def reference_model(matrix: DistanceMatrix) -> str:
    """Return the model that others are best compared with.

    Of the models of which most pairs are known by layer, it is the one with the least median
    distance to the others.

    Raises:
        NoAnswerError: no pair is known by layer.
    """
    known = known_by_layer(matrix)
    if not known.any():
        raise NoAnswerError("no pair is known layer by layer", "run `megasim compare`")
    counts = known.sum(axis=1)
    best = np.flatnonzero(counts == counts.max())
    medians = [float(np.median(matrix.values[i][known[i]])) for i in best]
    return matrix.models[int(best[int(np.argmin(medians))])]


def known_by_layer(matrix: DistanceMatrix) -> npt.NDArray[np.bool_]:
    """Return the pairs whose layers are known, as (N, N) bool."""
    by_layer = np.isin(matrix.sources, ("exact", "imported")) & (matrix.keys_compared > 0)
    return by_layer & ~np.isnan(matrix.values)
