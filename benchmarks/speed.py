"""Ingest and compare of SD1-shaped checkpoints, against what the machine can do."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks import limits
from benchmarks.measure import in_cache, megasim
from megasim.zoo.building import build_full_size

Row = dict[str, object]


@dataclass(frozen=True)
class Case:
    """So many checkpoints of 1,131 keys, the width of their layers, and how often to measure."""

    models: int
    width: float
    pairs: int
    runs: int


def measure_speed(folder: Path, case: Case) -> list[Row]:
    """Return rows for ingest, compare, adding a model, and memory; files are in the page cache."""
    place = folder / f"w{case.width:g}"
    paths = build_full_size(place, case.models, width=case.width)
    in_cache(paths)
    size = sum(path.stat().st_size for path in paths)
    label = {"models": case.models, "GB": size / 1e9}
    cat = limits.median(lambda: limits.cat_seconds(paths), case.runs)
    blake3 = limits.median(lambda: limits.blake3_seconds(paths), case.runs)
    start_up = limits.median(limits.start_up_seconds, case.runs)
    pairwise = [
        limits.pairwise_seconds(paths[i], paths[i + 1]) - start_up for i in range(case.pairs)
    ]
    db = folder / "bench.duckdb"
    warm = folder / "warm.duckdb"
    _compile(folder, warm)
    idle = megasim(warm, "ingest", str(folder / "tiny")).seconds
    ingest = megasim(db, "ingest", str(place), "--json")
    compare = megasim(db, "compare", "--json")
    pairs = case.models * (case.models - 1) // 2
    one_pair = sorted(pairwise)[len(pairwise) // 2]
    counters = compare.json()
    rows: list[Row] = [
        {
            "what": "ingest against BLAKE3 of the same files",
            **label,
            "seconds": ingest.seconds,
            "start-up": idle,
            "BLAKE3": blake3,
            "cat": cat,
            "ratio": (ingest.seconds - idle) / blake3,
            "memory MiB": ingest.anonymous / 2**20,
        },
        {
            "what": "compare against the pairwise way, per pair",
            **label,
            "seconds": compare.seconds,
            "start-up": idle,
            "pairs": pairs,
            "pairwise, one pair": one_pair,
            "speed-up": one_pair / (compare.seconds / pairs),
            "speed-up without start-up": one_pair / (max(compare.seconds - idle, 1e-9) / pairs),
            "bytes read / bytes of files": float(str(counters["bytes_read"])) / size,
            "memory MiB": compare.anonymous / 2**20,
            "mapped MiB": compare.mapped / 2**20,
        },
        _adding_one(folder, db, case),
    ]
    db.unlink()
    return rows


def _compile(folder: Path, db: Path) -> None:
    """Compile the kernels, which happens once a machine, on a tiny pair of models."""
    tiny = build_full_size(folder / "tiny", 2, width=0.02)
    assert tiny
    megasim(db, "ingest", str(folder / "tiny"))
    megasim(db, "compare")


def _adding_one(folder: Path, db: Path, case: Case) -> Row:
    """Return the cost of adding a model: only its pairs are computed, each file is read once."""
    place = folder / f"w{case.width:g}"
    paths = build_full_size(place, case.models + 1, width=case.width)
    ingest = megasim(db, "ingest", str(paths[-1]), "--json")
    compare = megasim(db, "compare", "--json")
    counters = compare.json()
    return {
        "what": "adding one model",
        "models": case.models,
        "ingest": ingest.seconds,
        "compare": compare.seconds,
        "pairs known": counters["pairs_known"],
        "pairs computed": counters["pairs_done"],
        "tensors read": counters["tensors_read"],
        "distances computed": counters["tensor_pairs_computed"],
    }


def measure_growth(folder: Path, counts: Sequence[int], width: float) -> list[Row]:
    """Return how compare grows with the number of models, and what memory it takes."""
    rows: list[Row] = []
    for count in counts:
        place = folder / f"growth{count}"
        paths = build_full_size(place, count, width=width)
        in_cache(paths)
        db = folder / "growth.duckdb"
        megasim(db, "ingest", str(place))
        compare = megasim(db, "compare", "--json")
        matrix = megasim(db, "matrix", "-o", str(folder / "m.npz"))
        rows.append(
            {
                "what": "growth of compare",
                "models": count,
                "pairs": count * (count - 1) // 2,
                "seconds": compare.seconds,
                "memory MiB": compare.anonymous / 2**20,
                "matrix seconds": matrix.seconds,
            }
        )
        db.unlink()
        shutil.rmtree(place)
    return rows
