"""SQL of users: one query that reads tables of the store, within limits of time and memory.

Three walls stand behind each other: the query is parsed, and only a `select` over tables and some
harmless functions is taken; it runs in a transaction that cannot write; the database was told when
the store was opened to touch no other file, load no extension and take no other setting.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import duckdb

from megasim.errors import UsageError, printable
from megasim.serve.refusals import Refusal
from megasim.serve.settings import Settings
from megasim.store.rows import Store
from megasim.store.statements import statement

if TYPE_CHECKING:
    import pyarrow as pa

# Functions that stand where a table does, and read nothing but the store.
TABLE_FUNCTIONS = frozenset(
    {
        "range",
        "generate_series",
        "unnest",
        "json_each",
        "json_tree",
        "repeat",
        "duckdb_columns",
        "duckdb_tables",
        "duckdb_views",
        "duckdb_types",
        "duckdb_functions",
        "duckdb_keywords",
        "pragma_database_size",
    }
)
_BATCH_ROWS = 10_000
_LONGEST_QUERY = 100_000


class Rows:
    """The result of a query as it comes. Close it, so that the clock that runs for it stops."""

    def __init__(
        self,
        connection: duckdb.DuckDBPyConnection,
        query: str,
        memory: int | None,
        seconds: float,
        values: Mapping[str, Any] | None = None,
    ) -> None:
        """Begin to run a query that is known to be harmless.

        Args:
            memory: bytes that it may use; as many as all queries together when None.
            seconds: how long it may take, until the last row is read.
            values: by the names that the query has for them.

        Raises:
            UsageError: the database does not accept it.
            Refusal: it took too long, or too much memory, before the first row came.
        """
        self._seconds = seconds
        self._late = False
        self._connection = connection
        if memory is not None:
            limit = statement("limit_query_memory").replace("{bytes}", str(memory))
            connection.execute(limit)
        self._timer = threading.Timer(self._seconds, self._stop)
        self._timer.daemon = True
        self._timer.start()
        try:
            self._reader = connection.sql(query, params=values or None).to_arrow_reader(_BATCH_ROWS)
            self._first = next(self._reader, None)
        except (duckdb.Error, OSError) as error:
            self.close()
            raise self._explained(error) from None

    @property
    def schema(self) -> pa.Schema:
        """The names and types of the columns."""
        return self._reader.schema

    def batches(self, most: int | None = None) -> Iterator[pa.RecordBatch]:
        """Yield the rows, at most so many; then close."""
        batch, left = self._first, most
        try:
            while batch is not None and (left is None or left > 0):
                yield batch if left is None else batch.slice(0, left)
                left = None if left is None else left - batch.num_rows
                try:
                    batch = next(self._reader, None)
                except (duckdb.Error, OSError) as error:  # what Arrow makes of a database's error
                    raise self._explained(error) from None
        finally:
            self.close()

    def close(self) -> None:
        """Stop the clock."""
        self._timer.cancel()

    def _stop(self) -> None:
        self._late = True
        with suppress(duckdb.Error):  # it may just have been closed
            self._connection.interrupt()

    def _explained(self, error: Exception) -> Exception:
        if self._late:
            return Refusal(
                408,
                f"the query was stopped after {self._seconds:g} seconds",
                "ask for less: filter by model and component, or add a limit",
            )
        if isinstance(error, duckdb.OutOfMemoryException) or "Out of Memory" in str(error):
            return Refusal(
                413,
                "the query needs more memory than one query may use",
                "ask for less: filter by model and component, or add a limit",
            )
        if isinstance(error, duckdb.InternalException | duckdb.FatalException | duckdb.IOException):
            return error
        return UsageError(_in_one_line(error))


def user_rows(store: Store, query: str, settings: Settings) -> Rows:
    """Begin to run a query of a user on a store that is only read.

    Raises:
        UsageError: it is not one that is run here, or the database does not accept it.
        Refusal: see `Rows`.
    """
    check_query(store.connection, query)
    return Rows(store.connection, query, settings.sql_memory, settings.sql_seconds)


def check_query(connection: duckdb.DuckDBPyConnection, query: str) -> None:
    """Refuse what is more than one query that reads the store.

    Raises:
        UsageError: it is no SQL, or none of this kind.
    """
    if len(query) > _LONGEST_QUERY:
        raise UsageError(f"a query has at most {_LONGEST_QUERY:,} characters", "ask for less")
    try:
        statements = connection.extract_statements(query)
    except duckdb.Error as error:
        raise UsageError(_in_one_line(error)) from None
    if len(statements) != 1 or statements[0].type != duckdb.StatementType.SELECT:
        raise UsageError(
            "only one query that reads is run here",
            'write one "select …", "from …", "with …", "describe …" or "summarize …"',
        )
    ((text,),) = connection.execute(statement("parsed_query"), {"query": query}).fetchall()
    parsed = json.loads(text)
    if parsed.get("error"):
        raise UsageError(printable(parsed.get("error_message", "the query is not understood"), 600))
    for name in _table_functions(parsed):
        if name not in TABLE_FUNCTIONS:
            raise UsageError(
                f"{printable(name)!r} is not allowed here: it may read more than the store",
                "query the views; of functions that stand for tables there are "
                + ", ".join(sorted(TABLE_FUNCTIONS)),
            )


def _table_functions(node: Any) -> Iterator[str]:
    """Yield the names of the functions that stand for tables anywhere in a parsed query."""
    waiting = [node]
    while waiting:
        one = waiting.pop()
        if isinstance(one, list):
            waiting.extend(one)
        elif isinstance(one, dict):
            if one.get("type") == "TABLE_FUNCTION":
                function = one.get("function")
                name = function.get("function_name") if isinstance(function, dict) else None
                yield str(name).lower()
            waiting.extend(one.values())


def _in_one_line(error: Exception) -> str:
    """Return what the database says; what points at a column points at nothing in one line."""
    lines = [line.strip() for line in str(error).splitlines()]
    return printable(" · ".join(line for line in lines if line.strip("^~ ")), 600)
