"""The processes that read checkpoints for a job: what one of them breaks off with, the service
survives.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context

from megasim.workspace.jobs import usable_cores

# What waits for an answer comes first.
_NICENESS = 10
# Between two looks at whether the service is still there.
_LOOK_SECONDS = 1.0


@contextmanager
def reading_processes(workers: int | None) -> Iterator[ProcessPoolExecutor]:
    """Give processes that run the pieces of a job, for the length of a block."""
    executor = ProcessPoolExecutor(
        workers or usable_cores(),
        mp_context=get_context("spawn"),
        initializer=_begin,
        initargs=(os.getpid(),),
    )
    try:
        yield executor
    finally:
        executor.shutdown(wait=True, cancel_futures=True)


def _begin(service: int) -> None:
    """Leave Ctrl-C to the service, end with it, however it ends, and give way to its readers."""
    if hasattr(os, "nice"):
        os.nice(_NICENESS)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with, args=(service,), daemon=True).start()


def _end_with(service: int) -> None:
    while os.getppid() == service:
        time.sleep(_LOOK_SECONDS)
    os._exit(1)
