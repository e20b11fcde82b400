"""How a process of the service that makes answers reads the store, which another has open.

It sends statements over a pipe to the process that owns the store, and gets their rows as Arrow.
The database works there, without the lock of that Python; all that Python does with the rows is
done on this side.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from multiprocessing.connection import Client, Connection, Listener
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any

import duckdb

from megasim.errors import MegasimError
from megasim.serve.session_lease import SessionLease
from megasim.store.owner import StoreOwner
from megasim.store.rows import Store
from megasim.store.statements import statement

if TYPE_CHECKING:
    import pyarrow as pa


# How long a statement that is interrupted may take to end.
_END_SECONDS = 5.0


class StatementServer:
    """Answers the statements of processes that this one has started."""

    def __init__(self, owner: StoreOwner, key: bytes) -> None:
        """Begin to listen.

        Args:
            key: what a process has to know to be answered.
        """
        self._owner, self._key = owner, key
        self._listener = Listener(authkey=key)
        self._ending = False
        self._readers: dict[threading.Thread, duckdb.DuckDBPyConnection | None] = {}
        self._accepting = threading.Thread(target=self._accept, name="statements", daemon=True)
        self._accepting.start()

    @property
    def address(self) -> Any:
        """Where it listens, as `PipedOwner` takes it."""
        return self._listener.address

    def close(self) -> None:
        """End, once the processes that ask have ended."""
        self._ending = True
        with suppress(Exception):  # so that the thread that listens looks up
            Client(self.address, authkey=self._key).close()
        with suppress(OSError):
            self._listener.close()
        self._accepting.join(_END_SECONDS)
        for reader, connection in list(self._readers.items()):
            if connection is not None:
                with suppress(duckdb.Error):
                    connection.interrupt()
            reader.join(_END_SECONDS)

    def _is_over(self) -> bool:
        return self._ending

    def _accept(self) -> None:
        while not self._is_over():
            try:
                pipe = self._listener.accept()
            except Exception:  # a stranger
                continue
            if self._is_over():
                pipe.close()
                return
            reader = threading.Thread(target=self._answer, args=(pipe,), daemon=True)
            self._readers[reader] = None
            reader.start()

    def _answer(self, pipe: Connection) -> None:
        """Answer one reader after another, who each see one state of the store."""
        store: Store | None = None
        unsaved = ExitStack()
        try:
            while True:
                what, *given = pipe.recv()
                try:
                    found: Any = None
                    if what == "begin":
                        store, revision = self._owner.reading()
                        self._readers[threading.current_thread()] = store.connection
                        digest = self._owner.content_digest(store, revision)
                        store.connection.execute(statement("keep_all_types"))
                        found = revision, digest, store.left_out
                    elif store is None:
                        raise duckdb.ConnectionException("nothing has begun")
                    elif what == "begin unsaved":
                        unsaved.enter_context(store.unsaved())
                    elif what == "end unsaved":
                        unsaved.close()
                    elif what == "end":
                        self._readers[threading.current_thread()] = None
                        store.close()
                        store = None
                    else:
                        found = _of_statement(store, *given)
                except Exception as error:
                    pipe.send((False, _sendable(error)))
                else:
                    pipe.send((True, found))
        except (EOFError, OSError):
            pass
        finally:
            with suppress(duckdb.Error):
                unsaved.close()
                if store is not None:
                    store.close()
            pipe.close()
            del self._readers[threading.current_thread()]


def _of_statement(
    store: Store, sql: str, values: Mapping[str, Any], tables: Mapping[str, bytes]
) -> bytes:
    connection = store.connection
    for name, content in tables.items():
        connection.register(name, _read(content))
    try:
        found: Any = connection.sql(sql, params=values or None)
        if found is None:  # what has no rows
            found = connection.sql(statement("nothing"))
        rows = found.to_arrow_table()
    finally:
        with suppress(duckdb.Error):
            for name in tables:
                connection.unregister(name)
    return _written(rows)


def _written(table: pa.Table) -> bytes:
    import pyarrow as pa

    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return bytes(sink.getvalue())


def _read(content: bytes) -> pa.Table:
    import pyarrow as pa

    return pa.ipc.open_stream(content).read_all()


def _sendable(error: Exception) -> Exception:
    if isinstance(error, MegasimError | duckdb.Error):
        return error
    return RuntimeError(f"{type(error).__name__}: {error}")


class PipedOwner:
    """What `StoreOwner` is to those who only read, in a process that has not the store itself."""

    def __init__(self, path: Path, address: Any, key: bytes) -> None:
        self.path = path
        self._address, self._key = address, key
        self._free: SimpleQueue[Connection] = SimpleQueue()
        self._digests: dict[int, str] = {}

    def reading(self) -> tuple[Store, int]:
        """Return the store as it is now, to read, and the revision that this is."""
        pipe = self._pipe()
        revision, digest, left_out = _asked(pipe, "begin")
        self._digests = {revision: digest, **dict(list(self._digests.items())[:15])}
        session = _PipedSession(pipe, self._free)
        return Store.over(SessionLease(session, self.path, left_out)), revision

    def content_digest(self, store: Store, revision: int) -> str:
        """Return the digest of what the models and pairs are at a revision."""
        return self._digests[revision]

    def _pipe(self) -> Connection:
        try:
            return self._free.get_nowait()
        except Empty:
            return Client(self._address, authkey=self._key)


class _PipedSession:
    """One reader at the other end of a pipe. See `AskedSession`."""

    def __init__(self, pipe: Connection, free: SimpleQueue[Connection]) -> None:
        self._pipe, self._free = pipe, free

    def rows(self, sql: str, values: Mapping[str, Any], tables: Mapping[str, pa.Table]) -> pa.Table:
        sent = {name: _written(table) for name, table in tables.items()}
        return _read(_asked(self._pipe, "rows", sql, dict(values), sent))

    def begin_unsaved(self) -> None:
        _asked(self._pipe, "begin unsaved")

    def end_unsaved(self) -> None:
        _asked(self._pipe, "end unsaved")

    def close(self) -> None:
        _asked(self._pipe, "end")
        self._free.put(self._pipe)


def _asked(pipe: Connection, *message: Any) -> Any:
    pipe.send(message)
    is_answer, found = pipe.recv()
    if not is_answer:
        raise found
    return found
