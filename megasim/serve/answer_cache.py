"""Whole answers that are sent again as they are, as long as nobody has saved anything.

A page costs tens of milliseconds to make. A hundred people who look at the same ones, and a program
that asks again and again, cost next to nothing so.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from dataclasses import dataclass

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from megasim.serve.service import STALE_SECONDS, Service

_MOST_BYTES = 64 << 20
_LARGEST = 2 << 20  # of one answer
_Key = tuple[str, bytes, str]


@dataclass(frozen=True)
class _Kept:
    revision: int
    made_at: float
    etag: str
    route: object
    headers: list[tuple[bytes, bytes]]
    body: bytes


class AnswerCache:
    """A layer within `Security`: answers what was answered before.

    Only what has an ETag is kept: it depends on the address, `Accept` and the store alone.
    """

    def __init__(self, app: ASGIApp, service: Service) -> None:
        self.app, self.service = app, service
        self._kept: OrderedDict[_Key, _Kept] = OrderedDict()
        self._bytes = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] != "http" or scope["method"] != "GET":
            await self.app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        key = (scope["path"], scope["query_string"], headers.get("accept", ""))
        known = self._known(key)
        if known is not None:
            await _send_again(known, self.service.owner.revision, headers, scope, send)
            return
        parts: list[Message] = []
        size = 0

        async def send_and_keep(message: Message) -> None:
            nonlocal size
            size += len(message.get("body", b""))
            if size <= _LARGEST:
                parts.append(message)
            await send(message)

        await self.app(scope, receive, send_and_keep)
        self._keep(key, scope, parts, size)

    def _known(self, key: _Key) -> _Kept | None:
        """Return an answer of now; while a job saves, one of some seconds ago does."""
        known = self._kept.get(key)
        if known is None:
            return None
        is_young = time.monotonic() - known.made_at < STALE_SECONDS
        if known.revision == self.service.owner.revision or (
            self.service.jobs.is_running and is_young
        ):
            self._kept.move_to_end(key)
            return known
        self._forget(key)
        return None

    def _keep(self, key: _Key, scope: Scope, parts: list[Message], size: int) -> None:
        state = scope.get("state", {})
        etag, revision = state.get("etag"), state.get("revision")
        if not etag or revision is None or size > _LARGEST or len(parts) < 2:
            return
        start, *bodies = parts
        if start["status"] != 200 or bodies[-1].get("more_body"):
            return
        self._forget(key)
        body = b"".join(part.get("body", b"") for part in bodies)
        # what the layer around this one sets, it sets again
        own = [(name, value) for name, value in start["headers"] if name != b"etag"]
        route = scope.get("route")
        self._kept[key] = _Kept(revision, time.monotonic(), etag, route, own, body)
        self._bytes += len(body)
        while self._bytes > _MOST_BYTES:
            self._forget(next(iter(self._kept)))

    def _forget(self, key: _Key) -> None:
        known = self._kept.pop(key, None)
        if known is not None:
            self._bytes -= len(known.body)


async def _send_again(
    known: _Kept, revision: int, headers: Headers, scope: Scope, send: Send
) -> None:
    scope["route"] = known.route
    if known.revision != revision:
        scope["state"]["age"] = time.monotonic() - known.made_at
    else:
        scope["state"]["etag"] = known.etag
        asked = headers.get("if-none-match", "").replace("W/", "")
        if known.etag in (one.strip() for one in asked.split(",")):
            own = [(b"etag", known.etag.encode())]
            await send({"type": "http.response.start", "status": 304, "headers": own})
            await send({"type": "http.response.body", "body": b""})
            return
    start = {"type": "http.response.start", "status": 200, "headers": list(known.headers)}
    await send(start)
    await send({"type": "http.response.body", "body": known.body})
