"""The process of the service: it listens, says where, and ends in good order."""

from __future__ import annotations

import socket
import sys
from collections.abc import Callable
from contextlib import suppress
from types import FrameType

import uvicorn

from megasim.errors import MegasimError, printable
from megasim.serve.app import create_app
from megasim.serve.settings import Settings

# How long requests that are under way may take once the service is asked to end.
_GRACE_SECONDS = 5


def serve(settings: Settings, started: Callable[[str], None]) -> None:
    """Serve a store until the process is asked to end.

    Args:
        started: told the address once the service answers there.

    Raises:
        MegasimError: the store cannot be opened, or the port is taken.
    """
    listening = _listen(settings)
    with listening:
        port = int(listening.getsockname()[1])
        host = f"[{settings.host}]" if ":" in settings.host else settings.host
        app = create_app(settings)
        service = app.state.service
        server = _Server(
            uvicorn.Config(
                app,
                access_log=False,  # ours shows no token
                log_config=None,
                timeout_graceful_shutdown=_GRACE_SECONDS,
                server_header=False,
            ),
            lambda: started(f"http://{host}:{port}/"),
            lambda: setattr(service, "is_ending", True),
        )
        server.run(sockets=[listening])


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
