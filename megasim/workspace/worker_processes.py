"""Processes that run pieces of work, and when they are taken in place of threads.

Threads share one Python: each holds it for some tens of microseconds a piece and tensor, and from
about eight on they wait for each other more than they work. Processes do not, but each takes about
half a second of a core to start, and some 40 MB of memory.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing import get_context
from pathlib import Path

from megasim.errors import MegasimError

# From so many workers on, processes read faster: 16 threads read 4.4 GB/s, 8 of them 4.6, and 16
# processes 8.4 (docs/performance.md).
MANY_WORKERS = 8
# With fewer bytes for each, half a second to start is not won back.
BYTES_A_PROCESS = 1 << 30
# Between two looks at whether the process that began this one is still there.
_LOOK_SECONDS = 1.0


def processes_pay(workers: int, size: int) -> bool:
    """Return whether processes are expected to read so many bytes sooner than threads.

    >>> processes_pay(16, 26 << 30), processes_pay(16, 4 << 30), processes_pay(2, 26 << 30)
    (True, False, False)
    """
    return workers >= MANY_WORKERS and size >= workers * BYTES_A_PROCESS


@contextmanager
def ingest_processes(workers: int, paths: Iterable[Path]) -> Iterator[ProcessPoolExecutor | None]:
    """Give processes to read checkpoints for the length of a block; None where threads are faster.

    The main module of the program is imported by each of them, so a program that calls this has to
    begin its work under `if __name__ == "__main__"`.

    Raises:
        MegasimError: a process was ended from outside.
    """
    from megasim.ingest.paths import file_bytes

    if workers < MANY_WORKERS or not processes_pay(workers, sum(map(file_bytes, paths))):
        yield None
        return
    with worker_processes(workers) as executor:
        try:
            yield executor
        except BrokenProcessPool:
            raise MegasimError(
                "a process that read checkpoints was ended, most often because memory was short",
                f"run the same command with --workers {MANY_WORKERS - 1}, which are threads; "
                "models that were saved are not read again",
            ) from None


@contextmanager
def worker_processes(workers: int, niceness: int = 0) -> Iterator[ProcessPoolExecutor]:
    """Give processes that run pieces of work, for the length of a block.

    They start as work comes, and end with this process, however it ends. Ctrl-C is left to it.
    """
    executor = ProcessPoolExecutor(
        workers,
        mp_context=get_context("spawn"),
        initializer=_begin,
        initargs=(os.getpid(), niceness),
    )
    try:
        yield executor
    finally:
        executor.shutdown(wait=True, cancel_futures=True)


def _begin(parent: int, niceness: int) -> None:
    if niceness and hasattr(os, "nice"):
        os.nice(niceness)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()


def _end_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(_LOOK_SECONDS)
    os._exit(1)
