"""Readers that come back: each sees one state of the store for as long as its work takes.

A client of another process reads with the statements of `sql/`, one after another. What it finds
must be of one moment, so a session keeps a transaction open between them.
"""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING, Any

import duckdb

from megasim.serve.guarded_queries import Rows, check_query
from megasim.serve.refusals import Refusal
from megasim.serve.settings import Settings
from megasim.store.owner import StoreOwner
from megasim.store.rows import Store
from megasim.store.statements import statement

if TYPE_CHECKING:
    import pyarrow as pa

_MOST = 64
_IDLE_SECONDS = 120.0
_OWNER_SECONDS = 3600.0  # of one statement: who started the service may wait
# What may be added to the store for the length of a block, and is never kept: estimates.
_UNSAVED = ("add_estimates",)


class ReadingSession:
    """One reader of the store, who asks one thing at a time."""

    def __init__(self, store: Store, settings: Settings, *, is_owner: bool) -> None:
        self.store = store
        self.is_owner = is_owner
        self.lock = threading.Lock()
        self.used_at = time.monotonic()
        self._settings = settings
        self._unsaved: ExitStack | None = None
        connection = store.connection
        connection.execute(statement("keep_all_types"))

    def rows(self, sql: str, values: Mapping[str, Any], tables: Mapping[str, pa.Table]) -> Rows:
        """Begin to run a query; who reads the rows says `ended` afterwards.

        Raises:
            UsageError: it does more than read. See `check_query`.
        """
        connection = self.store.connection
        for name, table in tables.items():
            connection.register(name, table)
        try:
            if self._unsaved and sql in map(statement, _UNSAVED):
                connection.execute(sql)
                sql, values = statement("nothing"), {}
            else:
                check_query(connection, sql)
            if self.is_owner:
                return Rows(connection, sql, None, _OWNER_SECONDS, values)
            limits = self._settings
            return Rows(connection, sql, limits.sql_memory, limits.sql_seconds, values)
        except BaseException:
            self.ended(tables)
            raise

    def ended(self, tables: Mapping[str, pa.Table]) -> None:
        """Forget the tables of a query."""
        with suppress(duckdb.Error):
            for name in tables:
                self.store.connection.unregister(name)
        self.used_at = time.monotonic()

    def begin_unsaved(self) -> None:
        """From here on estimates can be added, for this session alone."""
        if self._unsaved is None:
            self._unsaved = ExitStack()
            self._unsaved.enter_context(self.store.unsaved())

    def end_unsaved(self) -> None:
        """Take back what was added."""
        if self._unsaved is not None:
            self._unsaved.close()
            self._unsaved = None

    def close(self) -> None:
        """Let go of the store."""
        with suppress(duckdb.Error):
            self.end_unsaved()
            self.store.close()


class Sessions:
    """The sessions of a service, by their names, which cannot be guessed."""

    def __init__(self, owner: StoreOwner, settings: Settings) -> None:
        self._owner, self._settings = owner, settings
        self._lock = threading.Lock()
        self._open: dict[str, ReadingSession] = {}

    def begin(self, *, is_owner: bool) -> tuple[str, ReadingSession]:
        """Begin to read the store as it is now.

        Raises:
            Refusal: too many do.
        """
        with self._lock:
            self._end_idle()
            if len(self._open) >= _MOST:
                raise Refusal(503, "too many programs read at once", "try again in a minute")
            store, _ = self._owner.reading()
            name = secrets.token_hex(16)
            self._open[name] = ReadingSession(store, self._settings, is_owner=is_owner)
            return name, self._open[name]

    def session(self, name: str) -> ReadingSession:
        """Return a session.

        Raises:
            Refusal: it is not there, or no more.
        """
        with self._lock:
            found = self._open.get(name)
        if found is None:
            raise Refusal(404, "this session has ended", "begin one with POST /api/v1/sessions")
        found.used_at = time.monotonic()
        return found

    def end(self, name: str) -> None:
        """End a session; nothing happens where there is none."""
        with self._lock:
            found = self._open.pop(name, None)
        if found is not None:
            with found.lock:
                found.close()

    def count(self) -> int:
        """Return how many sessions are open."""
        with self._lock:
            self._end_idle()
            return len(self._open)

    def close(self) -> None:
        """End all of them."""
        for name in list(self._open):
            self.end(name)

    def _end_idle(self) -> None:
        late = time.monotonic() - _IDLE_SECONDS
        for name, session in list(self._open.items()):
            if session.used_at < late and session.lock.acquire(blocking=False):
                del self._open[name]
                session.close()
                session.lock.release()
