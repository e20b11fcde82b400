"""The models nearest to one, component by component, out of the store alone."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from megasim.estimate.pairs import estimate_distances, read_key_contents, save_estimates
from megasim.progress import NO_PROGRESS, Progress
from megasim.store.matrices import component_names, load_distances_of, load_matrix
from megasim.store.rows import Pair, Store

COLUMNS = ("component", "model", "l2", "error", "source", "keys_compared", "coverage")
_COLUMNS_OF_PAIR = ("model_id", "value", "error", "source", "keys_compared", "coverage")


def nearest_models(
    store: Store,
    model: str,
    components: Sequence[str] | None = None,
    *,
    k: int = 5,
    progress: Progress = NO_PROGRESS,
) -> pd.DataFrame:
    """Return the k models nearest to `model` for each component, nearest first.

    Exact distances are used where they are known, estimates elsewhere; none of these is kept. A
    model that has nothing to compare is left out, so fewer than k may come back.

    Args:
        components: all that the model holds when None.

    Returns:
        A frame with `COLUMNS`; `error` is the standard error, 0 where exact.
    """
    model_id = store.require_model(model)
    names = {i: name for name, i in store.model_ids().items()}
    rows: list[tuple[object, ...]] = []
    for component in components or component_names(store, model):
        with store.unsaved():
            save_estimates(store, [component], of=model_id, progress=progress)
            found = load_distances_of(store, component, model)
        near = list(zip(*(found[column].tolist() for column in _COLUMNS_OF_PAIR), strict=True))
        near.sort(key=lambda pair: (pair[1], names[pair[0]]))
        rows += [(component, names[other], *rest) for other, *rest in near[:k]]
    return pd.DataFrame(rows, columns=list(COLUMNS))


def nearest_to_outsider(
    store: Store,
    outsider: int,
    components: Sequence[str] | None = None,
    *,
    k: int = 5,
    progress: Progress = NO_PROGRESS,
) -> pd.DataFrame:
    """Return the same for a model that is only being looked at (`Store.looking_at`).

    All distances are estimates, and nothing is saved.
    """
    models = [m for m in store.models() if m.source != "imported"]
    ids = [m.id for m in models]
    names = {m.id: m.name for m in models}
    wanted = list(components or component_names(store, names[outsider]))
    keys = read_key_contents(store, ids, wanted, progress=progress)
    frame = estimate_distances(ids, [ids.index(outsider)], keys).to_frame()
    if frame.empty:
        return pd.DataFrame(columns=list(COLUMNS))
    frame = frame[frame["keys_compared"] > 0]
    outside = frame[["missing_a", "missing_b", "shape_mismatch", "non_finite"]].sum(axis=1)
    other = np.where(frame["model_a"] == outsider, frame["model_b"], frame["model_a"])
    found = pd.DataFrame(
        {
            "component": frame["component"],
            "model": [names[i] for i in other],
            "l2": frame["l2"].astype("float64"),
            "error": frame["l2_error"].astype("float64"),
            "source": "estimated",
            "keys_compared": frame["keys_compared"],
            "coverage": frame["keys_compared"] / (frame["keys_compared"] + outside),
        }
    )
    order = {component: i for i, component in enumerate(wanted)}
    found = found.sort_values(
        ["component", "l2", "model"],
        key=lambda column: column.map(order) if column.name == "component" else column,
    )
    return found.groupby("component", sort=False).head(k).reset_index(drop=True)


def nearest_pairs(
    store: Store, component: str, k: int, *, progress: Progress = NO_PROGRESS
) -> list[Pair]:
    """Return the pairs of each model with its k nearest, by exact distance or estimate.

    Models that have files only; ids, smaller first.
    """
    with store.unsaved():
        save_estimates(store, [component], progress=progress)
        matrix = load_matrix(store, component)
    ids = {m.name: m.id for m in store.models() if m.source == "checkpoint"}
    keep = [i for i, name in enumerate(matrix.models) if name in ids]
    values = matrix.values[np.ix_(keep, keep)].copy()
    np.fill_diagonal(values, np.nan)
    order = np.argsort(np.where(np.isnan(values), np.inf, values), axis=1, kind="stable")[:, :k]
    pairs: set[Pair] = set()
    for i, near in enumerate(order):
        for j in near:
            if not np.isnan(values[i, j]):
                a, b = ids[matrix.models[keep[i]]], ids[matrix.models[keep[int(j)]]]
                pairs.add((min(a, b), max(a, b)))
    return sorted(pairs)
