"""The process of the service: it listens, says where, and ends in good order."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Callable
from contextlib import ExitStack, suppress
from types import FrameType

import uvicorn

from megasim.errors import MegasimError, printable
from megasim.serve.answering_processes import AnsweringProcesses
from megasim.serve.settings import Settings
from megasim.store.owner import StoreOwner
from megasim.store.service_file import RunningService, announced
from megasim.workspace.jobs import usable_cores

# How long requests that are under way may take once the service is asked to end.
_GRACE_SECONDS = 5


def serve(settings: Settings, started: Callable[[str], None]) -> None:
    """Serve a store until the process is asked to end.

    Args:
        started: told the address once the service answers there.

    Raises:
        MegasimError: the store cannot be opened, or the port is taken.
    """
    with ExitStack() as held:
        listening = held.enter_context(_listen(settings))
        port = int(listening.getsockname()[1])
        owner = StoreOwner(settings.store, memory=settings.memory, uploads=settings.job_folder)
        apart = AnsweringProcesses(owner, settings, settings.answering or _processes())
        # while these begin, this one imports what it needs
        from megasim.serve.app import app_of
        from megasim.serve.service import Service

        service = Service(settings, owner)
        app = app_of(service, apart)
        here = _address(settings.host, port)
        found = RunningService(_address_here(settings, port), os.getpid(), service.owner_token)
        server = _Server(
            uvicorn.Config(
                app,
                access_log=False,  # ours shows no token
                log_config=None,
                timeout_graceful_shutdown=_GRACE_SECONDS,
                server_header=False,
            ),
            lambda: started(here),
            lambda: setattr(service, "is_ending", True),
        )
        with announced(settings.store, found):
            try:
                server.run(sockets=[listening])
            except KeyboardInterrupt:  # raised once more after all has ended in good order
                if not server.should_exit:
                    raise


class _Server(uvicorn.Server):
    """A server that says when it answers, and when it ends."""

    def __init__(
        self, config: uvicorn.Config, started: Callable[[], None], ending: Callable[[], None]
    ) -> None:
        super().__init__(config)
        self._tell, self._ending = started, ending

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to listen, then tell."""
        await super().startup(sockets)
        if self.started:
            self._tell()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """End: what would stream for ever ends by itself, all else gets some seconds."""
        self._ending()
        super().handle_exit(sig, frame)


def _processes() -> int:
    """Return how many processes make answers: half as many as there are cores, at most four."""
    return max(1, min(4, usable_cores() // 2))


def _address(host: str, port: int) -> str:
    return f"http://[{host}]:{port}/" if ":" in host else f"http://{host}:{port}/"


def _address_here(settings: Settings, port: int) -> str:
    """Return where the service is reached from this machine, whatever it listens to."""
    anywhere = {"0.0.0.0": "127.0.0.1", "::": "::1"}
    return _address(anywhere.get(settings.host, settings.host), port)


def _listen(settings: Settings) -> socket.socket:
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM)
    try:
        if sys.platform != "win32":
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((settings.host, settings.port))
    except OSError as error:
        with suppress(OSError):
            listening.close()
        raise MegasimError(
            f"cannot listen at {printable(settings.host)}:{settings.port}: {error.strerror}",
            "choose another with --port, or --port 0 for any that is free",
        ) from None
    return listening
