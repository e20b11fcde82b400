"""Folded sketches: all sketches of a component in 4,096 numbers, made from the store alone.

Definition. Every number of the sketch of every key (`megasim.fingerprint.sketch`) that enters
distances and has no NaN and no inf gets a place among 4,096 and a sign, and the signed numbers are
added up by place. Place and sign of the i-th number come from SplitMix64 at i, with a seed made
of the canonical key, the canonical shape and the length of the sketch, so that all models fold one
key alike. The fold is linear like the sketch: F(a) − F(b) = F(a − b) where a and b hold the
same keys.

Error. With independent places and signs, ‖F(d)‖² has the mean ‖S(d)‖² and a variance of at most
(2/4096)‖S(d)‖⁴, whatever d (M. Charikar et al., "Finding frequent items in data streams", 2002): a
relative standard error of 1/√8192 = 1.1 % of a distance, beside the one of the sketches. A key that
only one of two models holds, or in another shape, counts with its whole norm; so a distance is
given only where both hold the same keys in the same shapes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from blake3 import blake3

from megasim.progress import NO_PROGRESS, Progress
from megasim.store.rows import Store

# Raised when the fold changes; those of two versions cannot be compared.
FOLD_VERSION = 1
LENGTH = 4096
# The relative standard error of a distance, for what folding adds to that of the sketches.
RELATIVE_ERROR = 1 / math.sqrt(2 * LENGTH)

# Numbers that are hashed at a time.
_AT_ONCE = 1 << 20
# Components that are saved at a time.
_SAVED_AT_ONCE = 64

Floats = npt.NDArray[np.float64]


def fold_sketches(
    keys: Sequence[str], shapes: Sequence[str], sketches: Sequence[npt.NDArray[np.float32]]
) -> Floats:
    """Return the (4096,) fold of some sketches, whatever their order but for the last digits.

    Args:
        keys, shapes: the canonical key of each sketch, and its canonical shape as text.
        sketches: of any lengths.

    >>> a = fold_sketches(["w"], ["2"], [np.float32([3, 4])])
    >>> float(np.linalg.norm(a))
    5.0
    """
    total = np.zeros(LENGTH)
    seeds = [
        int.from_bytes(blake3(f"fold {FOLD_VERSION} {k} {s} {len(x)}".encode()).digest(8), "little")
        for k, s, x in zip(keys, shapes, sketches, strict=True)
    ]
    for some in _runs([len(x) for x in sketches]):
        lengths = [len(x) for x in sketches[some]]
        values = np.concatenate(sketches[some]).astype(np.float64)
        index = np.concatenate([np.arange(n, dtype=np.uint64) for n in lengths])
        z = np.repeat(np.array(seeds[some], dtype=np.uint64), lengths)
        z += index * np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        z ^= z >> np.uint64(31)
        signed = np.where(z >> np.uint64(63), -values, values)
        places = (z & np.uint64(LENGTH - 1)).astype(np.intp)
        total += np.bincount(places, weights=signed, minlength=LENGTH)
    return total


def save_folded_sketches(store: Store, *, progress: Progress = NO_PROGRESS) -> int:
    """Fold the components of all models that lack it, and return how many there were."""
    missing = store.rows("unfolded_components", fold_version=FOLD_VERSION)
    progress.start("Folding sketches", len(missing), "components")
    try:
        for start in range(0, len(missing), _SAVED_AT_ONCE):
            batch: dict[str, list[Any]] = {
                "model_id": [],
                "component": [],
                "keys": [],
                "sketch": [],
            }
            for model_id, component in missing[start : start + _SAVED_AT_ONCE]:
                found = store.arrays("sketches_of_component", id=model_id, component=component)
                keys, shapes = found["canonical_key"].tolist(), found["canonical_shape"].tolist()
                fold = fold_sketches(keys, shapes, found["sketch"].tolist())
                batch["model_id"].append(model_id)
                batch["component"].append(component)
                batch["keys"].append(len(keys))
                batch["sketch"].append(fold.astype(np.float32))
                progress.advance(1)
            store.write("add_folded_sketches", tables={"batch": batch}, fold_version=FOLD_VERSION)
    finally:
        progress.finish()
    return len(missing)


def folded_distances(store: Store, component: str) -> tuple[list[str], Floats]:
    """Return models and their (N, N) estimated L2 distances in a component, without any sketch.

    NaN where two models do not hold the same keys in the same shapes, or a fold is not in the
    store (`save_folded_sketches`), which leaves the model out. Standard error: `RELATIVE_ERROR`
    of each distance, and that of the sketches beside it.
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


def _runs(lengths: Sequence[int]) -> list[slice]:
    """Return slices of sketches that have about `_AT_ONCE` numbers together."""
    runs, first, room = [], 0, 0
    for i, length in enumerate(lengths):
        room += length
        if room >= _AT_ONCE or i + 1 == len(lengths):
            runs.append(slice(first, i + 1))
            first, room = i + 1, 0
    return runs
