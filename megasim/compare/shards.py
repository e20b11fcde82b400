"""A comparison that several machines share: one computes its share of the keys, and saves nothing.

Work is cut along the keys: whoever has a key reads all contents under it, once. So all shards
together read each byte once, however many they are, and none needs what another has computed.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import Executor
from dataclasses import dataclass

from blake3 import blake3

from megasim.compare.devices import choose_devices
from megasim.compare.pairs import (
    DEFAULT_MEMORY,
    ON_REQUEST,
    check_request,
    distance_tables,
    missing_pairs,
    new_pairs,
    readable_pairs,
    renames_of,
)
from megasim.compare.piece import PairDistances
from megasim.compare.plan import Ids, PairPlan
from megasim.compare.result import CompareResult
from megasim.compare.runs import PlanRun
from megasim.compare.weight_files import open_weights
from megasim.ingest.shares import Shard
from megasim.interrupts import held_interrupts, stoppable
from megasim.progress import NO_PROGRESS, Progress
from megasim.store.rows import Pair, Store

_KEPT_ROWS = 200_000
_KEPT_SECONDS = 5.0
# The statements that keep what those of a comparison would save.
_KEEPING = {
    "add_distances": "keep_shard_distances",
    "add_linfs": "keep_shard_linfs",
    "add_cossims": "keep_shard_cossims",
    "add_roundings": "keep_shard_roundings",
}


@dataclass(frozen=True)
class ComparisonPart:
    """One part of a comparison that several machines share, and what this one has for it.

    Attributes:
        pairs: model ids, smaller first, of the whole comparison.
        shard: which part of its keys.
        metrics: of `ON_REQUEST`, beside l0, l1 and l2.
        memory: bytes for the buffers of all workers together.
        workers: how many pieces the executor runs at a time.
        device: what does the arithmetic, see `choose_devices`.
    """

    pairs: Sequence[Pair]
    shard: Shard
    metrics: Sequence[str] = ()
    memory: int = DEFAULT_MEMORY
    workers: int = 2
    device: str | None = None

    def job(self, store: Store) -> str:
        """Return 64 hex digits, equal for the parts of one comparison of one state of the store."""
        names = {model.id: model.name for model in store.models()}
        said = f"{self.shard.parts} {sorted(self.metrics)} {store.content_digest()}\n"
        digest = blake3(said.encode())
        for a, b in sorted(self.pairs):
            digest.update(f"{names[a]!r} {names[b]!r}\n".encode())
        return digest.hexdigest()


def compute_part(
    store: Store, part: ComparisonPart, *, executor: Executor, progress: Progress = NO_PROGRESS
) -> CompareResult:
    """Compute the distances that the store lacks under the keys of a part.

    They come into the tables `shard_distance`, `shard_linf`, `shard_cossim` and `shard_rounding`
    of the connection, which is kept; the store itself is only read.

    Returns:
        What was done; `pairs_done` stays 0, as pairs are known once all parts are together.

    Raises:
        UsageError: an unknown metric or device.
        MissingExtraError: a GPU is asked for and torch is not installed.
    """
    check_request(part.metrics, part.device)
    result = CompareResult(pairs_asked=len(part.pairs))
    store.keep()
    with stoppable():
        store.write("begin_shard")
        missing = missing_pairs(store, part.pairs, part.metrics)
        result.pairs_known = len(part.pairs) - len(missing)
        for statement, table in renames_of(store, new_pairs(store, missing)).tables().items():
            if statement == "add_renamed_keys":
                store.write(statement, tables={"batch": table})
        checkpoints = open_weights(store, missing, executor, result.failed)
        todo = readable_pairs(missing, checkpoints)
        flags = {metric: metric in part.metrics for metric in ON_REQUEST}
        keeper = _ShardKeeper(store)
        if todo:
            plan = PairPlan(store, todo, checkpoints, part.shard, **flags)
            share = part.memory // part.workers
            devices = choose_devices(part.device, plan.job(part.workers))
            run = PlanRun(executor, plan, checkpoints, share, devices, result, keeper)
            run.compute(2 * part.workers, progress)
    return result


class _ShardKeeper:
    """Keeps distances in tables of the connection, which the database spills to the disk."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._kept: list[tuple[Ids, PairDistances]] = []
        self._kept_at = time.monotonic()

    def take(self, tensor_pairs: Ids, found: PairDistances) -> None:
        self._kept.append((tensor_pairs, found))

    def save_in_time(self) -> None:
        rows = sum(len(pairs) for pairs, _ in self._kept)
        if rows >= _KEPT_ROWS or time.monotonic() - self._kept_at > _KEPT_SECONDS:
            with held_interrupts():
                self.save()

    def save(self) -> None:
        for statement, batch in distance_tables(self._kept).items():
            self._store.write(_KEEPING[statement], tables={"batch": batch})
        self._kept = []
        self._kept_at = time.monotonic()
