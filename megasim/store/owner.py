"""A store that one process keeps open: one writer, and many readers beside it at the same time.

The database lets a single process write while it reads: each reader sees the store as it was when
it began, whatever is saved meanwhile. That is what the service needs. Other processes cannot open
the store then, and speak to the service instead.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Self

import duckdb

from megasim.errors import printable
from megasim.interrupts import interrupting
from megasim.store.connection import Mode, connect
from megasim.store.lease import DEFAULT_WAIT
from megasim.store.rows import Store
from megasim.store.statements import statement
from megasim.store.versions import leave_old_rows_out
from megasim.store.writer_lock import when_free, writer_lock

# How much of the disk queries may use for what does not fit into memory.
_TEMPORARY_BYTES = 8 << 30
# Between two looks at whether what is being saved is saved.
_SAVING_SECONDS = 0.002


class StoreOwner:
    """The one connection of a process to a store, out of which readers and writers get theirs."""

    def __init__(
        self,
        path: Path,
        *,
        memory: int | None = None,
        threads: int | None = None,
        wait: float = DEFAULT_WAIT,
        uploads: Path | None = None,
    ) -> None:
        """Open a store to write, for as long as this is there.

        From then on the database reads and writes no file but the store, and those in `uploads`,
        whatever a query says.

        Args:
            uploads: a folder whose files may be read.
            memory: bytes that all queries together may use before they spill to disk.
            threads: how many threads one query may use.
            wait: seconds to wait for other processes.

        Raises:
            MegasimError: see `connect`; a store of an older schema is refused, as to read it.
        """
        self.path = path
        self._held = ExitStack()
        try:
            self._held.enter_context(writer_lock(path, wait))
            # an older schema is refused by who only reads: nobody migrates without being told to
            when_free(lambda: connect(path, "read"), wait).close()
            self._connection = when_free(
                lambda: connect(path, "update", memory=memory, threads=threads), wait
            )
        except BaseException:
            self._held.close()
            raise
        # DuckDB refuses two calls on one connection at once, as of two threads that need a cursor.
        self._connection_lock = threading.Lock()
        self._held.callback(self._close_connection)
        self._forbid_files(uploads)
        self.job_lock = threading.RLock()
        self._revision = 0
        self._is_current = False
        self._digest: tuple[int, str] = (-1, "")
        with self.writing() as store:
            self.left_out = store.left_out

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the store, and let other processes have it."""
        self._held.close()

    def _forbid_files(self, uploads: Path | None) -> None:
        run = self._connection.execute
        run(statement("limit_temporary_files").replace("{bytes}", str(_TEMPORARY_BYTES)))
        if uploads is not None:
            run(statement("allow_uploads"), {"folder": str(uploads)})
        for name in ("forbid_files", "allow_query_limits", "lock_settings"):
            run(statement(name))

    def cursor(self) -> duckdb.DuckDBPyConnection:
        """Return a connection of its own to the open store, for one thread at a time."""
        with self._connection_lock:
            cursor = self._connection.cursor()
        cursor.execute(statement("see_no_variables"))
        return cursor

    def _close_connection(self) -> None:
        with self._connection_lock:
            self._connection.close()

    def reading(self) -> tuple[Store, int]:
        """Return the store as it is now, to read, and the revision that this is.

        Close it soon, since it keeps old rows alive.
        """
        while True:
            revision = self._revision
            if revision % 2:  # something is being saved at this moment
                time.sleep(_SAVING_SECONDS)
                continue
            store = Store.over(OwnedLease(self, "read"))
            store.keep()
            if self._revision == revision:
                return store, revision
            store.close()

    def without_old_rows(
        self, connection: duckdb.DuckDBPyConnection, mode: Mode
    ) -> tuple[str, ...]:
        """Leave the rows of older versions out of what a connection says; return notes of it.

        Nobody else writes here, so where there were none, there are none.
        """
        if self._is_current:
            return ()
        notes = leave_old_rows_out(connection, self.path, mode)
        self._is_current = not notes
        return notes

    def writing(self) -> Store:
        """Return the store to write; whoever writes takes turns with the others who do."""
        return Store.over(OwnedLease(self, "update"))

    @property
    def revision(self) -> int:
        """A number that rises with all that is saved; odd while something is being saved."""
        return self._revision

    @contextmanager
    def saving(self) -> Iterator[None]:
        """Change the revision before and after a commit: who begins to read meanwhile sees it."""
        self._revision += 1  # by the one writer alone, who holds the lock of jobs
        try:
            yield
        finally:
            self._revision += 1

    def content_digest(self, store: Store, revision: int) -> str:
        """Return the digest of what the models and pairs are, computed once for a revision."""
        known, digest = self._digest
        if known != revision:
            digest = store.content_digest()
            self._digest = (revision, digest)
        return digest


