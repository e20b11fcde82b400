"""How long-running work reports its progress, without knowing who shows it."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """A listener to one piece of long work at a time."""

    def start(self, title: str, total: int, unit: str) -> None:
        """Work of `total` units begins; `unit` is "bytes", or a plural noun such as "pairs"."""

    def advance(self, amount: int) -> None:
        """`amount` more units are done."""

    def finish(self) -> None:
        """The work is over, done or not."""


class _Silence:
    def start(self, title: str, total: int, unit: str) -> None: ...

    def advance(self, amount: int) -> None: ...

    def finish(self) -> None: ...


NO_PROGRESS: Progress = _Silence()
