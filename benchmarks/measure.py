"""Run a command and measure its time and its own memory."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

Row = dict[str, object]


@dataclass(frozen=True)
class Run:
    """What one process took.

    Attributes:
        seconds: wall time of the whole process, its start included.
        anonymous: peak bytes of memory of its own (RssAnon of /proc/PID/status).
        mapped: peak bytes of pages of mapped files (RssFile): libraries, and the page cache's
            own pages, which the kernel takes back when others need them.
        from_disk: bytes that came from the disk, not the page cache (read_bytes of /proc/PID/io).
        output: what it printed.

    Memory is sampled every 5 ms, and `anonymous` and `mapped` have their peaks apart.
    """

    seconds: float
    anonymous: int
    mapped: int
    from_disk: int
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
    peaks = {"RssAnon": 0, "RssFile": 0, "read_bytes": 0}
    watcher = threading.Thread(target=_watch, args=(process, peaks))
    watcher.start()
    output, _ = process.communicate()
    seconds = time.perf_counter() - start
    watcher.join()
    if process.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with {process.returncode}")
    return Run(seconds, peaks["RssAnon"], peaks["RssFile"], peaks["read_bytes"], output)


def _watch(process: subprocess.Popen[str], peaks: dict[str, int]) -> None:
    places = [Path(f"/proc/{process.pid}/{name}") for name in ("status", "io")]
    while process.poll() is None:
        try:
            lines = [line for place in places for line in place.read_text().splitlines()]
        except OSError:
            return
        for line in lines:
            name, _, rest = line.partition(":")
            if name in peaks:
                scale = 1024 if rest.endswith("kB") else 1
                peaks[name] = max(peaks[name], int(rest.split()[0]) * scale)
        time.sleep(0.005)


def megasim(db: Path, *arguments: str) -> Run:
    """Run a megasim command as a whole process."""
    return run([sys.executable, "-m", "megasim.cli", "--db", str(db), *arguments])


def in_cache(paths: Sequence[Path]) -> None:
    """Read files once, so that they lie in the page cache, as far as there is room."""
    for path in paths:
        with path.open("rb") as file:
            while file.read(64 << 20):
                pass
