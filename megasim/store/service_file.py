"""The file beside a store that names the service which has it open, for who started the service.

The service holds a lock on the file as long as it runs, so that one that was left behind is known.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

if sys.platform != "win32":  # where commands do not find the service by themselves
    import fcntl


@dataclass(frozen=True)
class RunningService:
    """Where a service answers, and the token of its owner."""

    address: str
    process: int
    token: str = field(repr=False)


def _path(store: Path) -> Path:
    return store.with_name(f"{store.name}.service")


@contextmanager
def announced(store: Path, service: RunningService) -> Iterator[None]:
    """Name a service in the file beside its store, readable by its owner alone, for a block."""
    if sys.platform == "win32":
        yield
        return
    path = _path(store)
    part = path.with_name(f"{path.name}.{os.getpid()}")
    part.unlink(missing_ok=True)
    handle = os.open(part, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        told = {"address": service.address, "process": service.process, "token": service.token}
        os.write(handle, json.dumps(told).encode())
        part.rename(path)
        yield
    finally:
        part.unlink(missing_ok=True)
        path.unlink(missing_ok=True)
        os.close(handle)


def running_service(store: Path) -> RunningService | None:
    """Return the service that has a store open; None where none runs, or it is somebody else's."""
    if sys.platform == "win32":
        return None
    with suppress(OSError, ValueError, KeyError, TypeError), _path(store).open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:  # it is held, so the service is there
            told = json.loads(file.read())
            return RunningService(str(told["address"]), int(told["process"]), str(told["token"]))
    return None
