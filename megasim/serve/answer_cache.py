"""Whole answers that are sent again as they are, as long as nobody has saved anything.

A hundred people who look at the same pages, and a program that asks again and again, cost next to
nothing so. What is not kept is made once, however many wait for it, and where there are processes
for it, in one of them.

While a job saves all the time, an answer of an earlier state is sent at once, and says so; a new
one is made behind it.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Protocol

from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from megasim.errors import MegasimError, printable
from megasim.serve.answers_apart import Asked, WholeAnswer, asked_of, body_of
from megasim.serve.service import Service

# How old an answer may be while a job saves.
STALE_SECONDS = 120.0
_MOST_BYTES = 64 << 20
_LARGEST = 8 << 20  # of one answer
_MOST_RENEWED = 32  # of what people looked at before a job, once it is over
_LOOK_SECONDS = 0.5  # between two looks at whether jobs are over
# What everybody looks at first.
_FIRST = ("/models", "/matrix", "/matrix/picture.json")
_AGE_MARK = b'<p id="age"></p>'
_log = logging.getLogger("megasim.serve")


class AnswersApart(Protocol):
    """Processes that make answers. See `AnsweringProcesses`."""

    def make(self, path: str) -> bool:
        """Whether the answer at a path is one that they make."""

    async def answer(self, asked: Asked) -> WholeAnswer:
        """Return the answer to a request."""

    def close(self) -> None:
        """Let them end."""


@dataclass
class _Kept:
    answer: WholeAnswer
    revision: int | None
    made_at: float = field(default_factory=time.monotonic)


class AnswerCache:
    """A layer within `Security`: answers what was answered before.

    Only what has an ETag is kept: it depends on the address, `Accept` and the store alone.
    """

    def __init__(self, app: ASGIApp, service: Service, apart: AnswersApart | None = None) -> None:
        self.app, self.service, self.apart = app, service, apart
        self._kept: OrderedDict[Asked, _Kept] = OrderedDict()
        self._bytes = 0
        self._under_way: dict[Asked, asyncio.Task[WholeAnswer]] = {}
        self._to_renew: OrderedDict[Asked, None] = OrderedDict()
        self._renewal: asyncio.Task[None] | None = None
        self._watch: asyncio.Task[None] | None = None
        self._outermost: object = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] == "lifespan":
            if self.apart is not None:
                self._watch = asyncio.create_task(self._renew_after_jobs())
            await self.app(scope, receive, send)
            for task in (self._watch, self._renewal):
                if task is not None:
                    task.cancel()
            return
        if scope["type"] != "http" or scope["method"] != "GET":
            await self.app(scope, receive, send)
            return
        self._outermost = scope["app"]
        headers = Headers(scope=scope)
        asked = asked_of(scope["path"], scope["query_string"], headers.get("accept", ""))
        known = self._kept.get(asked)
        if known is not None:
            age = self._age(known)
            if age is not None:
                self._kept.move_to_end(asked)
                if age:
                    self._renew([asked])
                await _send(known.answer, age, headers, scope, send)
                return
        if self.apart is not None and self.apart.make(asked.path):
            await _send(await self._made(asked), 0.0, headers, scope, send)
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
        if size <= _LARGEST:
            self._keep(asked, WholeAnswer.of(parts, scope))

    def _age(self, known: _Kept) -> float | None:
        """Return how old an answer is, 0 for one of now; None where it must be made anew."""
        if known.revision is None or known.revision == self.service.owner.revision:
            return 0.0
        age = time.monotonic() - known.made_at
        return age if self.service.jobs.is_busy and age < STALE_SECONDS else None

    def _keep(self, asked: Asked, answer: WholeAnswer | None) -> None:
        if answer is None or answer.status != 200 or not answer.etag:
            return
        if len(answer.body) > _LARGEST:
            return
        before = self._kept.pop(asked, None)
        if before is not None:
            self._bytes -= len(before.answer.body)
        self._kept[asked] = _Kept(answer, answer.revision)
        self._bytes += len(answer.body)
        while self._bytes > _MOST_BYTES:
            _, oldest = self._kept.popitem(last=False)
            self._bytes -= len(oldest.answer.body)

    # How an answer is made once

    async def _made(self, asked: Asked) -> WholeAnswer:
        """Return an answer of now, made once for all who wait for it."""
        task = self._under_way.get(asked)
        if task is None:
            self._to_renew.pop(asked, None)
            task = self._under_way[asked] = asyncio.create_task(self._make(asked))
            task.add_done_callback(lambda _: self._under_way.pop(asked, None))
        return await asyncio.shield(task)  # who goes away does not take it from the others

    async def _make(self, asked: Asked) -> WholeAnswer:
        if self.apart is not None and self.apart.make(asked.path):
            answer = await self.apart.answer(asked)
        else:
            answer = await body_of(self.app, asked, self._outermost)
        self._keep(asked, answer)
        return answer

    # How answers are made anew before somebody asks

    def _renew(self, some: Iterable[Asked]) -> None:
        """Let answers be made anew, one after another, behind all that people wait for."""
        for asked in some:
            if asked not in self._under_way:
                self._to_renew.setdefault(asked)
        if self._to_renew and (self._renewal is None or self._renewal.done()):
            self._renewal = asyncio.create_task(self._renew_all())

    async def _renew_all(self) -> None:
        while self._to_renew and not self.service.is_ending:
            asked, _ = self._to_renew.popitem(last=False)
            try:
                if not await self._is_as_it_was(asked):
                    await self._made(asked)
            except MegasimError as error:
                _log.info("%s was not made anew: %s", printable(asked.path, 200), error)
            except Exception:
                _log.exception("%s was not made anew", printable(asked.path, 200))

    async def _is_as_it_was(self, asked: Asked) -> bool:
        """Whether what was saved changed nothing of the models and pairs; then it is of now."""
        known = self._kept.get(asked)
        if known is None or known.revision is None:
            return False
        etag, revision = await run_in_threadpool(self._etag_of, asked)
        if etag != known.answer.etag:
            return False
        known.revision, known.made_at = revision, time.monotonic()
        return True

    def _etag_of(self, asked: Asked) -> tuple[str, int]:
        with self.service.reading_at() as (workspace, revision):
            return self.service.etag(workspace, revision, *asked), revision

    async def _renew_after_jobs(self) -> None:
        """Make what people look at, at the start, and again once jobs that saved are over."""
        self._renew(asked_of(path, b"", "text/html") for path in _FIRST)
        seen = self.service.owner.revision
        while not self.service.is_ending:
            await asyncio.sleep(_LOOK_SECONDS)
            revision = self.service.owner.revision
            if revision == seen or self.service.jobs.is_busy:
                continue
            seen = revision
            old = [asked for asked, known in self._kept.items() if self._age(known) is None]
            self._renew(reversed(old[-_MOST_RENEWED:]))


async def _send(
    answer: WholeAnswer, age: float, headers: Headers, scope: Scope, send: Send
) -> None:
    scope["route"] = answer.route
    body = answer.body
    if age:
        scope["state"]["age"] = age
        body = body.replace(_AGE_MARK, _age_note(age), 1)
    elif answer.etag and answer.status == 200:
        scope["state"]["etag"] = answer.etag
        # weak in comparison: what lies between may have compressed the answer
        asked = headers.get("if-none-match", "").replace("W/", "")
        if answer.etag in (one.strip() for one in asked.split(",")):
            own = [(b"etag", answer.etag.encode())]
            await send({"type": "http.response.start", "status": 304, "headers": own})
            await send({"type": "http.response.body", "body": b""})
            return
    own = [*answer.headers, (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": answer.status, "headers": own})
    await send({"type": "http.response.body", "body": body})


def _age_note(age: float) -> bytes:
    return (
        f'<p id="age">A job is saving: this page is as it was {age:.0f} seconds ago, and is being '
        "made anew. Load it again for what there is by then.</p>"
    ).encode()