class OwnedLease:
    """What `Lease` is for a store that only this process has open: nobody has to be waited for."""

    def __init__(self, owner: StoreOwner, mode: Mode) -> None:
        self.path, self.mode = owner.path, mode
        self._owner = owner
        self._connection: duckdb.DuckDBPyConnection | None = owner.cursor()
        self._lock = threading.RLock()
        self._transactions = 0
        self._is_kept = False
        self.openings = 1
        self.left_out = owner.without_old_rows(self._connection, mode)

    def _ensure(self) -> duckdb.DuckDBPyConnection:
        if self._connection is None:
            raise duckdb.ConnectionException("the store is closed")
        return self._connection

    @contextmanager
    def use(self) -> Iterator[duckdb.DuckDBPyConnection]:
        """Hold the connection for some statements. See `Lease.use`."""
        with self._lock:
            connection = self._ensure()
            with interrupting(connection.interrupt):
                yield connection

    def keep(self) -> duckdb.DuckDBPyConnection:
        """From now on read what is there now, whatever is saved meanwhile."""
        with self._lock:
            connection = self._ensure()
            if not self._is_kept and self.mode == "read":
                self._is_kept = True
                connection.execute(statement("begin_reading"))
            return connection

    def release(self) -> None:
        """Nobody waits for this connection."""

    @contextmanager
    def job(self, *, keep_open: bool = False) -> Iterator[None]:
        """Be the one writer for the length of a block. See `Lease.job`."""
        with self._owner.job_lock:
            yield

    @contextmanager
    def transaction(self, *, wait: float | None = None) -> Iterator[None]:
        """All of the block is saved, or nothing of it. See `Lease.transaction`."""
        if self._transactions:
            yield
            return
        with self._owner.job_lock, self._lock:
            connection = self._ensure()
            self._transactions += 1
            connection.begin()
            try:
                yield
                with self._owner.saving():
                    connection.commit()
            except BaseException:
                with suppress(duckdb.TransactionException):
                    connection.rollback()
                raise
            finally:
                self._transactions -= 1

    @contextmanager
    def rolled_back(self) -> Iterator[None]:
        """Change the store for the length of a block, and for it alone.

        One that is kept reads on as the store is after the block.
        """
        with self._lock:
            connection = self._ensure()
            if self._is_kept:
                connection.rollback()
            self._transactions += 1
            connection.begin()
            try:
                yield
            finally:
                connection.rollback()
                self._transactions -= 1
                if self._is_kept:
                    connection.execute(statement("begin_reading"))

    def close(self) -> None:
        """Give the connection back."""
        with self._lock:
            connection, self._connection = self._connection, None
            if connection is not None:
                with suppress(duckdb.Error):
                    connection.rollback()
                connection.close()
                if self.mode != "read":  # it may have written outside of a transaction
                    with self._owner.job_lock, self._owner.saving():
                        pass

    def __repr__(self) -> str:
        return f"<{self.mode} {printable(self.path, 200)}>"
