"""One writer at a time: a lock beside the store that is held for the length of a job.

The lock of the database itself is held only while a batch is written, so that others can read in
between. Without one of the job's own a second writer could come in between two batches, and give
the ids of what it forgets to something else.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeVar

from megasim.errors import StoreLockedError, StoreServedError, printable
from megasim.store.service_file import running_service

if sys.platform != "win32":  # where the database's own lock has to do
    import fcntl

T = TypeVar("T")

# Between two attempts to get hold of a lock.
POLL_SECONDS = 0.02


def when_free(work: Callable[[], T], wait: float) -> T:
    """Return what `work` returns, which is tried again while another process has the store.

    Args:
        wait: seconds until it is given up.

    Raises:
        StoreLockedError: it was not free in that time.
    """
    deadline = time.monotonic() + wait
    while True:
        try:
            return work()
        except StoreServedError:
            raise
        except StoreLockedError:
            if time.monotonic() >= deadline:
                raise
        time.sleep(POLL_SECONDS)


@contextmanager
def writer_lock(store: Path, wait: float = 0.0) -> Iterator[None]:
    """Hold the lock of the one writer of a store; the system lets go of it if the process dies.

    Args:
        wait: seconds to wait for another writer to end.

    Raises:
        StoreLockedError: another process, or another job of this one, writes to it.
    """
    if sys.platform == "win32":
        yield
        return
    path = store.with_name(f"{store.name}.lock")
    handle = _acquire(path, store, time.monotonic() + wait)
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
        os.close(handle)


def _acquire(path: Path, store: Path, deadline: float) -> int:
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _is_still(handle, path):
                os.ftruncate(handle, 0)
                os.pwrite(handle, str(os.getpid()).encode(), 0)
                return handle
        except BlockingIOError:
            if service := running_service(store):
                os.close(handle)
                raise StoreServedError(store, service.address) from None
            if time.monotonic() >= deadline:
                who = os.pread(handle, 20, 0).decode("ascii", "replace")
                os.close(handle)
                raise StoreLockedError(
                    f"{printable(store)} is in use by "
                    + (f"process {who}" if who.isdigit() else "another process"),
                    "wait until it is done (see --wait), or stop it; what it has saved is kept",
                ) from None
            time.sleep(POLL_SECONDS)
        except BaseException:
            os.close(handle)
            raise
        os.close(handle)


def _is_still(handle: int, path: Path) -> bool:
    """Whether a file has not been taken away by who held its lock before."""
    with suppress(FileNotFoundError):
        return os.path.samestat(os.fstat(handle), path.stat())
    return False
