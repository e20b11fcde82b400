"""Run a command, and tell how long it took and how much memory of its own it held."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Run:
    """Wall seconds, peak resident memory in bytes, and what the command printed.

    `anonymous` counts pages of the process itself (RssAnon), `mapped` those of mapped files
    (RssFile), each at its own peak, sampled every 5 ms. Mapped pages are the page cache's: the
    kernel takes them back when others need them.
    """

    seconds: float
    anonymous: int
    mapped: int
    output: str

    def json(self) -> dict[str, object]:
        """Return the JSON that the command printed."""
        found = json.loads(self.output)
        assert isinstance(found, dict)
        return found


def run(command: Sequence[str]) -> Run:
    """Run a command to its end; its progress is thrown away."""
    start = time.perf_counter()
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    peaks = {"RssAnon": 0, "RssFile": 0}
    watcher = threading.Thread(target=_watch, args=(process, peaks))
    watcher.start()
    output, _ = process.communicate()
    seconds = time.perf_counter() - start
    watcher.join()
    if process.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with {process.returncode}")
    return Run(seconds, peaks["RssAnon"], peaks["RssFile"], output)


def _watch(process: subprocess.Popen[str], peaks: dict[str, int]) -> None:
    status = Path(f"/proc/{process.pid}/status")
    while process.poll() is None:
        try:
            lines = status.read_text().splitlines()
        except OSError:
            return
        for line in lines:
            name, _, rest = line.partition(":")
            if name in peaks:
                peaks[name] = max(peaks[name], int(rest.split()[0]) * 1024)
        time.sleep(0.005)


def megasim(db: Path, *arguments: str) -> Run:
    """Run a megasim command as a whole process."""
    return run([sys.executable, "-m", "megasim.cli", "--db", str(db), *arguments])


def in_cache(paths: Sequence[Path]) -> None:
    """Read files once, so that they lie in the page cache."""
    for path in paths:
        with path.open("rb") as file:
            while file.read(64 << 20):
                pass
