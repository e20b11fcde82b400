"""Many processes on one store for a long time: each does what it likes, and nothing gets lost.

Each worker owns some models, which it ingests, compares, forgets and ingests again; between that it
asks what everybody asks. In the end all models are ingested and compared once more, and the store
must say what one says that a single process made, bit for bit.
"""

from __future__ import annotations

import random
import shutil
import threading
import time
from pathlib import Path

from benchmarks.reliability.forked import must, run
from benchmarks.reliability.stores import PhaseReport, faults, matrices, same, scratch, write_models

_ASKED: tuple[tuple[object, ...], ...] = (
    ("models",),
    ("findings",),
    ("matrix", "-c", "all"),
    ("sql", "select count(*) from layer_distances"),
    ("doctor",),
)
# What commands end with where models are not there, or nothing to answer with yet.
_NOT_THERE = {
    "ask": ("the store is empty", "no pair of models", "no model", "fewer than two"),
    "compare": ("the store is empty",),
    "forget": ("no such model",),
}


def measure_processes(
    folder: Path, minutes: float, workers: int, models: int, seed: int = 0
) -> PhaseReport:
    """Run so many workers for so many minutes, one process at a time each."""
    place = scratch(folder, "processes")
    report = PhaseReport("processes")
    paths = write_models(place / "models", models)
    truth = place / "truth.duckdb"
    for path in paths:  # in one order, as the ids follow from it
        must(truth, "ingest", path)
    must(truth, "compare")
    db = place / "s.duckdb"
    for path in paths:
        must(db, "ingest", path)
    began = time.monotonic()
    end = began + 60 * minutes
    codes: dict[str, int] = {}
    lock = threading.Lock()

    def work(number: int) -> None:
        rng = random.Random(seed * 1000 + number)
        own = paths[number::workers]
        while time.monotonic() < end and not PhaseReport.asked_to_stop:
            action = rng.choice(("ingest", "compare", "forget", "ask", "ask", "compact"))
            path = rng.choice(own) if own else paths[0]
            if action == "ingest":
                arguments: tuple[object, ...] = ("ingest", path)
            elif action == "forget":
                arguments = ("forget", path.stem)
            elif action == "ask":
                arguments = rng.choice(_ASKED)
            else:
                arguments = (action,)
            done = run(db, "--wait", *arguments)
            fine = done.returncode == 0 or (
                done.returncode in (1, 2)
                and any(words in done.stderr for words in _NOT_THERE.get(action, ()))
            )
            with lock:
                report.done += 1
                key = f"{arguments[0]} {done.returncode}"
                codes[key] = codes.get(key, 0) + 1
                if not fine:
                    report.tell(f"{arguments}: exit {done.returncode}: {done.stderr[-300:]}")

    threads = [threading.Thread(target=work, args=(i,)) for i in range(workers)]
    for thread in threads:
        thread.start()
    told = time.monotonic()
    while any(thread.is_alive() for thread in threads):
        time.sleep(0.1)
        if time.monotonic() - told > 300:
            told = time.monotonic()
            print(f"  processes: {report.done} commands, {len(report.wrong)} wrong", flush=True)
    for path in paths:
        must(db, "ingest", path)
    must(db, "compare")
    if found := same(matrices(db), matrices(truth)):
        report.tell(f"another answer: {found}")
    for fault in faults(db):
        report.tell(f"unsound: {fault}")
    report.figures = {
        "workers": workers,
        "minutes": round((time.monotonic() - began) / 60, 1),
        "commands and exit codes": dict(sorted(codes.items())),
    }
    shutil.rmtree(place, ignore_errors=True)
    return report
