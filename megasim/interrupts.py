"""Ctrl-C, SIGTERM and SIGHUP: at once, but never inside of what is being saved.

A signal raises KeyboardInterrupt in the main thread, stops a query of the database that is under
way, and lets pieces of work in other threads end at the next few megabytes they read.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Final

# What ends a command: Ctrl-C, a service manager or a batch system, a terminal that is closed.
ENDING_SIGNALS: Final = tuple(
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)
)


class _State:
    """What the handlers of this process know. Only the main thread changes it."""

    asked = False
    held = 0
    queries: set[Callable[[], object]] = set()  # noqa: RUF012 - there is one state


def _end(number: int, frame: FrameType | None) -> None:
    first, _State.asked = not _State.asked, True
    if _State.held and first:
        return
    for stop in tuple(_State.queries):
        stop()
    raise KeyboardInterrupt


@contextmanager
def stoppable(signals: Iterable[int] = (signal.SIGINT,)) -> Iterator[None]:
    """For the length of a block, let signals end what is under way, in other threads too.

    A signal that is ignored stays so, as SIGHUP under nohup. Outside the main thread, where
    signals do not arrive, and inside of a block like this one, nothing changes.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in signals}
    taken = [n for n, handler in before.items() if handler not in (signal.SIG_IGN, _end, None)]
    outermost = _end not in [signal.getsignal(number) for number in ENDING_SIGNALS]
    for number in taken:
        signal.signal(number, _end)
    try:
        yield
    finally:
        for number in taken:
            signal.signal(number, before[number])
        if outermost:
            _State.asked = False


@contextmanager
def held_interrupts() -> Iterator[None]:
    """Hold signals back for the length of a block, which saves what would be lost.

    KeyboardInterrupt is raised at its end when one arrived. A second one acts at once. Outside
    the main thread nothing is held back.

    >>> with held_interrupts():
    ...     saved = True
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    with stoppable():
        _State.held += 1
        try:
            yield
        finally:
            _State.held -= 1
        stop_if_asked()


@contextmanager
def interrupting(stop: Callable[[], object]) -> Iterator[None]:
    """Call `stop` on a signal that comes during a block: a query does not look for them itself.

    What the query then raises becomes KeyboardInterrupt.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    _State.queries.add(stop)
    try:
        yield
    except Exception:
        stop_if_asked()
        raise
    finally:
        _State.queries.discard(stop)


def is_asked() -> bool:
    """Whether a signal asked for the end of what is under way."""
    return _State.asked


def stop_if_asked() -> None:
    """Raise KeyboardInterrupt if a signal asked for it. Cheap; for any thread.

    >>> stop_if_asked()
    """
    if _State.asked:
        raise KeyboardInterrupt
