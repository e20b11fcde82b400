"""Whether a store survives what happens to stores: the long run, outside of CI.

    python -m benchmarks.reliability                   all of it: some two hours on two cores
    python -m benchmarks.reliability --short           the same in small, some 20 seconds, for CI
    python -m benchmarks.reliability --only kills      kills, disks, mutations, changes or processes
    python -m benchmarks.reliability --minutes 5       of the phase of processes

Says as it goes what it did, prints a table, writes all figures as JSON, and exits with 1 where
anything was lost, wrong or stored that should not be. What it needs beside megasim and torch:

- for full disks: the right to mount a small tmpfs (root); without it they are left out, and it is
  said so.
- for kills at exact writes: strace and the right to trace; without it all kills are at random.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks.reliability.changes import measure_changes
from benchmarks.reliability.disks import measure_disks
from benchmarks.reliability.kills import measure_kills
from benchmarks.reliability.mutations import measure_mutations
from benchmarks.reliability.processes import measure_processes
from benchmarks.reliability.stores import PhaseReport

_Phase = Callable[[Path], PhaseReport]


def _phases(
    short: bool, minutes: float, kills: int, commands: list[str] | None
) -> dict[str, _Phase]:
    if short:
        return {
            "kills": lambda f: measure_kills(f, 4, models=2),
            "disks": lambda f: measure_disks(f, 2, models=2),
            "mutations": lambda f: measure_mutations(f, 1_000, workers=1),
            "changes": lambda f: measure_changes(f, 2),
            "processes": lambda f: measure_processes(f, 0.03, workers=2, models=2),
        }
    return {
        "kills": lambda f: measure_kills(f, kills, commands=commands),
        "disks": lambda f: measure_disks(f, 60),
        "mutations": lambda f: measure_mutations(f, 300_000, workers=2),
        "changes": lambda f: measure_changes(f, 100),
        "processes": lambda f: measure_processes(f, minutes, workers=8, models=12),
    }


def _stop(*_: object) -> None:
    PhaseReport.asked_to_stop = True


def main() -> int:
    """Run the phases, and return the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--short", action="store_true")
    parser.add_argument("--only", action="append", help="a phase; may be given several times")
    parser.add_argument("--minutes", type=float, default=45.0)
    parser.add_argument("--kills", type=int, default=300, help="how many [default: 300]")
    parser.add_argument("--command", action="append", help="to kill; may be given several times")
    parser.add_argument("--folder", type=Path, help="for scratch files [default: a temporary one]")
    parser.add_argument("-o", "--output", type=Path, help="the figures as JSON")
    given = parser.parse_args()
    phases = _phases(given.short, given.minutes, given.kills, given.command)
    unknown = set(given.only or ()) - set(phases)
    if unknown:
        parser.error(f"no such phase: {', '.join(sorted(unknown))}")
    signal.signal(signal.SIGTERM, _stop)
    reports = []
    with tempfile.TemporaryDirectory(dir=given.folder, ignore_cleanup_errors=True) as folder:
        for name, phase in phases.items():
            if given.only and name not in given.only:
                continue
            print(f"{name} …", flush=True)
            began = time.monotonic()
            report = phase(Path(folder))
            report.figures["seconds"] = round(time.monotonic() - began)
            reports.append(report)
            told = json.dumps(report.to_json(), ensure_ascii=False)
            print(told, flush=True)
    for report in reports:
        verdict = "nothing wrong" if not report.wrong else f"{len(report.wrong)} WRONG"
        print(f"{report.phase:<10} {report.done:>8,}  {verdict}")
    if given.output:
        rows = [report.to_json() for report in reports]
        given.output.write_text(json.dumps(rows, indent=2, ensure_ascii=False) + "\n", "utf-8")
    return 1 if any(report.wrong for report in reports) else 0


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    os._exit(code)  # nothing is left to do, and DuckDB takes long to take apart
