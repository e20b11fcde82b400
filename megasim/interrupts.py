"""Ctrl-C at a safe point: between pieces of work, never inside a transaction."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def held_interrupts() -> Iterator[Callable[[], None]]:
    """Hold Ctrl-C back for the length of a block, and yield a function that lets it through.

    The function raises KeyboardInterrupt when Ctrl-C was pressed. Pressed a second time, it acts
    at once. Outside the main thread, where signals do not arrive, nothing is held back.

    >>> with held_interrupts() as stop_if_asked:
    ...     stop_if_asked()
    """
    pressed = False

    def hold(number: int, frame: FrameType | None) -> None:
        nonlocal pressed
        pressed = True
        signal.signal(signal.SIGINT, before)

    def stop_if_asked() -> None:
        if pressed:
            raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield stop_if_asked
        return
    before = signal.getsignal(signal.SIGINT)
    signal.signal(signal.SIGINT, hold)
    try:
        yield stop_if_asked
        stop_if_asked()
    finally:
        signal.signal(signal.SIGINT, before)
