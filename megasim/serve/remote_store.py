"""The connection to a service: its API over HTTP, and a store whose rows come through it."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import duckdb
import httpx
import pyarrow as pa

from megasim.errors import (
    MegasimError,
    NoAnswerError,
    StoreTooNewError,
    StoreTooOldError,
    UsageError,
    printable,
)
from megasim.resources import __version__
from megasim.store.connection import Mode, migrations

_CONNECT_SECONDS = 10.0


class ServiceConnection:
    """The API of a service, whose errors are those of megasim."""

    def __init__(self, address: str, token: str = "") -> None:
        """Prepare to speak to a service. Nothing is sent yet.

        Args:
            address: of any of its pages.
        """
        parts = urlsplit(address)
        if parts.scheme not in ("http", "https") or not parts.netloc:
            raise UsageError(
                f"{printable(address, 300)} is no address of a service",
                "write it as `megasim serve` prints it: http://127.0.0.1:8642/",
            )
        self.address = f"{parts.scheme}://{parts.netloc}"
        token = token or parse_qs(parts.query).get("token", [""])[0]
        self._client = httpx.Client(
            base_url=f"{self.address}/api/v1/",
            headers={"authorization": f"Bearer {token}"} if token else {},
            timeout=httpx.Timeout(None, connect=_CONNECT_SECONDS),
            trust_env=False,  # a proxy has no business with it
        )

    def close(self) -> None:
        """Close the connection."""
        self._client.close()

    def json(self, method: str, path: str, body: Any = None) -> dict[str, Any]:
        """Return what an address of the API answers, as JSON.

        Raises:
            MegasimError: what went wrong there, with its remedy.
        """
        answer = self.bytes(method, path, body)
        found = json.loads(answer) if answer else {}
        assert isinstance(found, dict)
        return found

    def bytes(self, method: str, path: str, body: Any = None) -> bytes:
        """Return what an address of the API answers."""
        with self._answering():
            answer = self._client.request(method, path, json=body)
        self._check(answer)
        return answer.content

    def events(self, path: str) -> Iterator[dict[str, Any]]:
        """Yield the events of an address as they come, until there are no more."""
        with self._answering(), self._client.stream("GET", path) as answer:
            if answer.is_error:
                answer.read()
            self._check(answer)
            for line in answer.iter_lines():
                if line.startswith("data: "):
                    yield json.loads(line.removeprefix("data: "))

    @contextmanager
    def _answering(self) -> Iterator[None]:
        try:
            yield
        except httpx.HTTPError as error:
            raise MegasimError(
                f"the service at {printable(self.address, 200)} does not answer: "
                f"{printable(error, 300)}",
                "see whether it runs; what was saved is kept",
            ) from None

    def _check(self, answer: httpx.Response) -> None:
        if not answer.is_error:
            return
        try:
            told = answer.json()
            message, remedy = str(told["detail"]), str(told.get("remedy") or "")
        except (ValueError, KeyError, TypeError):
            message, remedy = f"{self.address} is no service of megasim", "check the address"
        kinds: dict[int, type[MegasimError]] = {400: UsageError, 404: NoAnswerError}
        raise kinds.get(answer.status_code, MegasimError)(message, remedy)


class RemoteLease:
    """What `Lease` is for a store that a service has open: one session of it."""

    mode: Mode = "read"
    openings = 1

    def __init__(self, service: ServiceConnection) -> None:
        """Begin to read the store as it is now.

        Raises:
            StoreTooOldError, StoreTooNewError: its megasim has another schema than this one.
        """
        self._service = service
        told = service.json("POST", "sessions")
        schema = migrations()[-1][0]
        if told["schema"] != schema or told["version"] != __version__:
            kind = StoreTooNewError if told["schema"] > schema else StoreTooOldError
            raise kind(
                f"the service is megasim {printable(told['version'], 40)}; this is {__version__}",
                "use the same version on both sides",
            )
        self.path = Path(printable(service.address, 200))
        self.left_out = tuple(str(note) for note in told["left_out"])
        self._session: str | None = str(told["session"])
        self._tables: dict[str, str] = {}
        self._here = duckdb.connect()
        self._is_unsaved = False

    # What a `Session` asks of its connection

    def execute(self, sql: str, values: Any = None) -> duckdb.DuckDBPyRelation:
        """Return the rows of a query."""
        if self._session is None:
            raise duckdb.ConnectionException("the store is closed")
        body = {
            "sql": sql,
            "values": {name: _plain(value) for name, value in (values or {}).items()},
            "tables": self._tables,
        }
        content = self._service.bytes("POST", f"sessions/{self._session}/query", body)
        return self._here.from_arrow(pa.ipc.open_stream(content).read_all())

    def register(self, name: str, table: Any) -> None:
        """Send a table with what is asked from here on."""
        self._here.register("sent", table)
        rows = self._here.sql("from sent").to_arrow_table()
        self._here.unregister("sent")
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, rows.schema) as writer:
            writer.write_table(rows)
        self._tables[name] = base64.b64encode(sink.getvalue()).decode("ascii")

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
        self._service.bytes("PUT", f"sessions/{self._session}/unsaved")
        self._is_unsaved = True
        try:
            yield
        finally:
            self._is_unsaved = False
            self._service.bytes("DELETE", f"sessions/{self._session}/unsaved")

    @contextmanager
    def job(self, *, keep_open: bool = False) -> Iterator[None]:
        """Refuse: jobs are those of the service."""
        with self.transaction():
            yield

    def close(self) -> None:
        """End the session."""
        session, self._session = self._session, None
        if session is not None:
            with suppress(MegasimError):
                self._service.bytes("DELETE", f"sessions/{session}")
            self._here.close()


def _plain(value: Any) -> Any:
    """Return a value as JSON has it."""
    if isinstance(value, Mapping):
        return {str(name): _plain(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    return value.item() if hasattr(value, "item") else value
