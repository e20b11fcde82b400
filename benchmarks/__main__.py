"""All benchmarks: full size, or `--quick` with wide margins for CI.

python -m benchmarks             26 GB of files in a temporary folder, removed after
python -m benchmarks --quick     some seconds; fails where a ratio is several times off
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path

from benchmarks.estimates import measure_estimates
from benchmarks.speed import Case, measure_growth, measure_speed

# What the quick form must keep; several times away from what is measured, so that only a
# regression of several times is seen.
_MARGINS = (
    ("compare against the pairwise way, per pair", "speed-up without start-up", 1.5, "at least"),
    ("ingest against BLAKE3 of the same files", "ratio", 60.0, "at most"),
    ("estimate of 1,000 models, one key", "seconds a key", 0.6, "at most"),
)


def main() -> int:
    """Run, print a table for each benchmark, and write all of it as JSON."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="small files, wide margins")
    parser.add_argument("--folder", type=Path, help="where the files are made; a temporary folder")
    parser.add_argument("-o", "--output", type=Path, help="write the results as JSON")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="megasim-bench-", dir=options.folder) as folder:
        rows = []
        if options.quick:
            rows += measure_speed(Path(folder), Case(models=5, width=0.2, pairs=1, runs=1))
            rows += measure_estimates(models=1000, keys=12)
        else:
            for models in (6, 12):
                rows += measure_speed(Path(folder), Case(models, width=1.0, pairs=3, runs=3))
            rows += measure_growth(Path(folder), counts=(6, 12, 24, 48), width=0.25)
            rows += measure_estimates(models=1000, keys=686)
    for row in rows:
        print("  ".join(f"{name} {_text(value)}" for name, value in row.items()))
    if options.output:
        options.output.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    return _check(rows) if options.quick else 0


def _text(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _check(rows: list[dict[str, object]]) -> int:
    """Return 1 where a ratio is beyond its margin, and say which."""
    worst = 0
    for what, column, bound, sense in _MARGINS:
        for row in rows:
            value = row.get(column)
            if row.get("what") != what or not isinstance(value, float):
                continue
            if (value < bound) if sense == "at least" else (value > bound):
                print(f"regression: {what}: {column} {value:.3g}, {sense} {bound}", file=sys.stderr)
                worst = 1
    return worst


if __name__ == "__main__":
    sys.exit(main())
