"""All benchmarks: full size, or `--quick` with wide margins for CI.

    python -m benchmarks                  up to 28 GB of files at a time, removed after
    python -m benchmarks --quick          some seconds; fails where a ratio is several times off
    python -m benchmarks --only store     one of them: speed, fits, growth, estimates, store,
                                          report, lineage, scale, start, workers,
                                          threads, gpu, decoding

Prints a table for each and writes all rows as JSON.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from benchmarks.decoding import measure_decoding
from benchmarks.devices import measure_gpu, measure_workers
from benchmarks.estimates import measure_estimates
from benchmarks.lineage import measure_lineage
from benchmarks.measure import Row
from benchmarks.scale import measure_scale
from benchmarks.speed import Case, measure_growth, measure_speed
from benchmarks.store_size import measure_map, measure_report, measure_start, measure_store
from benchmarks.tables import show_rows
from benchmarks.threads import measure_threads

# What the quick form must keep; several times away from what is measured, so that only a
# regression of several times is seen.
_MARGINS = (
    ("compare", "without start", 0.7, "at least"),
    ("ingest", "/ BLAKE3", 100.0, "at most"),
    ("estimates", "ms a key", 600.0, "at most"),
    ("accuracy", "stated standard error %", 6.0, "at most"),
    ("one model more", "distances if run again", 0, "at most"),
    ("answer", "MiB", 1024.0, "at most"),
    ("decoding", "/ bf16", 6.0, "at most"),
    ("nearest of all", "true 10 among 40", 0.98, "at least"),
)
# Benchmark → gigabytes of files it needs at a time.
_SPACE = {
    "speed": 28,
    "fits": 18,
    "growth": 7,
    "estimates": 0,
    "store": 1,
    "report": 1,
    "lineage": 2,
    "scale": 4,
    "threads": 14,
    "start": 0,
    "workers": 4,
    "gpu": 8,
    "decoding": 1,
}

_Make = Callable[[Path], list[Row]]
_FULL: dict[str, list[_Make]] = {
    # 12 files of 2.13 GB do not fit into 24 GB of memory; the column "GB from disk" says so
    "speed": [
        lambda f: measure_speed(f / "full", Case(6, width=1.0, runs=3, cold=True)),
        lambda f: measure_speed(f / "full", Case(12, width=1.0, runs=1)),
    ],
    # so here are 12 that do
    "fits": [lambda f: measure_speed(f / "fits", Case(12, width=0.8, runs=3))],
    "growth": [lambda f: measure_growth(f / "growth", counts=(6, 12, 24, 48), width=0.25)],
    "estimates": [lambda f: measure_estimates(models=1000, keys=686)],
    "store": [lambda f: measure_store(f / "store", models=90)],  # 10 million layer distances
    "report": [
        lambda f: measure_report(f / "store", models=118),  # 7.8 million layer distances
        lambda f: measure_map(f / "store", models=118, layers=True),
        lambda f: measure_map(f / "store", models=232, layers=False),
        lambda f: measure_map(f / "store", models=1000, layers=False),
    ],
    "lineage": [lambda f: measure_lineage(f / "store", models=1000)],
    "scale": [
        lambda f: measure_scale(f / "scale", models=10_000),
        lambda f: measure_scale(f / "scale", models=30_000),
        lambda f: measure_scale(f / "scale", models=100_000),
    ],
    "threads": [lambda f: measure_threads(f / "full", models=6, width=1.0)],
    "start": [lambda f: measure_start(sys.executable)],
    "workers": [lambda f: measure_workers(f / "workers", models=6, width=0.5)],
    # at most five minutes on a machine with a card
    "gpu": [lambda f: measure_gpu(f / "gpu", models=12, width=0.5)],
    "decoding": [lambda f: measure_decoding(f / "decoding", values=1 << 23)],
}
_QUICK: dict[str, list[_Make]] = {
    "speed": [lambda f: measure_speed(f, Case(models=5, width=0.2, runs=1))],
    "estimates": [lambda f: measure_estimates(models=1000, keys=12)],
    "store": [lambda f: measure_store(f, models=6)],
    "report": [lambda f: measure_report(f, models=6)],
    "scale": [lambda f: measure_scale(f, models=1000)],
    "threads": [lambda f: measure_threads(f, models=2, width=0.1)],
    "start": [lambda f: measure_start(sys.executable)],
    "decoding": [lambda f: measure_decoding(f / "decoding", values=1 << 21, runs=3)],
}


def main() -> int:
    """Run, print a table for each benchmark, and write all of it as JSON."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--quick", action="store_true", help="small files, wide margins")
    parser.add_argument("--only", action="append", choices=list(_FULL), help="may be given twice")
    parser.add_argument("--folder", type=Path, help="where the files are made; a temporary folder")
    parser.add_argument("--keep", action="store_true", help="leave the files for the next run")
    parser.add_argument(
        "-o", "--output", type=Path, default=Path("benchmarks.json"), help="results as JSON"
    )
    options = parser.parse_args()
    chosen = {
        name: makes
        for name, makes in (_QUICK if options.quick else _FULL).items()
        if not options.only or name in options.only
    }
    rows: list[Row] = []
    with tempfile.TemporaryDirectory(prefix="megasim-bench-", dir=options.folder) as made:
        folder = options.folder if options.keep and options.folder else Path(made)
        needed = 1 if options.quick else max(_SPACE[name] for name in chosen)
        if shutil.disk_usage(folder).free < needed * 1e9 and not options.keep:
            print(f"{folder} has less than {needed} GB free: name another --folder, or --quick")
            return 1
        for makes in chosen.values():
            for make in makes:
                found = make(_fresh(folder))
                show_rows(found)
                rows += found
                options.output.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
            if not options.keep:
                shutil.rmtree(folder)
    return _check(rows) if options.quick else 0


def _fresh(folder: Path) -> Path:
    for name in ("full", "fits", "growth", "store", "workers", "gpu"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    return folder


def _check(rows: list[Row]) -> int:
    """Return 1 where a ratio is beyond its margin, and say which."""
    worst = 0
    for what, column, bound, sense in _MARGINS:
        for row in rows:
            value = row.get(column)
            if row["what"] != what or not isinstance(value, int | float):
                continue
            if (value < bound) if sense == "at least" else (value > bound):
                print(f"regression: {what}: {column} {value:.3g}, {sense} {bound}", file=sys.stderr)
                worst = 1
    return worst


if __name__ == "__main__":
    sys.exit(main())
