"""The processes that make pages and answers: started, asked, and started again where one ends."""

from __future__ import annotations

import asyncio
import itertools
import secrets
import threading
import time
import zlib
from concurrent.futures import Future
from contextlib import suppress
from multiprocessing import get_context
from multiprocessing.connection import Connection
from typing import Any

from megasim.errors import MegasimError
from megasim.serve.answers_apart import Asked, WholeAnswer, is_made_apart, subject_of
from megasim.serve.refusals import Refusal
from megasim.serve.settings import Settings
from megasim.serve.statement_pipe import StatementServer
from megasim.store.owner import StoreOwner

# Between two starts of a process that ends again and again.
_RESTART_SECONDS = 1.0


class AnsweringProcesses:
    """Processes that make answers out of a store that this process has open."""

    def __init__(self, owner: StoreOwner, settings: Settings, count: int) -> None:
        """Start them; they are asked while they begin, and answer once they have."""
        key = secrets.token_bytes(32)
        self._statements = StatementServer(owner, key)
        given = (settings, self._statements.address, key)
        self._processes = [_Process(given) for _ in range(count)]

    def make(self, path: str) -> bool:
        """Whether the answer at a path is one that they make."""
        return is_made_apart(path)

    async def answer(self, asked: Asked) -> WholeAnswer:
        """Return the answer to a request.

        What is computed from the same goes to the same process, which keeps it.

        Raises:
            Refusal: the process ended over it.
        """
        place = zlib.crc32(subject_of(asked.path).encode()) % len(self._processes)
        return await asyncio.wrap_future(self._processes[place].asked(asked))

    def close(self) -> None:
        """Let them end."""
        for process in self._processes:
            process.close()
        self._statements.close()


class _Process:
    def __init__(self, given: tuple[Any, ...]) -> None:
        self._given = given
        self._numbers = itertools.count()
        self._lock = threading.Lock()
        self._waiting: dict[int, Future[WholeAnswer]] = {}
        self._ending = False
        self._start()

    def _start(self) -> None:
        context = get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(
            target=_begin, args=(theirs, *self._given), name="answers", daemon=True
        )
        self._process.start()
        theirs.close()
        threading.Thread(target=self._receive, args=(self._pipe,), daemon=True).start()

    def asked(self, asked: Asked) -> Future[WholeAnswer]:
        found: Future[WholeAnswer] = Future()
        with self._lock:
            number = next(self._numbers)
            self._waiting[number] = found
            try:
                self._pipe.send((number, asked))
            except OSError:
                del self._waiting[number]
                found.set_exception(_ended())
        return found

    def _receive(self, pipe: Connection) -> None:
        """Hand out the answers of one process, until it ends."""
        with suppress(EOFError, OSError):
            while True:
                number, answer = pipe.recv()
                with self._lock:
                    found = self._waiting.pop(number)
                if found.cancelled():
                    continue
                if isinstance(answer, MegasimError):
                    found.set_exception(answer)
                else:
                    found.set_result(answer)
        with self._lock:
            waiting, self._waiting = self._waiting, {}
        for found in waiting.values():
            if not found.cancelled():
                found.set_exception(_ended())
        if not self._ending:
            time.sleep(_RESTART_SECONDS)
            with self._lock:
                if not self._ending:
                    self._start()

    def close(self) -> None:
        with self._lock:
            self._ending = True
            self._pipe.close()
        self._process.terminate()
        self._process.join(5)


def _ended() -> Refusal:
    return Refusal(
        503, "the process that made this answer ended", "ask again; the log may say why it ended"
    )


def _begin(pipe: Connection, *given: Any) -> None:
    from megasim.serve.answering_process import answer_requests

    answer_requests(pipe, *given)
