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
        self._answers: OrderedDict[Hashable, Future[object]] = OrderedDict()
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
        with Workspace.over(self.owner.reading()) as workspace:
            workspace.store.keep()
            yield workspace

    def etag(self, workspace: Workspace, *asked: str) -> str:
        """Return a text that changes with the store, with megasim, and with what was asked."""
        digest = blake2b(digest_size=16)
        for part in (self._code, self.owner.content_digest(workspace.store), *asked):
            digest.update(f"{len(part)}:{part}".encode())
        return f'"{digest.hexdigest()}"'

    def kept(self, key: Hashable, compute: Callable[[], T]) -> T:
        """Return an answer, computed once for a state of the store, however many wait for it.

        Args:
            key: all that the answer depends on beside the store.
        """
        place = (self.owner.revision, key)
        with self._answers_lock:
            known = self._answers.get(place)
            if known is None:
                mine: Future[object] = Future()
                self._answers[place] = mine
                while len(self._answers) > _KEPT_ANSWERS:
                    self._answers.popitem(last=False)
            else:
                self._answers.move_to_end(place)
        if known is not None:
            return cast(T, known.result())
        try:
            found = compute()
        except BaseException as error:
            with self._answers_lock:
                self._answers.pop(place, None)
            mine.set_exception(error)
            raise
        mine.set_result(found)
        return found


def service_of(request: HTTPConnection) -> Service:
    """Return the service that a request is for."""
    service = request.app.state.service
    assert isinstance(service, Service)
    return service


def _equal(given: str, known: str) -> bool:
    return hmac.compare_digest(given.encode(), known.encode())
