"""Many models: the nearest of all through folded sketches, of one, and a store that holds them.

python -m benchmarks --only scale     10,000, 30,000 and 100,000 models: half an hour, 4 GB of disk
"""

from __future__ import annotations

import resource
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from benchmarks.measure import Row
from megasim.estimate.folded import folded_sets, read_folds
from megasim.estimate.neighbours import nearest_vectors
from megasim.fingerprint.folded import FOLD_VERSION, LENGTH
from megasim.fingerprint.tensor import FINGERPRINT_VERSION
from megasim.store.rows import Store

_FAMILY = 250
_NEAREST = 10
_CANDIDATES = 40  # as `nearest_pairs` asks for
_ROOT = 30.0  # norm of a family's first model, against steps of about 1

T = TypeVar("T")
Singles = npt.NDArray[np.float32]


def measure_scale(folder: Path, models: int) -> list[Row]:
    """Return time, memory and recall for so many simulated models of one component.

    Families of 250: each model a step away from an earlier one, in a direction of its own, whose
    fold has the error of theory. So the true distances are known: squared steps add along a path.
    """
    path = folder / f"{models}.duckdb"
    folder.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    _write_store(path, models)
    times: dict[str, float] = {}
    with Store(path, "read", memory=1 << 30) as store:
        (group,) = _timed(times, "sets, core s", lambda: folded_sets(store, ["unet"]))
        folds = _timed(times, "read, core s", lambda: read_folds(store, ["unet"], group.ids))
        found, cpu = _cpu(lambda: nearest_vectors(folds, _CANDIDATES))
        one = []
        for model in (1, models // 2, models):
            begun = time.process_time()
            store.rows(
                "nearest_folds",
                id=model,
                components=["unet"],
                fold_version=FOLD_VERSION,
                k=_CANDIDATES,
            )
            one.append(time.process_time() - begun)
        listed = _timed(times, "models, core s", lambda: len(store.models()))
    kept, ranked = _recall(models, found.places)
    return [
        {
            "what": "nearest of all",
            "models": listed,
            "core seconds": cpu,
            "ns a pair": 1e9 * cpu / (models * (models - 1) / 2),
            **times,
            "one, core s": sorted(one)[1],
            "true 10 among 40": kept,
            "true 10 are first 10": ranked,
            "MiB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
            "store MB": path.stat().st_size / 1e6,
        }
    ]


def _timed(times: dict[str, float], name: str, work: Callable[[], T]) -> T:
    result, times[name] = _cpu(work)
    return result


def _cpu(work: Callable[[], T]) -> tuple[T, float]:
    begun = time.process_time()
    result = work()
    return result, time.process_time() - begun


def _families(models: int) -> Iterator[tuple[int, npt.NDArray[np.int64], npt.NDArray[np.float64]]]:
    """Yield the first model of each family, and of each member its parent and the step to it."""
    for first in range(0, models, _FAMILY):
        rng = np.random.default_rng(first)
        count = min(_FAMILY, models - first)
        parents = np.array([0, *(int(rng.integers(0, i)) for i in range(1, count))])
        yield first, parents, np.exp(rng.normal(0, 0.6, count))


def _folds(first: int, parents: npt.NDArray[np.int64], steps: npt.NDArray[np.float64]) -> Singles:
    rng = np.random.default_rng((1, first))
    moves = rng.standard_normal((len(parents), LENGTH), dtype=np.float32) / np.sqrt(LENGTH)
    folds = moves * steps[:, None].astype(np.float32)
    folds[0] *= _ROOT / steps[0]
    for i, parent in enumerate(parents[1:].tolist(), 1):
        folds[i] += folds[parent]
    return folds.astype(np.float32)


def _recall(models: int, places: npt.NDArray[np.int64]) -> tuple[float, float]:
    """Return which share of the true nearest is among the candidates, and among the first ten.

    A model as near as the tenth is as good as that.
    """
    kept = ranked = total = 0
    for first, parents, steps in _families(models):
        count = len(parents)
        true = np.zeros((count, count))
        for i, parent in enumerate(parents[1:].tolist(), 1):
            true[i, :i] = true[:i, i] = true[parent, :i] + steps[i] ** 2
        np.fill_diagonal(true, np.inf)
        wanted = min(_NEAREST, count - 1)
        reach = np.sort(true, axis=1)[:, wanted - 1] * (1 + 1e-9)
        for i in range(count):
            found = places[first + i] - first
            inside = found[(found >= 0) & (found < count)]
            kept += min(int((true[i, inside] <= reach[i]).sum()), wanted)
            head = found[:wanted][(found[:wanted] >= 0) & (found[:wanted] < count)]
            ranked += int((true[i, head] <= reach[i]).sum())
            total += wanted
    return kept / total, ranked / total


def _write_store(path: Path, models: int) -> None:
    """Write models of which nothing but the folds is known, and the keys that they are of."""
    with Store(path, "write", memory=1 << 30) as store:
        con = store.connection
        con.execute(
            "insert into model (id, name, source, path, fingerprint_version, sketch_size) "
            "select i, 'model ' || i, 'checkpoint', '/none/' || i, $version, 256 "
            "from range(1, $end) t(i)",
            {"version": FINGERPRINT_VERSION, "end": models + 1},
        )
        for first, parents, steps in _families(models):
            folds = _folds(first, parents, steps)
            count = len(folds)
            batch = {
                "model_id": np.arange(first + 1, first + 1 + count),
                "component": ["unet"] * count,
                "keys": [686] * count,
                "key_set": ["0" * 32] * count,
                "sketch": list(folds),
                "sketch_version": [FOLD_VERSION] * count,
            }
            store.write("add_folded_sketches", tables={"batch": batch})
