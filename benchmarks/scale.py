"""Many models: the nearest of all, of one, and what a store that holds them is like to use.

python -m benchmarks --only scale     10,000, 30,000 and 100,000 models: 25 minutes, 5 GB of disk
python -m benchmarks.scale 10000      so many models; with --folder, where the store is made, with
                                      --commands the commands alone

Every command runs as a process of its own. Core seconds are those of the processor that it used,
in all its threads: on a machine that others use, they tell more than what passed on the clock.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from benchmarks.measure import Row
from benchmarks.simulated_models import (
    COMPONENT,
    families,
    true_squares,
    write_real_models,
    write_simulated_store,
)
from megasim.estimate.folded import folded_sets, read_folds
from megasim.estimate.nearest import folded_pairs
from megasim.estimate.neighbours import nearest_vectors
from megasim.store.rows import Store

_NEAREST = 10
_CANDIDATES = 40  # as `folded_pairs` asks for
_PATIENCE = 120.0  # seconds; a command that takes longer is ended, and shown with -1

T = TypeVar("T")


def measure_scale(folder: Path, models: int, *, commands_alone: bool = False) -> list[Row]:
    """Return time, memory and recall for so many simulated models of one component.

    Args:
        commands_alone: leave out the nearest of all, which take most of the time.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{models}.duckdb"
    real = write_real_models(folder / "real", 3)
    ids, writing = _timed(lambda: write_simulated_store(path, real[0], models))
    if commands_alone:
        return _commands(path, models, real)
    folds = _in_a_process("folds", path, ids)
    pairs = _in_a_process("pairs", path, ids)
    rows: list[Row] = [
        {
            "what": "nearest of all",
            "models": models,
            **folds,
            "ns a pair": 1e9 * float(folds["core s"]) / (models * (models - 1) / 2),
        },
        {
            "what": "top 10 of all",
            "models": models,
            **pairs,
            "store MB": path.stat().st_size / 1e6,
            "written in s": writing,
        },
    ]
    rows += _commands(path, models, real)
    return rows


def _commands(path: Path, models: int, real: Sequence[Path]) -> list[Row]:
    """Return what each command takes that a user gives beside so many models."""
    one = f"model {models // 2}"
    near = ",".join(f"model {models // 2 + i}" for i in range(6))
    commands: dict[str, list[str]] = {
        "ingest of one more": ["ingest", str(real[1])],
        "ingest of another": ["ingest", str(real[2])],
        "compare of two": ["compare", "--models", "real-1,real-2"],
        "findings of a pair": ["findings", "real-1", "real-2"],
        "models": ["models"],
        "models --json": ["models", "--json"],
        "nearest, the first time": ["nearest", one],  # lays the folds out beside the store
        "nearest of a simulated one": ["nearest", one],
        "nearest of another": ["nearest", f"model {models // 3}"],
        "nearest of one with a file": ["nearest", "real-1"],
        "SQL: a count": ["sql", "select count(*) from models"],
        "SQL: one model": ["sql", f"from layers where model = '{one}'"],
        "SQL: a pair": ["sql", "from component_distances where model_a = 'real-1'"],
        "lineage of six models": ["lineage", "--models", near, "--estimate", "--json"],
        "forget one": ["forget", "real-2"],
    }
    rows: list[Row] = []
    for name, arguments in commands.items():
        command = [sys.executable, "-m", "megasim.cli", "--db", str(path), *arguments]
        before, begun = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=_PATIENCE)
            code = done.returncode
        except subprocess.TimeoutExpired:
            code = -1
        seconds, after = time.perf_counter() - begun, resource.getrusage(resource.RUSAGE_CHILDREN)
        rows.append(
            {
                "what": "a store of many models",
                "models": models,
                "command": name,
                "s": seconds,
                "core s": after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime,
                "ended with": code,
            }
        )
        if code > 0:
            print(done.stderr[-500:], file=sys.stderr)
    return rows


def _in_a_process(what: str, path: Path, ids: npt.NDArray[np.int64]) -> dict[str, float]:
    """Return what a process of its own finds, so that its memory is that of this work alone."""
    command = [sys.executable, "-m", "benchmarks.scale", what, str(path), str(len(ids))]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    found: dict[str, float] = json.loads(done.stdout)
    return found


def _nearest_by_folds(path: Path, models: int) -> dict[str, float]:
    """All against all by folds alone; the simulated models come after the one with a file."""
    with Store(path, "read", memory=1 << 30) as store:
        group, finding = _timed(lambda: folded_sets(store, [COMPONENT])[0])
        folds, reading = _timed(lambda: read_folds(store, [COMPONENT], group.ids))
    begun = time.perf_counter()
    found, cpu = _timed(lambda: nearest_vectors(folds, _CANDIDATES))
    wall = time.perf_counter() - begun
    kept, ranked = recall(models, found.places[1:] - 1)  # the first of all has a file
    return {
        "core s": cpu,
        "s": wall,
        "sets, core s": finding,
        "read, core s": reading,
        "true 10 among 40": kept,
        "true 10 are first 10": ranked,
        "MiB": _peak(),
    }


def _nearest_by_sketches(path: Path, models: int) -> dict[str, float]:
    """All that `compare --nearest 10` does before it reads files."""
    begun = time.perf_counter()
    with Store(path, "read", memory=1 << 30) as store:
        pairs, cpu = _timed(lambda: folded_pairs(store, COMPONENT, _NEAREST))
    wall = time.perf_counter() - begun
    near: list[set[int]] = [set() for _ in range(models)]
    for a, b in pairs:
        if a > 1:  # the first has a file
            near[a - 2].add(b - 2)
            near[b - 2].add(a - 2)
    held = total = 0
    for first, parents, steps in families(models):
        true = true_squares(parents, steps)
        wanted = min(_NEAREST, len(parents) - 1)
        reach = np.sort(true, axis=1)[:, wanted - 1] * (1 + 1e-9)
        for i in range(len(parents)):
            inside = [j - first for j in near[first + i] if first <= j < first + len(parents)]
            held += min(int((true[i, inside] <= reach[i]).sum()), wanted)
            total += wanted
    return {
        "core s": cpu,
        "s": wall,
        "pairs": len(pairs),
        "true 10 among the pairs": held / total,
        "MiB": _peak(),
    }


def recall(models: int, places: npt.NDArray[np.int64]) -> tuple[float, float]:
    """Return which share of the true nearest is among the candidates, and among the first ten.

    A model as near as the tenth is as good as that.

    Args:
        places: (N, K) the candidates of each simulated model, nearest first; others than these
            models have negative places, or such beyond the last.
    """
    kept = ranked = total = 0
    for first, parents, steps in families(models):
        count = len(parents)
        true = true_squares(parents, steps)
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


def _timed(work: Callable[[], T]) -> tuple[T, float]:
    """Return a result, and the seconds of all cores that it took."""
    begun = time.process_time()
    result = work()
    return result, time.process_time() - begun


def _peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    """Measure so many models; or, as a process of its own, one part of that."""
    if sys.argv[1:2] in (["folds"], ["pairs"]):
        what, path, models = sys.argv[1:]
        work = _nearest_by_folds if what == "folds" else _nearest_by_sketches
        print(json.dumps(work(Path(path), int(models))))
        return
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scale", description=__doc__)
    parser.add_argument("models", type=int)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--commands", action="store_true", help="without the nearest of all")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="megasim-scale-", dir=given.folder) as made:
        for row in measure_scale(Path(made), given.models, commands_alone=given.commands):
            print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
