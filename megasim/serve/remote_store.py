"""The connection to a service: its API over HTTP, and a store whose rows come through it."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

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
from megasim.serve.session_lease import SessionLease
from megasim.store.connection import migrations

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


def remote_lease(service: ServiceConnection) -> SessionLease:
    """Begin to read the store of a service as it is now.

    Raises:
        StoreTooOldError, StoreTooNewError: its megasim has another schema than this one.
    """
    told = service.json("POST", "sessions")
    schema = migrations()[-1][0]
    if told["schema"] != schema or told["version"] != __version__:
        kind = StoreTooNewError if told["schema"] > schema else StoreTooOldError
        raise kind(
            f"the service is megasim {printable(told['version'], 40)}; this is {__version__}",
            "use the same version on both sides",
        )
    return SessionLease(
        _HttpSession(service, str(told["session"])),
        Path(printable(service.address, 200)),
        tuple(str(note) for note in told["left_out"]),
    )


class _HttpSession:
    """A session of a service, asked over its API. See `AskedSession`."""

    def __init__(self, service: ServiceConnection, name: str) -> None:
        self._service, self._path = service, f"sessions/{name}"

    def rows(self, sql: str, values: Mapping[str, Any], tables: Mapping[str, pa.Table]) -> pa.Table:
        body = {
            "sql": sql,
            "values": {name: _plain(value) for name, value in values.items()},
            "tables": {name: _in_base64(table) for name, table in tables.items()},
        }
        content = self._service.bytes("POST", f"{self._path}/query", body)
        return pa.ipc.open_stream(content).read_all()

    def begin_unsaved(self) -> None:
        self._service.bytes("PUT", f"{self._path}/unsaved")

    def end_unsaved(self) -> None:
        self._service.bytes("DELETE", f"{self._path}/unsaved")

    def close(self) -> None:
        with suppress(MegasimError):
            self._service.bytes("DELETE", self._path)


def _in_base64(table: pa.Table) -> str:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return base64.b64encode(sink.getvalue()).decode("ascii")


def _plain(value: Any) -> Any:
    """Return a value as JSON has it."""
    if isinstance(value, Mapping):
        return {str(name): _plain(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    return value.item() if hasattr(value, "item") else value
