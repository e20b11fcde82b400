"""What all requests share: the settings, the open store, and the answers that are kept."""

from __future__ import annotations

import hmac
import secrets
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from hashlib import blake2b, sha256
from typing import Protocol, TypeVar, cast

from starlette.requests import HTTPConnection

from megasim.resources import __version__, code_digest
from megasim.serve.jobs import Jobs
from megasim.serve.sessions import Sessions
from megasim.serve.settings import Settings
from megasim.store.owner import StoreOwner
from megasim.store.rows import Store
from megasim.workspace import Workspace

T = TypeVar("T")

_KEPT_ANSWERS = 64


class ReadableStore(Protocol):
    """Where readers get the store from: it is open in this process, or in another."""

    def reading(self) -> tuple[Store, int]:
        """Return the store as it is now, and the revision that this is."""

    def content_digest(self, store: Store, revision: int) -> str:
        """Return the digest of what the models and pairs are at a revision."""


class Answering:
    """What makes answers: a store that is read, and what is known of it."""

    def __init__(self, settings: Settings, owner: ReadableStore) -> None:
        self.settings = settings
        self._readable = owner
        self.version = __version__
        # (path, title) of the pages, in the order of the navigation
        self.navigation: Sequence[tuple[str, str]] = ()
        self._code = code_digest()
        self._answers: OrderedDict[Hashable, _Answer] = OrderedDict()
        self._answers_lock = threading.Lock()

    @contextmanager
    def reading(self) -> Iterator[Workspace]:
        """Give the store as it is now, whatever is saved meanwhile, for the length of a block."""
        with self.reading_at() as (workspace, _):
            yield workspace

    @contextmanager
    def reading_at(self) -> Iterator[tuple[Workspace, int]]:
        """Give the same, and the revision that it is of."""
        store, revision = self._readable.reading()
        with Workspace.over(store) as workspace:
            yield workspace, revision

    def etag(self, workspace: Workspace, revision: int, *asked: str) -> str:
        """Return a text that changes with the store, with megasim, and with what was asked."""
        content = self._readable.content_digest(workspace.store, revision)
        return self.code_etag(content, *asked)

    def code_etag(self, *asked: str) -> str:
        """Return a text that changes with megasim, and with what was asked."""
        digest = blake2b(digest_size=16)
        for part in (self._code, *asked):
            digest.update(f"{len(part)}:{part}".encode())
        return f'"{digest.hexdigest()}"'

    def kept(self, key: Hashable, revision: int, compute: Callable[[], T]) -> T:
        """Return an answer, computed once for a state of the store, however many wait for it.

        Args:
            key: all that the answer depends on beside the store.
            revision: of the store that `compute` reads.
        """
        mine: _Answer | None = None
        with self._answers_lock:
            known = self._answers.get(key)
            if known is None or known.revision != revision:
                known = mine = self._answers[key] = _Answer(revision)
                while len(self._answers) > _KEPT_ANSWERS:
                    self._answers.popitem(last=False)
            self._answers.move_to_end(key)
        if mine is None:
            return cast(T, known.future.result())
        try:
            found = compute()
        except BaseException as error:
            with self._answers_lock:
                if self._answers.get(key) is mine:
                    del self._answers[key]
            mine.future.set_exception(error)
            raise
        mine.future.set_result(found)
        return found


class _Answer:
    """An answer that is kept, or being made."""

    def __init__(self, revision: int) -> None:
        self.revision = revision
        self.future: Future[object] = Future()


class Service(Answering):
    """A running service: one store, opened once, the jobs on it, and who may ask for what."""

    def __init__(self, settings: Settings, owner: StoreOwner) -> None:
        super().__init__(settings, owner)
        self.owner = owner
        self.jobs = Jobs(owner, settings, settings.job_folder)
        self.sessions = Sessions(owner, settings)
        self.is_ending = False  # so that answers which never end do
        # who can read the file that names this service may do what its owner may do
        self.owner_token = secrets.token_hex(32)

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


def answering_of(request: HTTPConnection) -> Answering:
    """Return what answers a request."""
    service = request.app.state.service
    assert isinstance(service, Answering)
    return service


def service_of(request: HTTPConnection) -> Service:
    """Return the service that a request is for."""
    service = request.app.state.service
    assert isinstance(service, Service)
    return service


def _equal(given: str, known: str) -> bool:
    return hmac.compare_digest(given.encode(), known.encode())
