"""SIGKILL at random moments and at exact writes: nothing is lost, the same command does the rest.

A command is killed, the store is examined as it was left, the command is run again to its end, and
the store must then say what it says where nobody disturbed the command, bit for bit.

Exact writes are those system calls that change the store or the log beside it; `strace` counts them
once, and then kills the command as it enters one of them. Without strace all kills are at random.
"""

from __future__ import annotations

import random
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path

import duckdb

from benchmarks.reliability.forked import begin, must, run
from benchmarks.reliability.stores import (
    PhaseReport,
    answers,
    command,
    copy_store,
    faults,
    names,
    remove_store,
    same,
    scratch,
    spread,
    write_models,
)
from tests.older_stores import write_older

_WRITES = ("pwrite64", "write", "fdatasync", "ftruncate", "rename", "unlink")
# The lock of the store that a killed process leaves is taken over by the next.
_LINE = re.compile(r"^\d+\s+(\w+)\(")


@dataclass(frozen=True)
class KilledCommand:
    """A command on a store that `start` makes, and what must be there before and after it."""

    name: str
    start: Path | None
    arguments: tuple[object, ...]


def jobs(place: Path, models: int) -> list[KilledCommand]:
    """Return a job of each kind that writes, with the stores that they begin with."""
    folder = place / "models"
    write_models(folder, models)
    fresh, compared = place / "fresh.duckdb", place / "compared.duckdb"
    must(fresh, "ingest", folder)
    copy_store(fresh, compared)
    must(compared, "compare")
    must(compared, "export", "--fingerprints", place / "prints.parquet")
    old, ill = place / "old.duckdb", place / "ill.duckdb"
    write_older(compared, old)
    copy_store(compared, ill)
    with duckdb.connect(str(ill)) as con:
        con.execute("delete from component_distance where model_a = 1")
        con.execute("delete from tensor_distance where rowid % 3 = 0")
    return [
        KilledCommand("ingest", None, ("ingest", folder)),
        KilledCommand("compare", fresh, ("compare",)),
        KilledCommand("import", None, ("import", place / "prints.parquet")),
        KilledCommand("forget", compared, ("forget", "m00", "m01")),
        KilledCommand("migrate", old, ("migrate",)),
        KilledCommand("doctor", ill, ("doctor", "--repair")),
        KilledCommand("compact", compared, ("compact",)),
    ]


