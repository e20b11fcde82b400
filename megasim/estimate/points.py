"""Distances of a component from the sketches alone: every pair and layer on the same numbers.

The sketch is one fixed linear map for each layer, so the distances between sketches are those of
points: a weighted sum of models is the same sum of their sketches. Answers that combine distances
(recipes, directions) therefore take all of them from here, or none.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from megasim.estimate.pairs import Floats, KeyContents, read_key_contents
from megasim.kernels import loops
from megasim.matrix.distance_matrix import DistanceMatrix, LayerMatrices
from megasim.progress import NO_PROGRESS, Progress
from megasim.store.matrices import holders, member_names, require_component
from megasim.store.rows import Store

# Layers of a component by which the models nearest to one are chosen among many.
_SAMPLED = 96


def sketched_distances(
    store: Store,
    component: str,
    *,
    models: Sequence[str] | None = None,
    with_layers: bool = True,
    progress: Progress = NO_PROGRESS,
) -> tuple[DistanceMatrix, LayerMatrices | None]:
    """Return the L2 distances between the sketches of a component, as a whole and by layer.

    Nothing is read but the store, and nothing saved. All distances are marked as estimated, also
    of pairs that were compared. Time grows with the square of the models for each key; memory is
    8·K·N² bytes with layers, 24·N² without.

    Args:
        models: their names, in the order wanted; by default all that hold the component.

    Raises:
        UsageError: an unknown model.
        NoAnswerError: no model, or one of those named, does not hold the component.
    """
    members = member_names(store, component)
    ids = holders(store, component, members, models)
    n = len(ids)
    squared, variance = np.zeros((n, n)), np.zeros((n, n))
    common, either = np.zeros((n, n), dtype=np.int64), np.zeros((n, n), dtype=np.int64)
    layers: dict[str, Floats] = {}
    for _, key in read_key_contents(store, list(ids.values()), members, progress=progress):
        if not key.measured.any():
            continue
        d2 = _squared_distances(key)
        if with_layers:
            layers[key.key] = np.sqrt(d2)
        here = key.place >= 0
        either += here[:, None] | here
        known = np.isfinite(d2)
        common += known
        if not known.all():
            d2[~known] = 0.0
        squared += d2
        if key.relative_variance.any():
            np.square(d2, out=d2)
            # of two contents of one shape it is the same; a key that is lacking adds nothing
            d2 *= key.relative_variance[key.place][:, None]
            variance += d2
    none = common == 0
    l2 = np.where(none, np.nan, np.sqrt(squared))
    error = np.divide(np.sqrt(variance), 2 * l2, out=np.zeros((n, n)), where=l2 > 0)
    apart = ~np.eye(n, dtype=bool)
    np.fill_diagonal(l2, 0.0)
    matrix = DistanceMatrix(
        models=tuple(ids),
        values=l2,
        component=component,
        metric="l2",
        sources=np.where(apart & ~none, "estimated", "").astype("U9"),
        errors=np.where(none & apart, np.nan, error),
        keys_compared=np.where(apart, common, 0),
        coverage=np.where(none & apart, np.nan, common / np.maximum(either, 1)),
    )
    if not layers:
        return matrix, None
    of_key = store.frame("key_anatomy", tables={"batch": {"component": members}})
    of_key = of_key.set_index("canonical_key")
    named = of_key.loc[list(layers)]
    return matrix, LayerMatrices(
        models=tuple(ids),
        component=component,
        metric="l2",
        keys=tuple(layers),
        blocks=tuple(named["block"].fillna("")),
        roles=tuple(named["role"].fillna("")),
        numels=named["numel"].to_numpy(dtype=np.int64),
        values=np.stack(list(layers.values())),
    )


def nearest_by_sketch(
    store: Store, component: str, model: str, k: int, *, progress: Progress = NO_PROGRESS
) -> list[str]:
    """Return the k models nearest to one by the sketches of some layers, nearest first.

    At most `_SAMPLED` layers are looked at, spread evenly over the component: who is near is
    known long before how near.

    Raises:
        UsageError, NoAnswerError: as `sketched_distances`.
    """
    members = member_names(store, component)
    require_component(store, component, [model])
    ids = holders(store, component, members, None)
    at = list(ids).index(model)
    squared, common = np.zeros(len(ids)), np.zeros(len(ids))
    found = read_key_contents(store, list(ids.values()), members, most=_SAMPLED, progress=progress)
    for _, key in found:
        own = key.place[at]
        if own < 0 or not (key.finite[own] and key.measured[own]):
            continue
        d2 = np.square(key.sketches - key.sketches[own]).sum(axis=1, dtype=np.float64)
        usable = key.finite & key.measured & (key.codes[:, 0] == key.codes[own, 0])
        alike = (key.place >= 0) & usable[key.place]
        squared += np.where(alike, d2[key.place], 0.0)
        common += alike
    mean = np.divide(squared, common, out=np.full(len(ids), np.inf), where=common > 0)
    mean[at] = np.inf
    names = list(ids)
    near = [i for i in np.argsort(mean, kind="stable").tolist() if np.isfinite(mean[i])]
    return [names[i] for i in near[:k]]


def _squared_distances(key: KeyContents) -> Floats:
    """Return (N, N) squared distances; NaN where the key is not in both, or cannot be compared."""
    usable = key.finite & key.measured
    d2 = np.empty((len(usable), len(usable)))
    loops.squared_differences(key.sketches, usable, d2)
    shapes, values = key.codes[:, 0], key.codes[:, 1]
    if len(np.unique(values)) < len(values):
        d2[(values[:, None] == values) & ~np.isnan(d2)] = 0.0
    if (shapes != shapes[0]).any():
        d2[shapes[:, None] != shapes] = np.nan
    if np.array_equal(key.place, np.arange(len(d2))):
        return d2
    wide = np.full((len(d2) + 1, len(d2) + 1), np.nan)
    wide[:-1, :-1] = d2
    return wide[np.ix_(key.place, key.place)]
