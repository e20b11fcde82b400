"""Ingest and compare of SD1-shaped checkpoints, against what the machine can do."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from benchmarks import limits
from benchmarks.estimates import measure_accuracy
from benchmarks.measure import Row, Run, in_cache, megasim
from megasim.zoo.building import build_full_size


@dataclass(frozen=True)
class Case:
    """So many checkpoints of 1,131 keys, the width of their layers, and how often to measure."""

    models: int
    width: float
    runs: int
    cold: bool = False  # also from the disk


def measure_speed(folder: Path, case: Case) -> list[Row]:
    """Return rows for ingest, compare, estimates, and one model more; files in the page cache."""
    paths = build_full_size(folder / f"w{case.width:g}", case.models + 1, width=case.width)
    *paths, extra = paths
    size = sum(path.stat().st_size for path in paths)
    label: Row = {"models": case.models, "GB": size / 1e9}
    db = folder / "bench.duckdb"
    start = _compiled_start(folder)
    in_cache(paths)
    # in turns, for the speed of the machine itself changes by a half within minutes
    turns = [
        (limits.cat_seconds(paths), limits.blake3_seconds(paths), _ingest(db, paths))
        for _ in range(case.runs)
    ]
    cat, blake3 = (median(turn[i] for turn in turns) for i in (0, 1))
    ingests = {"ingest": _middle([turn[2] for turn in turns])}
    if case.cold:
        limits.out_of_cache(paths)
        cold = limits.cat_seconds(paths)
        limits.out_of_cache(paths)
        ingests["ingest, cold"] = _ingest(db, paths)
    rows: list[Row] = []
    for what, ingest in ingests.items():
        if what == "ingest, cold":
            cat = cold
        rows.append(
            {
                "what": what,
                **label,
                "seconds": ingest.seconds,
                "BLAKE3": blake3,
                "cat": cat,
                "/ BLAKE3": ingest.seconds / blake3,
                "/ cat": ingest.seconds / cat,
                "MiB": ingest.anonymous / 2**20,
                "GB from disk": ingest.from_disk / 1e9,
            }
        )
    fresh = folder / "fresh.duckdb"
    db.replace(fresh)
    compares = []
    pairwise: dict[str, list[float]] = {"2": [], "012": []}
    for turn in range(case.runs):
        for metrics, seconds in pairwise.items():
            seconds.append(limits.pairwise_seconds(paths[turn : turn + 2], metrics))
        in_cache(paths)
        shutil.copy(fresh, db)
        compares.append(megasim(db, "compare", "--json"))
    fresh.unlink()
    compare = _middle(compares)
    one, three = median(pairwise["2"]), median(pairwise["012"])
    pairs = case.models * (case.models - 1) // 2
    rows.append(
        {
            "what": "compare",
            **label,
            "seconds": compare.seconds,
            "start": start,
            "pairs": pairs,
            "pairwise l2": one,
            "speed-up": one * pairs / compare.seconds,
            "without start": one * pairs / max(compare.seconds - start, 0.1),
            "pairwise l0 l1 l2": three,
            "speed-up of all": three * pairs / compare.seconds,
            "read / size": float(str(compare.json()["bytes_read"])) / size,
            "MiB": compare.anonymous / 2**20,
            "mapped MiB": compare.mapped / 2**20,
            "GB from disk": compare.from_disk / 1e9,
        }
    )
    rows += measure_accuracy(db, case.models)
    rows.append(_adding_one(db, extra, case.models))
    db.unlink()
    return rows


def _ingest(db: Path, paths: Sequence[Path]) -> Run:
    db.unlink(missing_ok=True)
    return megasim(db, "ingest", *map(str, paths), "--json")


def _middle(runs: Sequence[Run]) -> Run:
    """Return the run whose time is the median."""
    return sorted(runs, key=lambda run: run.seconds)[len(runs) // 2]


def _compiled_start(folder: Path) -> float:
    """Compile the kernels, once a machine, and return how long a compare of nearly nothing takes.

    The pairwise way is timed without the start of Python; this is what megasim's costs.
    """
    build_full_size(folder / "tiny", 2, width=0.02)
    db = folder / "tiny.duckdb"
    seconds = 0.0
    for _ in range(2):
        db.unlink(missing_ok=True)
        megasim(db, "ingest", str(folder / "tiny"))
        seconds = megasim(db, "compare").seconds
    return seconds


def _adding_one(db: Path, path: Path, models: int) -> Row:
    """Return the cost of adding a model: only its pairs are computed, each file is read once."""
    size = path.stat().st_size
    in_cache([path])
    ingest = megasim(db, "ingest", str(path), "--json")
    compare = megasim(db, "compare", "--json")
    again = megasim(db, "compare", "--json").json()
    counters = compare.json()
    return {
        "what": "one model more",
        "models": models,
        "ingest": ingest.seconds,
        "compare": compare.seconds,
        "ingest read / size": float(str(ingest.json()["bytes_read"])) / size,
        "compare read / size": float(str(counters["bytes_read"])) / size / (models + 1),
        "pairs known": counters["pairs_known"],
        "pairs done": counters["pairs_done"],
        "distances": counters["tensor_pairs_computed"],
        "distances if run again": again["tensor_pairs_computed"],
    }


def measure_growth(folder: Path, counts: Sequence[int], width: float) -> list[Row]:
    """Return how compare grows with the number of models, and what memory it takes."""
    rows: list[Row] = []
    paths = build_full_size(folder / f"w{width:g}", max(counts), width=width)
    in_cache(paths)
    for count in counts:
        db = folder / "growth.duckdb"
        db.unlink(missing_ok=True)
        ingest = megasim(db, "ingest", *map(str, paths[:count]))
        compare = megasim(db, "compare", "--json")
        matrix = megasim(db, "matrix", "-o", str(folder / "m.npz"))
        pairs = count * (count - 1) // 2
        rows.append(
            {
                "what": "growth",
                "models": count,
                "ingest": ingest.seconds,
                "ingest MiB": ingest.anonymous / 2**20,
                "pairs": pairs,
                "compare": compare.seconds,
                "ms a pair": 1e3 * compare.seconds / pairs,
                "compare MiB": compare.anonymous / 2**20,
                "matrix": matrix.seconds,
            }
        )
        db.unlink()
    return rows
