"""Checkpoints that are opened before their turn, where opening means waiting for a network."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from functools import partial
from pathlib import Path

from megasim.checkpoint.locations import RemotePath
from megasim.checkpoint.opening import Checkpoint
from megasim.interrupts import stop_if_asked
from megasim.representation.opening import open_model

# Files under addresses that are being opened, or wait opened: each is some requests, one after
# another, and then what its header takes in memory.
_AHEAD = 8

Opening = Callable[[], Checkpoint]


def openings(
    paths: Sequence[Path], open_one: Callable[[Path], Checkpoint] = open_model
) -> Generator[tuple[Path, Opening]]:
    """Yield each path with what returns its checkpoint, or raises what `open_one` raises.

    What is opened ahead is read as it was then, or said to have changed: a path that was opened
    stays with its version.

    Args:
        paths: each once.
    """
    remote = deque(path for path in paths if isinstance(path, RemotePath))
    if not remote:
        yield from ((path, partial(open_one, path)) for path in paths)
        return
    begun: dict[Path, Future[Checkpoint]] = {}
    threads = ThreadPoolExecutor(_AHEAD, thread_name_prefix="megasim-opening")
    try:
        for path in paths:
            while remote and len(begun) < _AHEAD:
                following = remote.popleft()
                begun[following] = threads.submit(open_one, following)
            future = begun.pop(path, None)
            yield path, partial(open_one, path) if future is None else partial(_awaited, future)
    finally:
        threads.shutdown(wait=False, cancel_futures=True)


def _awaited(future: Future[Checkpoint]) -> Checkpoint:
    while not future.done():
        wait([future], timeout=0.2)
        stop_if_asked()
    return future.result()
