"""What is asked, and the whole answer to it, as processes hand them to each other."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, NamedTuple, Self

from starlette.types import ASGIApp, Message, Scope

_API = "/api/v1/"
# What depends on the store and the address alone, and takes Python some time.
_PAGES = {"models", "model", "matrix", "map", "lineage", "pair", "pictures"}
_ANSWERS = {"findings", "why", "matrix", "map", "lineage", "changes", "shared"}


def is_made_apart(path: str) -> bool:
    """Whether the answer at a path is made in a process of its own, where there are such.

    >>> is_made_apart("/matrix/picture.json"), is_made_apart("/api/v1/map"), is_made_apart("/sql")
    (True, True, False)
    """
    return subject_of(path) in (_ANSWERS if path.startswith(_API) else _PAGES)


def subject_of(path: str) -> str:
    """Return the first name of a path, which says what an answer is computed from.

    >>> subject_of("/map/picture.json"), subject_of("/api/v1/map"), subject_of("/")
    ('map', 'map', '')
    """
    return path.removeprefix(_API).lstrip("/").partition("/")[0]


class Asked(NamedTuple):
    """All that an answer depends on beside the store. `accept` is "text/html" for any browser."""

    path: str
    query: str
    accept: str


def asked_of(path: str, query: bytes, accept: str) -> Asked:
    """Return what a request asks.

    >>> asked_of("/models", b"q=a", "text/html,application/xml;q=0.9")
    Asked(path='/models', query='q=a', accept='text/html')
    """
    is_page = "text/html" in accept and not path.startswith("/api/")
    return Asked(path, query.decode("latin-1"), "text/html" if is_page else accept)


@dataclass(frozen=True)
class WholeAnswer:
    """An answer with all of its body.

    Attributes:
        headers: without those that the outer layers set, and without the length.
        etag: "" where it must not be sent again.
        revision: of the store that it is of; None where it does not depend on the store.
        route: what `scope["route"]` is, for the metrics.
    """

    status: int
    headers: tuple[tuple[bytes, bytes], ...]
    body: bytes
    etag: str
    revision: int | None
    route: Any

    @classmethod
    def of(cls, messages: Sequence[Message], scope: Scope) -> Self | None:
        """Return it out of the messages of an application; None where its end is missing."""
        if len(messages) < 2 or messages[-1].get("more_body"):
            return None
        start, *bodies = messages
        left_out = (b"etag", b"content-length", b"transfer-encoding")
        state = scope.get("state", {})
        return cls(
            start["status"],
            tuple((name, value) for name, value in start["headers"] if name not in left_out),
            b"".join(part.get("body", b"") for part in bodies),
            state.get("etag") or "",
            state.get("revision"),
            SimpleNamespace(path=getattr(scope.get("route"), "path", "other")),
        )


async def body_of(app: ASGIApp, asked: Asked, outermost: object) -> WholeAnswer:
    """Return what an application, or a layer within the outermost one, answers, whole."""
    scope: Scope = {
        "type": "http",
        "app": outermost,
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "GET",
        "scheme": "http",
        "path": asked.path,
        "raw_path": asked.path.encode(),
        "root_path": "",
        "query_string": asked.query.encode("latin-1"),
        "headers": [(b"host", b"localhost"), (b"accept", asked.accept.encode("latin-1"))],
        "client": None,
        "server": None,
        "state": {"is_owner": False},
    }
    messages: list[Message] = []

    received = False

    async def receive() -> Message:
        nonlocal received
        if received:  # who streams listens for the end of the connection, which does not come
            await asyncio.Event().wait()
        received = True
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Message) -> None:
        messages.append(message)

    await app(scope, receive, send)
    answer = WholeAnswer.of(messages, scope)
    assert answer is not None
    return answer
