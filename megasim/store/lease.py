"""A connection to a store that is there while it is used, so that other processes get their turn.

The database lets one process write or several read. So a connection is opened when a statement
needs it, and closed when nothing has asked for half a second. A job that takes long reads over a
connection that others can read beside, and opens the store for writing only while it writes.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Protocol

import duckdb

from megasim.errors import StoreLockedError, StoreServedError
from megasim.interrupts import interrupting, is_asked
from megasim.store.connection import Mode, connect
from megasim.store.versions import leave_old_rows_out
from megasim.store.writer_lock import POLL_SECONDS, writer_lock

DEFAULT_WAIT = 10.0
# A connection that nobody used for so long is closed.
_IDLE_SECONDS = 0.5
# A job under way has work to save, and waits longer for readers; once a signal came, hardly.
_JOB_SECONDS = 600.0
_ASKED_SECONDS = 1.5


class HeldConnection(Protocol):
    """What a `Session` needs of its connection, however it is held."""

    path: Path
    mode: Mode
    left_out: tuple[str, ...]

    @property
    def openings(self) -> int:
        """How often the store was opened."""

    def use(self) -> AbstractContextManager[duckdb.DuckDBPyConnection]:
        """Hold the connection for some statements."""

    def transaction(self, *, wait: float | None = None) -> AbstractContextManager[None]:
        """All of the block is saved, or nothing of it."""

    def rolled_back(self) -> AbstractContextManager[None]:
        """Change the store for the length of a block, and for it alone."""

    def job(self, *, keep_open: bool = False) -> AbstractContextManager[None]:
        """Be the one writer for the length of a block."""

    def keep(self) -> duckdb.DuckDBPyConnection:
        """Keep what is read of one moment."""

    def release(self) -> None:
        """Let others have the store until the next statement."""

    def close(self) -> None:
        """Close the connection for good."""


class Lease:
    """The connection to one store, opened and closed as it is needed."""

    def __init__(
        self,
        path: Path,
        mode: Mode,
        *,
        memory: int | None = None,
        threads: int | None = None,
        wait: float = DEFAULT_WAIT,
        all_rows: bool = False,
    ) -> None:
        """Open the store, so that what is wrong with it is known at once. See `connect`.

        Args:
            wait: seconds to wait for other processes, each time.
            all_rows: take rows of older versions as they are. See `versions`.
        """
        self.left_out: tuple[str, ...] = ()
        self._all_rows = all_rows
        self.path, self.mode, self.wait = path, mode, wait
        self._limits = {"memory": memory, "threads": threads}
        self._lock = threading.RLock()
        self._connection: duckdb.DuckDBPyConnection | None = None
        self._opened_as: Mode = mode
        self._used_at = 0.0
        self._jobs = self._transactions = 0
        self._is_kept = self._is_closed = False
        # no row is of an older version, as long as nobody else can have written one
        self._is_current = False
        self._watcher: threading.Thread | None = None
        self._openings = 0
        self._open(mode, wait)

    @contextmanager
    def use(self) -> Iterator[duckdb.DuckDBPyConnection]:
        """Hold the connection for some statements, whose results are fetched within the block."""
        with self._lock:
            job = self._jobs and not self._transactions
            connection = self._ensure("read" if job else self.mode, self.wait)
            try:
                with interrupting(connection.interrupt):
                    yield connection
            finally:
                self._used_at = time.monotonic()

    @contextmanager
    def capped(self, most: int) -> Iterator[None]:
        """Keep at most so many bytes of the store in memory while a block reads through it."""
        with self.use() as connection:
            given = self._limits["memory"]
            if given is not None and given <= most:
                yield
                return
            connection.execute(f"set memory_limit = '{int(most)}B'")
            try:
                yield
            finally:
                connection.execute(
                    "reset memory_limit" if given is None else f"set memory_limit = '{given}B'"
                )

    @contextmanager
    def transaction(self, *, wait: float | None = None) -> Iterator[None]:
        """All of the block is saved, or nothing of it.

        Args:
            wait: seconds to wait for readers; by default ten minutes within a job, which has work
                to save, else as the store was opened with.
        """
        if self._transactions:
            yield  # a part of the one around it
            return
        with self._lock, nullcontext() if self._jobs else self._as_writer():
            if wait is None:
                wait = max(self.wait, _JOB_SECONDS) if self._jobs else self.wait
            self._transactions += 1
            try:
                connection = self._ensure(self.mode, wait)
                try:
                    connection.begin()
                    yield
                    connection.commit()
                except BaseException:
                    # a signal may have come just before it began, or just after it was saved
                    with suppress(duckdb.TransactionException):
                        connection.rollback()
                    raise
            finally:
                self._transactions -= 1
                self._used_at = time.monotonic()

    @contextmanager
    def _as_writer(self) -> Iterator[None]:
        """Be the one writer. Whoever waits for that keeps nobody out of the store meanwhile: the
        writer may need to open it before it can end.
        """
        with ExitStack() as held:
            try:
                held.enter_context(writer_lock(self.path))
            except StoreServedError:
                raise
            except StoreLockedError:
                self.release()
                held.enter_context(writer_lock(self.path, self.wait))
            yield

    @contextmanager
    def rolled_back(self) -> Iterator[None]:
        """Change the store for the length of a block, and for it alone."""
        with self._lock:
            connection = self._ensure(self.mode, self.wait)
            self._transactions += 1
            connection.begin()
            try:
                yield
            finally:
                connection.rollback()
                self._transactions -= 1
                self._used_at = time.monotonic()

    @contextmanager
    def job(self, *, keep_open: bool = False) -> Iterator[None]:
        """Be the one writer for the length of a block, and let others read beside it.

        Within it only a transaction opens the store for writing, and whoever has saved what there
        is to save says `release`.

        Args:
            keep_open: begin over the connection that is there, also if it shuts readers out: for a
                job that asks little before it reads files, and may be done before it is idle.

        Raises:
            StoreLockedError: another process is.
        """
        if self._jobs:
            yield
            return
        with self._as_writer():
            self._jobs += 1
            if not keep_open:
                self.release()
            try:
                yield
            finally:
                self._jobs -= 1
                self.release()

    @property
    def openings(self) -> int:
        """How often the store was opened: temporary tables last from one opening to the next."""
        return self._openings

    def keep(self) -> duckdb.DuckDBPyConnection:
        """Open the connection, and keep it until the end: nothing changes meanwhile."""
        with self._lock:
            self._is_kept = True
            return self._ensure(self.mode, self.wait)

    def release(self) -> None:
        """Let others have the store until the next statement; one to write stays if it is kept."""
        with self._lock:
            if not self._is_kept or self.mode == "read":
                self._disconnect()

    def close(self) -> None:
        """Close the connection for good."""
        with self._lock:
            self._is_closed = True
            self._disconnect()

    def _ensure(self, mode: Mode, wait: float) -> duckdb.DuckDBPyConnection:
        if self._is_closed:
            raise duckdb.ConnectionException("the store is closed")
        if self._connection is not None and mode != "read" and self._opened_as == "read":
            self._disconnect()
        return self._connection or self._open(mode, wait)

    def _open(self, mode: Mode, wait: float) -> duckdb.DuckDBPyConnection:
        deadline, asked = time.monotonic() + wait, False
        while True:
            try:
                connection = connect(self.path, mode, **self._limits)
                break
            except StoreServedError:
                raise
            except StoreLockedError:
                if is_asked() and not asked:
                    asked = True
                    deadline = min(deadline, time.monotonic() + _ASKED_SECONDS)
                if time.monotonic() >= deadline:
                    raise
                time.sleep(POLL_SECONDS)
        if not (self._all_rows or self._is_current):
            try:
                notes = leave_old_rows_out(connection, self.path, mode)
            except BaseException:
                connection.close()
                raise
            self.left_out = self.left_out or notes
            self._is_current = not notes
        self._connection = connection
        self._opened_as = mode
        self._used_at = time.monotonic()
        self._openings += 1
        if not (self._watcher and self._watcher.is_alive()):
            self._watcher = threading.Thread(target=self._watch, daemon=True)
            self._watcher.start()
        return self._connection

    def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()
        if not self._jobs:
            self._is_current = False

    def _watch(self) -> None:
        """Close the connection once nothing has used it for a while; then end."""
        while True:
            time.sleep(_IDLE_SECONDS / 2)
            with self._lock:
                if self._connection is None or self._is_kept:
                    self._watcher = None
                    return
                idle = time.monotonic() - self._used_at > _IDLE_SECONDS
                if idle and not self._transactions:
                    self.release()
