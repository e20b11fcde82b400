"""Files that change while they are read: none is stored, and no distance of one.

The change is made between two reads of the very file, at a random one, by four kinds of hands:
overwriting in place with the times set back, putting another file in its place, cutting it short,
and taking it away.
"""

from __future__ import annotations

import os
import random
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.reliability.forked import must
from benchmarks.reliability.stores import PhaseReport, copy_store, faults, scratch, write_models
from megasim.checkpoint.tensors import TensorReader
from megasim.workspace import open_store

_MODELS = 3
_ROWS = 1600  # of tensors larger than what is sampled of a file


def overwrite(path: Path) -> None:
    """Change bytes in place, in every megabyte, and set the times back."""
    status = path.stat()
    with path.open("r+b") as file:
        for at in range(200_000, status.st_size - 1000, 1 << 20):
            file.seek(at)
            file.write(b"\x01\x3c" * 100)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def replace(path: Path) -> None:
    """Put a file of the same size and times in its place."""
    status = path.stat()
    other = path.with_name("other.part")
    shutil.copyfile(path, other)
    overwrite(other)
    os.utime(other, ns=(status.st_atime_ns, status.st_mtime_ns))
    other.replace(path)


def cut(path: Path) -> None:
    """Cut off the second half."""
    os.truncate(path, path.stat().st_size // 2)


def remove(path: Path) -> None:
    """Take the file away."""
    path.unlink()


_CHANGES: tuple[Callable[[Path], None], ...] = (overwrite, replace, cut, remove)


def measure_changes(folder: Path, count: int, seed: int = 0) -> PhaseReport:
    """Change a file during ingest and during compare, in turn, so often."""
    place = scratch(folder, "changes")
    originals = place / "originals"
    paths = write_models(originals, _MODELS, _ROWS)
    models, db = place / "models", place / "s.duckdb"
    shutil.copytree(originals, models)
    must(db, "ingest", models)
    ingested = place / "ingested.duckdb"
    copy_store(db, ingested)
    reads = {"compare": _reads_of_each(db, "compare", models)}
    db.unlink()
    reads["ingest"] = _reads_of_each(db, "ingest", models)
    report, rng = PhaseReport("changes"), random.Random(seed)
    done = {"ingest": 0, "compare": 0}
    for i in range(count):
        if PhaseReport.asked_to_stop:
            break
        kind = "compare" if i % 2 else "ingest"
        path = models / rng.choice(paths).name
        change = rng.choice(_CHANGES)
        shutil.rmtree(models)
        shutil.copytree(originals, models)
        if kind == "compare":
            copy_store(ingested, db)
        else:
            db.unlink(missing_ok=True)
        with changing(path, change, rng.randrange(reads[kind][str(path)])) as happened:
            told = _work(db, kind, models)
        where = f"{kind} {i}, {change.__name__} {path.name}"
        if not happened:
            report.tell(f"{where}: the file was not read")
        elif path.name not in told:
            report.tell(f"{where}: not told of; told {told!r}")
        _check(report, where, db, kind, path.stem)
        done[kind] += 1
        report.done += 1
    report.figures = dict(done)
    shutil.rmtree(place, ignore_errors=True)
    return report


@contextmanager
def before_reads(call: Callable[[str], None]) -> Iterator[None]:
    """Call a function with the path of a file before each read of its tensors in this process."""
    read, read_bytes = TensorReader.read, TensorReader.read_bytes

    def read_after_it(self: TensorReader, ref: Any, *given: Any, **named: Any) -> Any:
        call(ref.path)
        return read(self, ref, *given, **named)

    def read_bytes_after_it(self: TensorReader, path: str, *given: Any, **named: Any) -> None:
        call(path)
        read_bytes(self, path, *given, **named)

    TensorReader.read = read_after_it  # type: ignore[method-assign]
    TensorReader.read_bytes = read_bytes_after_it  # type: ignore[method-assign]
    try:
        yield
    finally:
        TensorReader.read = read  # type: ignore[method-assign]
        TensorReader.read_bytes = read_bytes  # type: ignore[method-assign]


@contextmanager
def changing(path: Path, change: Callable[[Path], None], after: int) -> Iterator[list[int]]:
    """Change a file just before a read of it, after so many; gives whether it came to that."""
    begun, happened = [0], list[int]()

    def before_a_read(of: str) -> None:
        if of == str(path):
            begun[0] += 1
            if not happened and begun[0] > after:
                happened.append(begun[0])
                change(path)

    with before_reads(before_a_read):
        yield happened


def _reads_of_each(db: Path, kind: str, models: Path) -> Counter[str]:
    """Run a job without a change, and return how many reads each file takes."""
    reads: Counter[str] = Counter()
    with before_reads(lambda path: reads.update([path])):
        _work(db, kind, models)
    return reads


def _work(db: Path, kind: str, models: Path) -> str:
    """Run a job, and return what it told of files that could not be read."""
    with open_store(db) as store:
        result = store.ingest(models, workers=1) if kind == "ingest" else store.compare(workers=1)
        return " ".join(error.message for error in result.failed)


def _check(report: PhaseReport, where: str, db: Path, kind: str, name: str) -> None:
    with open_store(db, "read") as store:
        known = set(store.models()["name"])
        if kind == "ingest" and name in known:
            report.tell(f"{where}: it was stored")
        if kind == "ingest" and len(known) != _MODELS - 1:
            report.tell(f"{where}: {len(known)} others were stored")
        asked = f"select count(*) as n from layer_distances where '{name}' in (model_a, model_b)"
        asked += " and source = 'exact' and l2 > 0"
        if kind == "compare" and store.sql(asked)["n"].item():
            report.tell(f"{where}: distances of it were stored")
    if found := faults(db):
        report.tell(f"{where}: {found[0]}")
