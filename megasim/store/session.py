"""A store in use: the statements of `sql/`, by name, over a connection that comes and goes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import duckdb
import numpy as np
import numpy.typing as npt

from megasim.store.batches import Table, duckdb_columns, empty_columns
from megasim.store.connection import Mode
from megasim.store.lease import DEFAULT_WAIT, HeldConnection, Lease
from megasim.store.statements import statement

if TYPE_CHECKING:
    import pandas as pd


class Session:
    """An open store. Use it as a context manager; one thread at a time.

    `rows`, `arrays` and `frame` read; whatever changes the store goes through `write`.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as d, Session(Path(d) / "s.duckdb", "write") as store:
    ...     store.rows("next_model_id")
    [(1,)]
    """

    def __init__(
        self,
        path: Path | str,
        mode: Mode = "read",
        *,
        memory: int | None = None,
        threads: int | None = None,
        wait: float = DEFAULT_WAIT,
        all_rows: bool = False,
    ) -> None:
        """Open a store; see `Lease`.

        Args:
            all_rows: take rows of older versions, and those that were marked as wrong, as they are.
        """
        self.path = Path(path)
        self.mode = mode
        self._lease: HeldConnection = Lease(
            self.path, mode, memory=memory, threads=threads, wait=wait, all_rows=all_rows
        )

    @classmethod
    def over(cls, lease: HeldConnection) -> Self:
        """Return a store over a connection that is held in another way, as by a `StoreOwner`."""
        store = cls.__new__(cls)
        store.path, store.mode, store._lease = lease.path, lease.mode, lease
        return store

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file. The store is not usable afterwards."""
        self._lease.close()

    # When other processes get their turn

    @property
    def connection(self) -> duckdb.DuckDBPyConnection:
        """The connection itself; once asked for, it is kept open, and others wait."""
        return self._lease.keep()

    @property
    def left_out(self) -> tuple[str, ...]:
        """Notes of the rows of older versions that are left out, as they were at the opening."""
        return self._lease.left_out

    @contextmanager
    def opened(self) -> Iterator[int]:
        """Keep the store open for a block; temporary tables of another number are gone."""
        with self._lease.use():
            yield self._lease.openings

    def capped(self, most: int) -> AbstractContextManager[None]:
        """Keep at most so many bytes of the store in memory while a block reads through it.

        The database keeps what it read for the next query, up to most of the machine's memory. A
        connection that others use at the same time, as in the service, keeps its own limit.
        """
        return self._lease.capped(most) if isinstance(self._lease, Lease) else nullcontext()

    def keep(self) -> None:
        """Keep the store open until the end, so that all that is read is of one moment."""
        self._lease.keep()

    def release(self) -> None:
        """Let others have the store until the next statement. See `Lease`."""
        self._lease.release()

    def job(self, *, keep_open: bool = False) -> AbstractContextManager[None]:
        """Write in turns with the readers for the length of a block. See `Lease.job`."""
        return self._lease.job(keep_open=keep_open)

    def transaction(self, *, wait: float | None = None) -> AbstractContextManager[None]:
        """All of the block is saved, or nothing of it. See `Lease.transaction`."""
        return self._lease.transaction(wait=wait)

    # How every statement runs: by its name, with tables registered for the one call.

    def frame(
        self, name: str, /, *, tables: Mapping[str, Table] | None = None, **values: Any
    ) -> pd.DataFrame:
        """Return the result of a statement of `sql/` as a frame."""
        with self._running(name, tables or {}, values) as result:
            return result.df()

    def arrays(
        self, name: str, /, *, tables: Mapping[str, Table] | None = None, **values: Any
    ) -> dict[str, npt.NDArray[Any]]:
        """Return the result of a statement of `sql/` as one array a column.

        NULL is NaN among floats, and None among anything else, which makes that column objects.
        """
        with self._running(name, tables or {}, values) as result:
            return {name: _without_mask(column) for name, column in result.fetchnumpy().items()}

    def rows(
        self, name: str, /, *, tables: Mapping[str, Table] | None = None, **values: Any
    ) -> list[tuple[Any, ...]]:
        """Return the result of a statement of `sql/` as tuples."""
        with self._running(name, tables or {}, values) as result:
            return result.fetchall()

    def write(
        self, name: str, /, *, tables: Mapping[str, Table] | None = None, **values: Any
    ) -> None:
        """Run a statement of `sql/` that changes the store, or the tables of a piece of work."""
        with self._running(name, tables or {}, values):
            pass

    def query(self, sql: str, values: object = None) -> pd.DataFrame | None:
        """Return the result of SQL as a frame; None where there is no statement in it."""
        with self._lease.use() as connection:
            result = connection.execute(sql, values)
            return None if result is None else result.df()

    @contextmanager
    def _running(
        self, name: str, tables: Mapping[str, Table], values: Mapping[str, Any]
    ) -> Iterator[duckdb.DuckDBPyConnection]:
        """Run a statement; its result is fetched within the block."""
        with self._lease.use() as connection:
            given = {table: duckdb_columns(columns) for table, columns in tables.items()}
            for table, columns in given.items():
                connection.register(table, columns)
            try:
                sql = statement(name)
                yield connection.execute(sql, values) if values else connection.execute(sql)
            finally:
                # in a transaction that failed nothing can be unregistered, and need not be
                with suppress(duckdb.TransactionException):
                    for table in given:
                        connection.unregister(table)
                for table, columns in given.items():
                    empty_columns(tables[table], columns)

    def content_digest(self) -> str:
        """Return a text that changes with the models, what they hold and what is known of pairs.

        Not guaranteed: the same text from another version of DuckDB.
        """
        ((digest,),) = self.rows("content_digest")
        return str(digest)


def _without_mask(column: Any) -> npt.NDArray[Any]:
    """Return a column with NULL as a value that is no number: never what lies under a mask."""
    # DuckDB gives a plain array where nothing is NULL; asking numpy.ma would import it, for 10 ms.
    if type(column) is np.ndarray or not np.ma.is_masked(column):
        return np.asarray(column)
    if np.issubdtype(column.dtype, np.floating):
        return np.asarray(np.ma.filled(column, np.nan))
    return np.asarray(np.ma.filled(column.astype(object), None))
