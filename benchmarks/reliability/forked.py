"""Commands of megasim in processes of their own that need no time to begin: forked from one server
that has imported everything and opened nothing.
"""

from __future__ import annotations

import importlib
import os
import signal
import sys
import tempfile
from dataclasses import dataclass
from importlib.metadata import entry_points
from multiprocessing import get_context
from multiprocessing.context import ForkServerProcess
from pathlib import Path

_PATIENCE = 1200.0  # seconds after which a command hangs
_context = get_context("forkserver")
_context.set_forkserver_preload([__name__])

for _name in ("ingest", "compare", "store", "upkeep", "findings", "matrix", "exchange"):
    importlib.import_module(f"megasim.commands.{_name}")
for _name in (
    *("workspace", "ingest.paths", "compare.pairs", "doctor.diagnosis", "kernels.loops"),
    *("exchange.fingerprint_file", "findings.overview", "answers.matrices", "estimate.folded"),
    *("exchange.mega_cmp_import", "store.compaction", "checkpoint.opening"),
):
    importlib.import_module(f"megasim.{_name}")
(_script,) = entry_points(group="console_scripts", name="megasim")
_megasim = _script.load()  # the command as it is installed


@dataclass(frozen=True)
class Ended:
    """How a command ended: its exit code, negative where a signal ended it, and what it said."""

    returncode: int
    stderr: str


def begin(db: Path, *arguments: object, told: Path | None = None) -> ForkServerProcess:
    """Start a command on a store; what it says goes to the file `told`."""
    given = ["-q", "--db", str(db), *map(str, arguments)]
    process = _context.Process(
        target=_work, args=(given, os.devnull if told is None else str(told))
    )
    process.start()
    return process


def run(db: Path, *arguments: object) -> Ended:
    """Run a command on a store to its end."""
    with tempfile.NamedTemporaryFile(dir=db.parent.parent) as file:
        process = begin(db, *arguments, told=Path(file.name))
        process.join(_PATIENCE)
        if process.exitcode is None:
            process.kill()
            raise TimeoutError(f"{arguments} hangs")
        return Ended(process.exitcode, file.read().decode("utf-8", "replace"))


def must(db: Path, *arguments: object) -> None:
    """Run a command that has to succeed."""
    ended = run(db, *arguments)
    if ended.returncode:
        raise RuntimeError(f"{arguments}: exit {ended.returncode}: {ended.stderr[-400:]}")


def _work(arguments: list[str], told: str) -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)
    out = os.open(told, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    os.dup2(out, 2)
    sys.argv = ["megasim", *arguments]
    _megasim()
