"""How far a job is, how fast, and how long it will take; and where it is stopped."""

from __future__ import annotations

import threading
import time
from typing import Any


class Stopped(BaseException):
    """A job was cancelled, or the service ends: what is done is saved, as after Ctrl-C."""


class JobProgress:
    """A listener to the work of one job, which others look at from other threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._title, self._unit = "", ""
        self._total = self._done = 0
        self._began_at = time.monotonic()
        self._stopped = threading.Event()

    # What the work tells

    def start(self, title: str, total: int, unit: str) -> None:
        """Work of `total` units begins."""
        self._stop_here()
        with self._lock:
            self._title, self._unit, self._total, self._done = title, unit, total, 0
            self._began_at = time.monotonic()

    def advance(self, amount: int) -> None:
        """`amount` more units are done."""
        self._stop_here()
        with self._lock:
            self._done += amount

    def finish(self) -> None:
        """The work is over, done or not."""

    def _stop_here(self) -> None:
        if self._stopped.is_set():
            raise Stopped

    # What others ask

    def stop(self) -> None:
        """Let the work end where it next tells how far it is."""
        self._stopped.set()

    def to_json(self) -> dict[str, Any]:
        """Return how far the work is: units done, a second, and seconds left; null if not known."""
        with self._lock:
            seconds = time.monotonic() - self._began_at
            rate = self._done / seconds if self._done and seconds > 0 else None
            left = (self._total - self._done) / rate if rate else None
            return {
                "title": self._title,
                "unit": self._unit,
                "done": self._done,
                "total": self._total,
                "rate": rate and float(f"{rate:.3g}"),
                "seconds_left": left and round(left, 1),
            }
