"""What all requests share: the settings, the open store, and the answers that are kept."""

from __future__ import annotations

import hmac
import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from hashlib import blake2b, sha256
from typing import TypeVar, cast

from starlette.requests import HTTPConnection

from megasim.resources import __version__, code_digest
from megasim.serve.jobs import Jobs
from megasim.serve.sessions import Sessions
from megasim.serve.settings import Settings
from megasim.store.owner import StoreOwner
from megasim.workspace import Workspace

T = TypeVar("T")

_KEPT_ANSWERS = 64
# How old an answer may be while a job saves.
STALE_SECONDS = 15.0


class Service:
    """A running service: one store, opened once, and what is known of it."""

    def __init__(self, settings: Settings, owner: StoreOwner) -> None:
        self.settings = settings
        self.owner = owner
        self.jobs = Jobs(owner, settings, settings.job_folder)
        self.sessions = Sessions(owner, settings)
        self.is_ending = False  # so that answers which never end do
        self.version = __version__
        # (path, title) of the pages, in the order of the navigation
        self.navigation: Sequence[tuple[str, str]] = ()
        # who can read the file that names this service may do what its owner may do
        self.owner_token = secrets.token_hex(32)
        self._code = code_digest()
        self._answers: OrderedDict[Hashable, _Answer] = OrderedDict()
        self._answers_lock = threading.Lock()

    def close(self) -> None:
        """Let the job that runs save what it has, and close the store."""
        self.is_ending = True
        self.jobs.close()
        self.sessions.close()
        self.owner.close()

    # Who may do what

    @property
    def cookie(self) -> str:
        """What a browser keeps instead of the token, which cannot be found from it."""
        return hmac.new(self.settings.token.encode(), b"megasim cookie", sha256).hexdigest()

    def is_token(self, given: str) -> bool:
        """Whether a bearer token is the one of this service, or of its owner."""
        return self.is_owner(given) or (
            bool(self.settings.token) and _equal(given, self.settings.token)
        )

    def is_cookie(self, given: str) -> bool:
        """Whether a cookie was given out by this service."""
        return bool(self.settings.token) and _equal(given, self.cookie)

    def is_owner(self, given: str) -> bool:
        """Whether a bearer token is that of who started the service, read from a file of theirs."""
        return _equal(given, self.owner_token)

    # The store

    @contextmanager
    def reading(self) -> Iterator[Workspace]:
        """Give the store as it is now, whatever is saved meanwhile, for the length of a block."""
        with self.reading_at() as (workspace, _):
            yield workspace

    @contextmanager
    def reading_at(self) -> Iterator[tuple[Workspace, int]]:
        """Give the same, and the revision that it is of."""
        store, revision = self.owner.reading()
        with Workspace.over(store) as workspace:
            yield workspace, revision

    def etag(self, workspace: Workspace, revision: int, *asked: str) -> str:
        """Return a text that changes with the store, with megasim, and with what was asked."""
        digest = blake2b(digest_size=16)
        content = self.owner.content_digest(workspace.store, revision)
        for part in (self._code, content, *asked):
            digest.update(f"{len(part)}:{part}".encode())
        return f'"{digest.hexdigest()}"'

    def kept(
        self, key: Hashable, revision: int, compute: Callable[[], T]
    ) -> tuple[T, float | None]:
        """Return an answer, computed once for a state of the store, however many wait for it.

        While a job saves all the time, an answer of some seconds ago does, so that the service is
        not busy with nothing but answers that are old when they are there.

        Args:
            key: all that the answer depends on beside the store.
            revision: of the store that `compute` reads.

        Returns:
            The answer, and how many seconds old it is where it is of an earlier state.
        """
        mine: _Answer | None = None
        with self._answers_lock:
            known = self._answers.get(key)
            if known is None or (known.revision != revision and not self._does_yet(known)):
                mine = _Answer(revision, before=known.settled() if known else None)
                self._answers[key] = mine
                while len(self._answers) > _KEPT_ANSWERS:
                    self._answers.popitem(last=False)
            self._answers.move_to_end(key)
        if mine is not None:
            return self._computed(key, mine, compute), None
        assert known is not None
        earlier = known.before
        if not known.future.done() and earlier is not None and self._does_yet(earlier):
            known = earlier  # a newer one is being made
        found = cast(T, known.future.result())
        age = None if known.revision == revision else time.monotonic() - known.made_at
        return found, age

    def _does_yet(self, known: _Answer) -> bool:
        """Whether an answer of an earlier state may be given: a job saves, and it is not old."""
        if known.settled() is None:
            return known.before is not None and self._does_yet(known.before)
        return self.jobs.is_running and time.monotonic() - known.made_at < STALE_SECONDS

    def _computed(self, key: Hashable, mine: _Answer, compute: Callable[[], T]) -> T:
        try:
            found = compute()
        except BaseException as error:
            with self._answers_lock:
                if self._answers.get(key) is mine:
                    del self._answers[key]
            mine.future.set_exception(error)
            raise
        mine.made_at = time.monotonic()
        mine.before = None
        mine.future.set_result(found)
        return found


class _Answer:
    """An answer that is kept, or being made, and the one before it."""

    def __init__(self, revision: int, before: _Answer | None) -> None:
        self.revision, self.before = revision, before
        self.made_at = time.monotonic()
        self.future: Future[object] = Future()

    def settled(self) -> _Answer | None:
        """Return it once it is there, or else the one before it."""
        if self.future.done() and self.future.exception() is None:
            return self
        return self.before


def service_of(request: HTTPConnection) -> Service:
    """Return the service that a request is for."""
    service = request.app.state.service
    assert isinstance(service, Service)
    return service


def _equal(given: str, known: str) -> bool:
    return hmac.compare_digest(given.encode(), known.encode())