def measure_kills(
    folder: Path,
    count: int,
    seed: int = 0,
    models: int = 6,
    commands: Collection[str] | None = None,
) -> PhaseReport:
    """Kill commands so often, half at random and half at exact writes; all kinds when None."""
    place = scratch(folder, "kills")
    report = PhaseReport("kills")
    rng = random.Random(seed)
    exact = _can_trace(place)
    todo = [job for job in jobs(place, models) if commands is None or job.name in commands]
    by_job = {job.name: 0 for job in todo}
    at_writes = 0
    for number, job in enumerate(todo):
        share = count // len(todo) + (number < count % len(todo))
        if not share:
            continue
        truth, seconds, writes = _undisturbed(place, job, exact)
        points = spread(writes, (share + 1) // 2) if writes else []
        for i in range(share):
            if PhaseReport.asked_to_stop:
                break
            db = place / "victim.duckdb"
            before = _begin(db, job)
            if i < len(points):
                killed = _kill_at_write(db, job, *points[i])
                at_writes += killed
            else:
                killed = _kill_at(db, job, rng.uniform(0, 1.05 * seconds))
            _examine(report, db, job, before, truth)
            report.done += 1
            by_job[job.name] += killed
        print(f"  kills: {job.name}, {share} times, {len(report.wrong)} wrong so far", flush=True)
    report.figures = {
        "ended by the kill": by_job,
        "at exact writes": at_writes,
        "strace": "used" if exact else "not there: all kills at random",
    }
    shutil.rmtree(place, ignore_errors=True)
    return report


def _begin(db: Path, job: KilledCommand) -> set[str]:
    """Put the store there that a job begins with, and return its models."""
    if job.start is None:
        remove_store(db)
        return set()
    copy_store(job.start, db)
    return set() if job.name == "migrate" else names(db)


def _undisturbed(
    place: Path, job: KilledCommand, exact: bool
) -> tuple[dict[str, list[tuple[object, ...]]], float, list[tuple[str, int]]]:
    """Return what a job leaves when nobody disturbs it, its seconds, and each of its writes."""
    db = place / "victim.duckdb"
    _begin(db, job)
    began = time.perf_counter()
    must(db, *job.arguments)
    seconds = time.perf_counter() - began
    truth = answers(db)
    writes: list[tuple[str, int]] = []
    if exact:
        _begin(db, job)
        log = place / "strace.log"
        subprocess.run(
            [*_strace(db, log), *command(db, *job.arguments)], capture_output=True, check=True
        )
        seen: dict[str, int] = {}
        for line in log.read_text("utf-8", "replace").splitlines():
            match = _LINE.match(line)
            if match and match[1] in _WRITES:
                seen[match[1]] = seen.get(match[1], 0) + 1
                writes.append((match[1], seen[match[1]]))
    return truth, seconds, writes


def _strace(db: Path, log: Path | None, *inject: str) -> list[str]:
    """Return the beginning of a command that is traced where it changes a store."""
    parts = [db, db.with_name(f"{db.name}.wal"), db.with_name(f"{db.name}.compacting")]
    paths = [word for part in parts for word in ("-P", str(part))]
    output = ["-o", "/dev/null" if log is None else str(log)]
    return ["strace", "-f", "-qq", "-e", f"trace={','.join(_WRITES)}", *paths, *inject, *output]


def _kill_at_write(db: Path, job: KilledCommand, name: str, number: int) -> bool:
    inject = ("-e", f"inject={name}:signal=KILL:when={number}")
    done = subprocess.run(
        [*_strace(db, None, *inject), *command(db, *job.arguments)],
        capture_output=True,
        check=False,
    )
    return done.returncode in (-signal.SIGKILL, 128 + signal.SIGKILL)


def _kill_at(db: Path, job: KilledCommand, seconds: float) -> bool:
    process = begin(db, *job.arguments)
    process.join(seconds)
    process.kill()
    process.join()
    return process.exitcode == -signal.SIGKILL


def _examine(
    report: PhaseReport,
    db: Path,
    job: KilledCommand,
    before: set[str],
    truth: dict[str, list[tuple[object, ...]]],
) -> None:
    """Look at a store that a kill left, end the job, and look again."""

    def check(what: str, test: Callable[[], object]) -> None:
        try:
            found = test()
        except Exception as error:
            found = f"{type(error).__name__}: {error}"
        if found:
            report.tell(f"{job.name} {report.done}: {what}: {str(found)[:400]}")

    if db.exists() and job.name not in ("migrate", "doctor", "forget"):
        check("models lost", lambda: (before - names(db)) if before else "")
    if db.exists() and job.name == "forget":
        check("half forgotten", lambda: len(before - names(db)) not in (0, 2))
    if db.exists() and job.name in ("compare", "forget", "compact"):
        check("unsound as it was left", lambda: faults(db))
    done = run(db, *job.arguments)
    # where the kill came too late, they are forgotten already
    forgotten = job.name == "forget" and done.returncode == 2 and "no such model" in done.stderr
    if done.returncode and not forgotten:
        report.tell(f"{job.name} {report.done}: exit {done.returncode}: {done.stderr[-300:]}")
        return
    check("another answer", lambda: same(answers(db), truth))
    check("unsound at the end", lambda: faults(db))


def _can_trace(place: Path) -> bool:
    """Whether strace is here and may trace."""
    if shutil.which("strace") is None:
        return False
    done = subprocess.run(
        ["strace", "-f", "-o", str(place / "try.log"), "true"], capture_output=True, check=False
    )
    return done.returncode == 0
