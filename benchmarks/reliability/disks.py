"""Full disks: a command fails with a reason, nothing is lost, and the same command does the rest.

A disk is a tmpfs that is mounted for the purpose, smaller than what the command needs. After the
failure it is made larger, and the command is run again.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from benchmarks.reliability.forked import must, run
from benchmarks.reliability.kills import KilledCommand, jobs
from benchmarks.reliability.stores import (
    PhaseReport,
    answers,
    copy_store,
    faults,
    names,
    same,
    scratch,
)

_ROOMY = "1g"
_KINDS = ("ingest", "compare", "import", "migrate", "doctor", "compact")


def measure_disks(folder: Path, count: int, models: int = 6) -> PhaseReport:
    """Run commands on disks that are full so often, at sizes from nothing to nearly enough."""
    report = PhaseReport("disks")
    place = scratch(folder, "disks")
    disk = place / "disk"
    disk.mkdir()
    if not _mount(disk, _ROOMY):
        report.figures = {"left out": "no right to mount a tmpfs"}
        return report
    by_kind: dict[str, int] = {}
    try:
        todo = [job for job in jobs(place, models) if job.name in _KINDS]
        for number, job in enumerate(todo):
            share = count // len(todo) + (number < count % len(todo))
            if not share:
                continue
            truth, need = _undisturbed(disk, job)
            start = job.start.stat().st_size if job.start else 0
            enough = _enough(disk, job, start, need)
            for i in range(share):
                if PhaseReport.asked_to_stop:
                    break
                # from barely more than what is there to a little less than what is enough; the last
                # one is enough for the log, and not for the store that it is to be written to
                room = start + int((enough - start) * (i + 0.5) / share)
                if share > 1 and i == share - 1:
                    room = (enough + need) // 2
                met = _fill(report, disk, job, room, truth)
                by_kind[job.name] = by_kind.get(job.name, 0) + met
                report.done += 1
            told = f"{job.name}, {share} times, {len(report.wrong)} wrong so far"
            print(f"  disks: {told}", flush=True)
    finally:
        subprocess.run(["umount", str(disk)], check=False)
        shutil.rmtree(place, ignore_errors=True)
    report.figures = {"met a full disk": by_kind}
    return report


def _mount(disk: Path, size: str) -> bool:
    if sys.platform != "linux" or os.geteuid() != 0:
        return False
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size}", "megasim-disk", str(disk)],
        capture_output=True,
        check=False,
    )
    return done.returncode == 0


def _resize(disk: Path, size: object) -> None:
    subprocess.run(["mount", "-o", f"remount,size={size}", str(disk)], check=True)


def _undisturbed(disk: Path, job: KilledCommand) -> tuple[dict[str, list[tuple[object, ...]]], int]:
    """Return what a job leaves with room enough, and the most bytes that it took."""
    db = disk / "s.duckdb"
    _begin(disk, job, _ROOMY)
    must(db, *job.arguments)
    need = sum(path.stat().st_size for path in disk.rglob("*") if path.is_file())
    if job.name == "compact":  # the old store and the new one
        assert job.start is not None
        need += job.start.stat().st_size
    return answers(db), need


def _enough(disk: Path, job: KilledCommand, low: int, high: int) -> int:
    """Return about the largest size on which a job fails."""
    for _ in range(4):
        middle = (low + high) // 2
        _begin(disk, job, max(middle, 4096))
        if run(disk / "s.duckdb", *job.arguments).returncode:
            low = middle
        else:
            high = middle
    return low


def _begin(disk: Path, job: KilledCommand, size: object) -> None:
    _resize(disk, _ROOMY)
    for path in disk.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    if job.start is not None:
        copy_store(job.start, disk / "s.duckdb")
    _resize(disk, size)


def _fill(
    report: PhaseReport,
    disk: Path,
    job: KilledCommand,
    room: int,
    truth: dict[str, list[tuple[object, ...]]],
) -> bool:
    """Run a job on a disk of so many bytes, then with room enough; whether it met the end."""
    db = disk / "s.duckdb"
    _begin(disk, job, max(room, 4096))
    is_older = job.name == "migrate"
    before = names(db) if job.start and not is_older else set()
    full = run(db, *job.arguments)
    where = f"{job.name} on {room:,} bytes"
    if full.returncode and ("Traceback" in full.stderr or full.returncode < 0):
        report.tell(f"{where}: exit {full.returncode}: {full.stderr[-300:]}")
    _resize(disk, _ROOMY)
    try:
        if before and not before <= names(db):
            report.tell(f"{where}: models lost")
        done = run(db, *job.arguments)
        if done.returncode:
            report.tell(f"{where}: then exit {done.returncode}: {done.stderr[-300:]}")
            return bool(full.returncode)
        found = same(answers(db), truth) or "; ".join(faults(db))
        if found:
            report.tell(f"{where}: {found}")
    except Exception as error:
        report.tell(f"{where}: {type(error).__name__}: {error}")
    return bool(full.returncode)
