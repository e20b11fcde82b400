"""A store that another process has open: its statements are answered there, as of one moment."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import duckdb

from megasim.errors import UsageError
from megasim.store.connection import Mode

if TYPE_CHECKING:
    import pyarrow as pa


class AskedSession(Protocol):
    """A session of a process that has the store open. See `sessions.ReadingSession`."""

    def rows(self, sql: str, values: Mapping[str, Any], tables: Mapping[str, pa.Table]) -> pa.Table:
        """Return the rows of a statement; `tables` stand for names in it."""

    def begin_unsaved(self) -> None:
        """From here on estimates can be added, for this session alone."""

    def end_unsaved(self) -> None:
        """Take back what was added."""

    def close(self) -> None:
        """End the session."""


class SessionLease:
    """What `Lease` is for a store that another process has open: one session there."""

    mode: Mode = "read"
    openings = 1

    def __init__(self, session: AskedSession, path: Path, left_out: tuple[str, ...]) -> None:
        self.path, self.left_out = path, left_out
        self._session: AskedSession | None = session
        self._tables: dict[str, pa.Table] = {}
        self._here = duckdb.connect()
        self._is_unsaved = False

    def _ensure(self) -> AskedSession:
        if self._session is None:
            raise duckdb.ConnectionException("the store is closed")
        return self._session

    # What a `Session` asks of its connection

    def execute(self, sql: str, values: Any = None) -> duckdb.DuckDBPyRelation:
        """Return the rows of a query."""
        return self._here.from_arrow(self._ensure().rows(sql, values or {}, self._tables))

    def register(self, name: str, table: Any) -> None:
        """Send a table with what is asked from here on."""
        self._here.register("sent", table)
        self._tables[name] = self._here.sql("from sent").to_arrow_table()
        self._here.unregister("sent")

    def unregister(self, name: str) -> None:
        """Send it no more."""
        self._tables.pop(name, None)

    # What `HeldConnection` asks

    @contextmanager
    def use(self) -> Iterator[Any]:
        """Hold the connection for some statements."""
        yield self

    def keep(self) -> Any:
        """All that is read is of one moment anyway."""
        return self

    def release(self) -> None:
        """Nobody waits for a session."""

    @contextmanager
    def transaction(self, *, wait: float | None = None) -> Iterator[None]:
        """Refuse to save; add estimates within `rolled_back`."""
        if not self._is_unsaved:
            raise UsageError(
                "a store that a service has open is changed by its jobs alone",
                "stop the service, or ask for another way",
            )
        yield

    @contextmanager
    def rolled_back(self) -> Iterator[None]:
        """Add estimates for the length of a block."""
        session = self._ensure()
        session.begin_unsaved()
        self._is_unsaved = True
        try:
            yield
        finally:
            self._is_unsaved = False
            session.end_unsaved()

    @contextmanager
    def job(self, *, keep_open: bool = False) -> Iterator[None]:
        """Refuse: jobs are those of the service."""
        with self.transaction():
            yield

    def close(self) -> None:
        """End the session."""
        session, self._session = self._session, None
        if session is not None:
            session.close()
            self._here.close()
