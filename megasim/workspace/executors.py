"""What runs the pieces of work: threads, an executor that was given, or the workers of a cluster.

A piece is a function of some module and its arguments, which say where bytes lie and hold none. So
a worker needs megasim and the files under the same paths, and only results travel.
"""

from __future__ import annotations

import pickle
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, Executor, Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

from megasim.errors import LostWorkError, MegasimError, UsageError, printable, require_extra

if TYPE_CHECKING:
    import distributed

T = TypeVar("T")

# Workers that a piece may end before it is set aside.
_ATTEMPTS = 3
_CONNECT_SECONDS = 20.0
_START_SECONDS = 120.0
_LOCAL = {
    # a scheduler sets a piece aside that has ended more than so many workers
    "distributed.scheduler.allowed-failures": _ATTEMPTS - 1,
    # no piece waits at a worker that another one may end: it would take the blame, too
    "distributed.scheduler.worker-saturation": 1.0,
    # what draws the dashboard, which nobody sees here: with four workers, all of these took 15 % of
    # a core as long as they ran; now 5 %
    "distributed.worker.profile.enabled": False,
    "distributed.admin.system-monitor.interval": "5s",
    "distributed.admin.tick.interval": "1s",
    "distributed.admin.tick.cycle": "1s",
}
# Arguments travel through the scheduler, which slows down with more.
_LARGEST_PIECE = 10_000_000


@contextmanager
def work_executor(
    given: Executor | None, workers: int, cluster: str | None = None
) -> Iterator[tuple[Executor, int]]:
    """Yield the executor to run pieces of work on, and how many it runs at a time.

    Args:
        given: is used, and left as it is.
        workers: threads, or how many pieces `given` runs at a time.
        cluster: "local:N", or the address of a Dask scheduler; see `cluster_executor`.
    """
    if given is not None:
        yield given, workers
    elif cluster is not None:
        with cluster_executor(cluster) as running:
            yield running, running.workers
    else:
        with ThreadPoolExecutor(workers) as threads:
            yield threads, workers


@contextmanager
def cluster_executor(address: str) -> Iterator[ClusterExecutor]:
    """Connect to a Dask scheduler, or start workers on this machine; yield an executor of them.

    Args:
        address: "local:4" for four processes of this machine, else that of a scheduler, as
            "tcp://host:8786".

    Raises:
        MissingExtraError: Dask is not installed.
        UsageError: no such address. MegasimError: nobody answers there, or there are no workers.
    """
    require_extra("cluster", "--cluster")
    import distributed

    kind, _, rest = address.partition(":")
    if kind == "local":
        if not (rest.isdecimal() and 1 <= int(rest) <= 1024):
            raise UsageError(
                f"{printable(address)!r} is no number of workers", "write --cluster local:4"
            )
        with (
            _settings(_LOCAL),
            distributed.LocalCluster(
                n_workers=int(rest),
                threads_per_worker=1,
                processes=True,
                host="127.0.0.1",
                dashboard_address="127.0.0.1:0",
                silence_logs="CRITICAL",
            ) as started,
            distributed.Client(started, set_as_default=False) as client,
        ):
            client.wait_for_workers(int(rest), timeout=_START_SECONDS)
            yield ClusterExecutor(client)
        return
    if "://" not in address:
        raise UsageError(
            f"{printable(address)!r} is no address of a cluster",
            "write --cluster local:4, or tcp://host:8786",
        )
    try:
        client = distributed.Client(address, timeout=_CONNECT_SECONDS, set_as_default=False)
    except (OSError, ValueError) as error:
        raise MegasimError(
            f"no Dask scheduler answers at {printable(address)}: {printable(error)}",
            "start one with `dask scheduler`, and workers with `dask worker`",
        ) from None
    with client:
        yield ClusterExecutor(client)


@contextmanager
def _settings(values: dict[str, Any]) -> Iterator[None]:
    import dask

    with dask.config.set(values):
        yield


class ClusterExecutor(Executor):
    """Runs pieces of work on the workers of a Dask cluster, as any executor does.

    A worker that ends takes nothing along: its pieces are done again by others. A piece that has
    ended several raises LostWorkError, and all others go on.
    """

    # Dask takes some 10 ms of a core for each piece and what comes of it, in three processes. Where
    # 64 MB of work were a piece, that was a sixth of the work.
    piece_factor = 3

    def __init__(self, client: distributed.Client) -> None:
        self._client = client
        self.workers = sum(client.nthreads().values())
        if not self.workers:
            raise MegasimError("the cluster has no workers", "start some with `dask worker`")

    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> Future[T]:
        """Send a piece off; its result, or what went wrong, comes with the future."""
        work = zlib.compress(pickle.dumps((fn, args, kwargs), pickle.HIGHEST_PROTOCOL), 1)
        if len(work) > _LARGEST_PIECE:
            raise MegasimError(
                f"a piece of work of {len(work):,} bytes is too large for a cluster",
                "compare fewer models at a time, with --models or --group",
            )
        sent = self._client.submit(run_packed, work, pure=False)
        result: _Sent[T] = _Sent(sent)
        sent.add_done_callback(result.settle)
        return result

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Let go of the cluster; whoever opened it closes it."""


class _Sent(Future[T]):
    """What comes of a piece that was sent to a cluster."""

    def __init__(self, sent: distributed.Future) -> None:
        super().__init__()
        self._sent = sent

    def cancel(self) -> bool:
        """Let no worker begin it any more."""
        cancelled = super().cancel()
        if cancelled:
            self._sent.cancel()
        return cancelled

    def settle(self, done: distributed.Future) -> None:
        """Take the result, or what went wrong. Dask calls it from a thread of its own."""
        if not self.set_running_or_notify_cancel():
            return
        try:
            self.set_result(pickle.loads(done.result()))
        except BaseException as error:
            self.set_exception(_explained(error))


def _explained(error: BaseException) -> BaseException:
    from distributed.scheduler import KilledWorker

    if isinstance(error, KilledWorker):
        return LostWorkError(
            "a piece of work ended each worker that ran it; it was set aside, and the rest is done",
            "look into the logs of the workers: most often they lack memory; then run the same "
            "command again, with a smaller --memory or without --cluster",
        )
    if isinstance(error, (CancelledError, OSError)):
        return MegasimError(
            f"the cluster was lost: {printable(error)}",
            "finished work is saved; the same command, with a cluster or without, does the rest",
        )
    return error


def run_packed(work: bytes) -> bytes:
    """Run a piece of work on a worker.

    Its result goes back in one run of bytes: of an object, Dask would send each of its arrays, of
    which a fingerprint has several, as a message of its own.
    """
    fn, args, kwargs = pickle.loads(zlib.decompress(work))
    return pickle.dumps(fn(*args, **kwargs), pickle.HIGHEST_PROTOCOL)
