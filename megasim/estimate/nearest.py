"""The models nearest to one, component by component, out of the store alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from megasim.errors import NoAnswerError, printable
from megasim.estimate.folded import folded_sets, nearest_folds, read_folds
from megasim.estimate.indexed_neighbours import indexed_candidates, pays_to_index
from megasim.estimate.neighbours import nearest_vectors
from megasim.estimate.pairs import estimate_distances, read_key_contents, save_estimates
from megasim.progress import NO_PROGRESS, Progress
from megasim.store.matrices import (
    component_names,
    load_distances_of,
    load_matrix,
    member_names,
)
from megasim.store.roundings import quantised_of
from megasim.store.rows import Pair, Store
from megasim.words import Tier

# Of more models folded sketches find the nearest: all pairs, or all sketches of one, take too long.
FEW_MODELS = 2000
# Numbers of sketches that are subtracted at a time.
_NUMBERS_AT_ONCE = 1 << 22

COLUMNS = (
    *("component", "model", "l2", "error", "source", "keys_compared", "coverage"),
    "quantised",
)
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

    Exact distances are used where they are known, estimates elsewhere; none of these is kept. Equal
    models come first; then those of which compare has proved that one is the other, its values
    rounded to codes, whatever distance the rounding makes; then all others. A
    model that has nothing to compare is left out, so fewer than k may come back. Of more than
    `FEW_MODELS`, those are estimated whose folded sketches are nearest: models that hold the same
    keys in the same shapes.

    Args:
        components: all that the model holds when None.

    Returns:
        A frame with `COLUMNS`; `error` is the standard error, 0 where exact; `quantised` is the
        scheme of the one that is the other quantised, else "". Its `attrs` have under
        "passed_over" how many models of each component were not looked at, if any were not.
    """
    store.require_model(model)
    (held,) = store.models([model])
    if held.tier == Tier.HEADER:
        raise NoAnswerError(
            f"{printable(model)} was read as a header: its values are not known",
            "run `megasim ingest` on its file without --header",
        )
    rows: list[tuple[object, ...]] = []
    passed_over: dict[str, int] = {}
    for component in components or component_names(store, model):
        sought = candidates_of(store, held.id, component, k, progress=progress)
        among = None if sought is None else sought.ids
        if sought is not None and sought.passed_over:
            passed_over[component] = sought.passed_over
        with store.unsaved():
            save_estimates(store, [component], of=held.id, among=among, progress=progress)
            found = load_distances_of(store, component, model, among)
        near = list(zip(*(found[column].tolist() for column in _COLUMNS_OF_PAIR), strict=True))
        copies = quantised_of(store, held.id, [pair[0] for pair in near], component)
        names = store.names_of(pair[0] for pair in near)
        near.sort(key=lambda pair: _order(pair, names[pair[0]], pair[0] in copies))
        rows += [
            (component, names[other], *rest, " + ".join(copies.get(other, ())))
            for other, *rest in near[:k]
        ]
    if not rows and held.tier == Tier.SAMPLE:
        raise NoAnswerError(
            f"{printable(model)} was read as a sample, of which there are no sketches",
            "run `megasim compare`, which compares samples",
        )
    frame = pd.DataFrame(rows, columns=list(COLUMNS))
    if passed_over:
        frame.attrs["passed_over"] = passed_over
    return frame


def _order(pair: tuple[Any, ...], name: str, is_copy: bool) -> tuple[bool, bool, float, str]:
    """Return the place of a model among those near to another: id, value and so on, and name."""
    distance = pair[1]
    return distance > 0, not is_copy, distance, name


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
            "quantised": "",
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

    Models that have files only; ids, smaller first. Of more than `FEW_MODELS` see
    `folded_pairs`.
    """
    if _holders(store, member_names(store, component)) > FEW_MODELS:
        return folded_pairs(store, component, k, progress=progress)
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


@dataclass(frozen=True)
class NearestCandidates:
    """A model, and those among which its nearest are sought, by their ids.

    Attributes:
        passed_over: how many models hold the component under other keys, or in other shapes; folds
            tell nothing of these.
    """

    ids: frozenset[int]
    passed_over: int


def candidates_of(
    store: Store, model_id: int, component: str, k: int, *, progress: Progress = NO_PROGRESS
) -> NearestCandidates | None:
    """Return the models among which the k nearest of one are sought; None for all models."""
    members = member_names(store, component)
    count = _holders(store, members)
    if count <= FEW_MODELS:
        return None
    nearest, seen = nearest_folds(store, model_id, members, _candidates(k), progress=progress)
    return NearestCandidates(frozenset([model_id, *nearest.tolist()]), count - 1 - seen)


def folded_pairs(
    store: Store, component: str, k: int, *, progress: Progress = NO_PROGRESS
) -> list[Pair]:
    """Return the pairs of each model with its k nearest among those of the same keys and shapes.

    Folded sketches find some more than k, in blocked products of matrices, or among very many by
    an index of faiss; the sketches of the keys, whose error is smaller, choose k among them. Models
    that have files only.
    """
    members = member_names(store, component)
    files = {m.id for m in store.models() if m.source == "checkpoint"}
    pairs: set[Pair] = set()
    for group in folded_sets(store, members):
        ids = group.ids[[int(i) in files for i in group.ids]]
        if len(ids) < 2:
            continue
        folds = read_folds(store, members, ids)
        many = min(_candidates(k), len(ids) - 1)
        what = "Finding candidates"
        if pays_to_index(len(folds)):
            near = indexed_candidates(folds, many, progress=progress, what=what)
        else:
            near = nearest_vectors(folds, many, progress=progress, what=what).places
        del folds
        rows = np.repeat(np.arange(len(ids)), many)
        squared = _squared_by_sketches(store, members, ids, rows, near.ravel(), progress)
        order = np.argsort(squared.reshape(near.shape), axis=1, kind="stable")[:, :k]
        chosen = np.take_along_axis(near, order, axis=1)
        for a, others in zip(ids.tolist(), ids[chosen].tolist(), strict=True):
            pairs.update((min(a, b), max(a, b)) for b in others)
    return sorted(pairs)


def _squared_by_sketches(
    store: Store,
    components: Sequence[str],
    ids: npt.NDArray[np.int64],
    rows: npt.NDArray[np.int64],
    others: npt.NDArray[np.int64],
    progress: Progress,
) -> npt.NDArray[np.float64]:
    """Return (P,) squared distances of pairs of models, by their places in `ids`.

    A key of which either side has NaN or inf adds nothing.
    """
    squared = np.zeros(len(rows))
    for _, key in read_key_contents(store, ids.tolist(), components, progress=progress):
        usable = np.append(key.finite & key.measured, False)  # the last is for those without it
        width = max(1, _NUMBERS_AT_ONCE // key.sketches.shape[1])
        for start in range(0, len(rows), width):
            some = slice(start, start + width)
            a, b = key.place[rows[some]], key.place[others[some]]
            apart = key.sketches[a] - key.sketches[b]
            d2 = np.einsum("ij,ij->i", apart, apart, dtype=np.float64)
            squared[some] += np.where(usable[a] & usable[b], d2, 0.0)
    return squared


def _holders(store: Store, components: Sequence[str]) -> int:
    ((count,),) = store.rows("holder_count", components=list(components))
    return int(count)


def _candidates(k: int) -> int:
    """Return how many models folded sketches choose, for sketches to choose k among them."""
    return max(4 * k, k + 20)
