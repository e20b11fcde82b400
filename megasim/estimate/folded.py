"""Folded sketches out of the store: those still missing, and the distances that they give."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from megasim.estimate.mapped_folds import Keys, MappedFolds, candidates
from megasim.fingerprint.folded import FOLD_VERSION, LENGTH, fold_sketches, key_set_of
from megasim.progress import NO_PROGRESS, Progress
from megasim.store.connection import IN_MEMORY
from megasim.store.rows import Store

# Components that are saved at a time.
_SAVED_AT_ONCE = 64

# Folds that are read at a time: 33 MB.
_READ_AT_ONCE = 2048

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


def save_folded_sketches(store: Store, *, progress: Progress = NO_PROGRESS) -> int:
    """Fold the components of models that ingest did not, and return how many there were.

    Ingest folds what it reads; those of older stores, of copies and of fingerprint files are left.
    """
    missing = store.rows("unfolded_components", fold_version=FOLD_VERSION)
    if not missing:
        return 0
    progress.start("Folding sketches", len(missing), "components")
    try:
        for start in range(0, len(missing), _SAVED_AT_ONCE):
            columns = ("model_id", "component", "keys", "key_set", "sketch", "sketch_version")
            batch: dict[str, list[Any]] = {column: [] for column in columns}
            for model_id, component in missing[start : start + _SAVED_AT_ONCE]:
                found = store.arrays("sketches_of_component", id=model_id, component=component)
                keys, shapes = found["canonical_key"].tolist(), found["canonical_shape"].tolist()
                fold = fold_sketches(keys, shapes, found["sketch"].tolist())
                batch["model_id"].append(model_id)
                batch["component"].append(component)
                batch["keys"].append(len(keys))
                batch["key_set"].append(key_set_of(keys, shapes))
                batch["sketch"].append(fold.astype(np.float32))
                batch["sketch_version"].append(FOLD_VERSION)
                progress.advance(1)
            with store.transaction():
                store.write("add_folded_sketches", tables={"batch": batch})
    finally:
        progress.finish()
    return len(missing)


@dataclass(frozen=True)
class FoldedSet:
    """Models that hold the same keys of some components in the same shapes: (N,) ids, ascending."""

    ids: Ints
    names: tuple[str, ...]


def folded_sets(store: Store, components: Sequence[str]) -> list[FoldedSet]:
    """Return the models that have folds of components, those of the same keys together.

    Largest set first. Only within a set folds give distances.
    """
    found = store.arrays("folded_sets", components=list(components), fold_version=FOLD_VERSION)
    _, code = np.unique(found["key_set"].astype(str), return_inverse=True)
    members = [np.nonzero(code == i)[0] for i in range(int(code.max(initial=-1)) + 1)]
    members.sort(key=lambda at: (-len(at), int(at[0])))
    return [
        FoldedSet(found["id"][at].astype(np.int64), tuple(found["name"][at].tolist()))
        for at in members
    ]


def read_folds(store: Store, components: Sequence[str], ids: Ints) -> npt.NDArray[np.float32]:
    """Return the (N, 4096) folds of models, by ascending ids; those of several components summed.

    The sum is the fold of all their keys together, as folds are linear and no key is in two of
    them. Folds are read some thousands at a time: beside the result, 16 KB a model, little is held.
    """
    folds = np.zeros((len(ids), LENGTH), dtype=np.float32)
    for component in components:
        for start in range(0, len(ids), _READ_AT_ONCE):
            some = ids[start : start + _READ_AT_ONCE]
            found = store.arrays(
                "folded_sketches",
                component=component,
                fold_version=FOLD_VERSION,
                first=int(some[0]),
                last=int(some[-1]),
            )
            chosen = np.isin(found["model_id"], some)
            if chosen.any():
                at = start + np.searchsorted(some, found["model_id"][chosen])
                folds[at] += np.stack(list(found["sketch"][chosen]))
    return folds


def fold_distances(store: Store, model_id: int, components: Sequence[str]) -> tuple[Ints, Floats]:
    """Return the models that have the folds of one, and their squared distances from it.

    Those that hold the same keys in the same shapes, in all of `components` that the model has a
    fold of; (N,) ids, ascending, and (N,) estimates. See `folded_distances` for their error.
    """
    ids: Ints | None = None
    total: Floats = np.zeros(0)
    for component in components:
        asked: dict[str, Any] = {"id": model_id, "component": component}
        asked["fold_version"] = FOLD_VERSION
        if not store.rows("has_fold", **asked):
            continue
        found = store.arrays("fold_distances", **asked)
        order = np.argsort(found["model_id"])
        others = found["model_id"][order].astype(np.int64)
        squared = found["squared"][order].astype(np.float64)
        if ids is None:
            ids, total = others, squared
        else:
            both, i, j = np.intersect1d(ids, others, assume_unique=True, return_indices=True)
            ids, total = both, total[i] + squared[j]
    return (np.zeros(0, dtype=np.int64) if ids is None else ids), total


def nearest_folds(
    store: Store,
    model_id: int,
    components: Sequence[str],
    many: int,
    *,
    progress: Progress = NO_PROGRESS,
) -> tuple[Ints, int]:
    """Return the models whose folds are nearest to those of one, and among how many they are.

    Those that hold the same keys in the same shapes, in all of `components` that the model has a
    fold of; at most `many` ids, nearest first. Folds come from the files beside the store
    (`mapped_folds`), which are brought up to date; where these cannot be written, from the store.
    """
    kept = [
        c
        for c in components
        if store.rows("has_fold", id=model_id, component=c, fold_version=FOLD_VERSION)
    ]
    found = _nearest_mapped(store, model_id, kept, many, progress) if kept else None
    if found is not None:
        return found
    ids, squared = fold_distances(store, model_id, components)
    return ids[np.lexsort((ids, squared))[:many]], len(ids)


def _nearest_mapped(
    store: Store, model_id: int, components: Sequence[str], many: int, progress: Progress
) -> tuple[Ints, int] | None:
    """Return what `nearest_folds` does, out of mapped files; None where there can be none."""
    if str(store.path) == IN_MEMORY:
        return None
    of_component: list[tuple[MappedFolds, Ints, Keys]] = []
    for component in components:
        asked: dict[str, Any] = {"id": model_id, "component": component}
        asked["fold_version"] = FOLD_VERSION
        held = store.arrays("folds_like", **asked)
        if held["is_known"].all():
            ids, keys = held["model_id"].astype(np.int64), held["fold_key"].astype(np.uint64)
            folds = MappedFolds(store.path, component)
            try:
                complete = _complete(store, folds, component, ids, keys, progress)
            except ValueError:  # some row is not what was written
                folds.discard()
                return None
            if complete:
                of_component.append((folds, ids, keys))
                continue
        return None
    common = of_component[0][1]
    for _, ids, _ in of_component[1:]:
        common = np.intersect1d(common, ids, assume_unique=True)
    others = common[common != model_id]
    try:
        short, squared = np.zeros(len(others)), np.zeros(0)
        queries = []
        for folds, ids, keys in of_component:
            queries.append(folds.rows(keys[np.searchsorted(ids, [model_id])])[0])
            short += folds.short_squares(keys[np.searchsorted(ids, others)], queries[-1])
        chosen = others[candidates(short, many)]
        squared = np.zeros(len(chosen))
        for (folds, ids, keys), fold in zip(of_component, queries, strict=True):
            squared += folds.squares(keys[np.searchsorted(ids, chosen)], fold)
    except ValueError:  # some row is not what was written
        for folds, _, _ in of_component:
            folds.discard()
        return None
    return chosen[np.lexsort((chosen, squared))[:many]], len(others)


def _complete(
    store: Store,
    folds: MappedFolds,
    component: str,
    ids: Ints,
    keys: Keys,
    progress: Progress,
) -> bool:
    """Add the folds of models that are not in the files; whether all are there then.

    Args:
        ids, keys: of models that have a fold of the same keys and shapes, (N,), by ascending ids.

    Raises:
        ValueError: a row of the files is not what was written.
    """
    lacking = folds.lacking(keys)
    if len(lacking):
        _, first = np.unique(keys, return_index=True)
        wanted = np.sort(ids[first[np.searchsorted(keys[first], lacking)]])
        by_id = keys[np.searchsorted(ids, wanted)]
        progress.start("Laying out folds", len(wanted), "models")
        try:
            written = folds.add(by_id, _read_in_order(store, component, wanted, progress))
        finally:
            progress.finish()
        if not written:
            return False
    if folds.is_worn(keys):
        # the files hold the folds of other keys and shapes, too
        found = store.arrays("fold_keys", component=component, fold_version=FOLD_VERSION)
        every = np.unique(found["fold_key"].astype(np.uint64))
        in_use = np.setdiff1d(every, folds.lacking(every), assume_unique=True)
        if folds.is_worn(in_use):
            folds.renew(in_use)
    return not len(folds.lacking(keys))


def _read_in_order(
    store: Store, component: str, ids: Ints, progress: Progress
) -> Iterator[npt.NDArray[np.float32]]:
    for start in range(0, len(ids), _READ_AT_ONCE):
        some = ids[start : start + _READ_AT_ONCE]
        yield read_folds(store, [component], some)
        progress.advance(len(some))


def folded_distances(store: Store, component: str) -> tuple[list[str], Floats]:
    """Return models and their (N, N) estimated L2 distances in a component, without any sketch.

    NaN where two models do not hold the same keys in the same shapes, or a fold is not in the
    store (`save_folded_sketches`), which leaves the model out. Standard error: `RELATIVE_ERROR`
    (in `megasim.fingerprint.folded`) of each distance, and that of the sketches beside it.
    """
    sets = folded_sets(store, [component])
    order = sorted(
        (int(i), s, at) for s, group in enumerate(sets) for at, i in enumerate(group.ids)
    )
    names = [sets[s].names[at] for _, s, at in order]
    place = {i: row for row, (i, _, _) in enumerate(order)}
    distances = np.full((len(names), len(names)), np.nan)
    for group in sets:
        folds = read_folds(store, [component], group.ids).astype(np.float64)
        rows = np.array([place[int(i)] for i in group.ids])
        for row, fold in zip(rows, folds, strict=True):
            distances[row, rows] = np.linalg.norm(folds - fold, axis=1)
    return names, distances
