"""Folded sketches out of the store: those still missing, and the distances that they give."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from megasim.fingerprint.folded import FOLD_VERSION, fold_sketches
from megasim.progress import NO_PROGRESS, Progress
from megasim.store.rows import Store

# Components that are saved at a time.
_SAVED_AT_ONCE = 64

Floats = npt.NDArray[np.float64]


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
            columns = ("model_id", "component", "keys", "sketch", "sketch_version")
            batch: dict[str, list[Any]] = {column: [] for column in columns}
            for model_id, component in missing[start : start + _SAVED_AT_ONCE]:
                found = store.arrays("sketches_of_component", id=model_id, component=component)
                keys, shapes = found["canonical_key"].tolist(), found["canonical_shape"].tolist()
                fold = fold_sketches(keys, shapes, found["sketch"].tolist())
                batch["model_id"].append(model_id)
                batch["component"].append(component)
                batch["keys"].append(len(keys))
                batch["sketch"].append(fold.astype(np.float32))
                batch["sketch_version"].append(FOLD_VERSION)
                progress.advance(1)
            with store.transaction():
                store.write("add_folded_sketches", tables={"batch": batch})
    finally:
        progress.finish()
    return len(missing)


def folded_distances(store: Store, component: str) -> tuple[list[str], Floats]:
    """Return models and their (N, N) estimated L2 distances in a component, without any sketch.

    NaN where two models do not hold the same keys in the same shapes, or a fold is not in the
    store (`save_folded_sketches`), which leaves the model out. Standard error: `RELATIVE_ERROR`
    (in `megasim.fingerprint.folded`) of each distance, and that of the sketches beside it.
    """
    found = store.arrays("folded_sketches", component=component, fold_version=FOLD_VERSION)
    names = found["name"].tolist()
    distances = np.full((len(names), len(names)), np.nan)
    if not names:
        return names, distances
    folds = np.array(found["sketch"].tolist(), dtype=np.float64)
    for i in range(len(names)):
        same = found["key_set"] == found["key_set"][i]
        distances[i, same] = np.linalg.norm(folds[same] - folds[i], axis=1)
    return names, distances
