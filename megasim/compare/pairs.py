"""The pairs still missing → exact distances → store."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import nullcontext, suppress
from dataclasses import astuple, dataclass, field, fields
from functools import cache
from typing import Any

import numpy as np

from megasim.checkpoint.locations import located
from megasim.checkpoint.opening import Checkpoint
from megasim.compare.devices import AUTO, CPU, choose_devices
from megasim.compare.piece import PairDistances
from megasim.compare.plan import Ids, PairPlan
from megasim.compare.renames import RENAME_VERSION, NamedTensor, find_renames
from megasim.compare.result import CompareResult
from megasim.compare.runs import PlanRun
from megasim.compare.weight_files import open_weights
from megasim.errors import StoreLockedError, UsageError, printable, require_extra
from megasim.ingest.reading import piece_factor
from megasim.interrupts import held_interrupts, stoppable
from megasim.progress import NO_PROGRESS, Progress
from megasim.store.batches import Table, pair_table, table_of
from megasim.store.rows import Model, Pair, Store

# Of the definitions of l0, l1, l2, linf and cossim and the way they are summed.
METRIC_VERSION = 1
ON_REQUEST = ("linf", "cossim")
DEFAULT_MEMORY = 1 << 30

# So few pairs are planned before a reader would notice; of more, others can read meanwhile.
_SOON_PLANNED = 100
# Results are saved when this many rows or seconds have come together.
_SAVE_ROWS = 200_000
_MOST_ROWS = 2_000_000  # from which on there is no room for more
_SAVE_SECONDS = 5.0
# Between two batches that follow each other at once, for readers that wait.
_PAUSE_SECONDS = 0.05
# Pairs are summed up so many at a time, or as many as one model has with those after it.
_SUMMED_PAIRS = 32
# The statement that saves metrics, for each table of them.
_STATEMENTS = {
    "add_distances": ("l0", "l1", "l2"),
    "add_linfs": ("linf",),
    "add_cossims": ("cossim",),
}


def all_pairs(models: Sequence[Model]) -> list[Pair]:
    """Return every pair of models that have files, smaller id first."""
    ids = sorted(model.id for model in models if model.source == "checkpoint")
    return list(itertools.combinations(ids, 2))


def missing_pairs(store: Store, pairs: Sequence[Pair], metrics: Sequence[str] = ()) -> list[Pair]:
    """Return those of `pairs` that are not yet known, in all of `metrics`.

    Args:
        metrics: of `ON_REQUEST`; l0, l1 and l2 are always meant.
    """
    known = store.pairs()
    done = np.logical_and.reduce([known[column] for column in ("done", *metrics)])
    have = set(zip(*(known[model][done].tolist() for model in ("model_a", "model_b")), strict=True))
    return [pair for pair in pairs if pair not in have]


def compare_models(
    store: Store,
    pairs: Sequence[Pair],
    *,
    executor: Executor,
    metrics: Sequence[str] = (),
    memory: int = DEFAULT_MEMORY,
    workers: int = 2,
    device: str | None = None,
    progress: Progress = NO_PROGRESS,
) -> CompareResult:
    """Compute the exact distances of `pairs` that the store lacks, and save them as they come.

    A content is read once, however many pairs it takes part in, and two models that share a tensor
    cost nothing for it. When interrupted, what was computed is saved, and the next run computes
    the rest.

    Args:
        pairs: model ids, smaller first.
        executor: runs `run_pair_piece`; only this function writes to the store.
        metrics: of `ON_REQUEST`, beside l0, l1 and l2.
        memory: bytes for the buffers of all workers together.
        workers: how many pieces the executor runs at a time.
        device: what does the arithmetic, see `choose_devices`: a GPU where it pays when None.

    Raises:
        UsageError: an unknown metric or device.
        MissingExtraError: a GPU is asked for and torch is not installed.
    """
    check_request(metrics, device)
    result = CompareResult(pairs_asked=len(pairs))
    with store.job(keep_open=True), stoppable():
        _reopen_old_pairs(store)
        missing = missing_pairs(store, pairs, metrics)
        result.pairs_known = len(pairs) - len(missing)
        checkpoints = open_weights(store, missing, executor, result.failed)
        todo = readable_pairs(missing, checkpoints)
        if not todo:
            return result
        add_pairs(store, todo)
        if len(todo) > _SOON_PLANNED:
            store.release()
        flags = {metric: metric in metrics for metric in ON_REQUEST}
        factor = piece_factor(executor)
        lost = True
        while todo and lost:  # what was to be read of a file that is lost, another model may hold
            plan = PairPlan(store, todo, checkpoints, None, **flags, factor=factor)
            keeper = _StoreKeeper(store)
            share = memory // workers
            devices = choose_devices(device, plan.job(workers))
            run = PlanRun(executor, plan, checkpoints, share, devices, result, keeper)
            lost = run.compute(2 * workers, progress)
            todo = readable_pairs(todo, checkpoints)
        if result.set_aside:
            todo = finished_pairs(store, todo, metrics)
        prove_copies(store, todo, checkpoints)
        sum_up_pairs(store, todo, **flags, progress=progress)
    result.pairs_done = len(todo)
    return result


def prove_copies(
    store: Store, pairs: Sequence[Pair], checkpoints: Mapping[int, Checkpoint] | None = None
) -> None:
    """Save of which pairs one is the other quantised where no tensor alone proves it.

    Args:
        checkpoints: the open files of all models; None: those that are here are opened, and pairs
            of which one is not are left as they are.
    """
    coded = {model_id for (model_id,) in store.rows("coded_models")}
    one_way = [(a, b) for a, b in pairs if (a in coded) != (b in coded)]
    if one_way and checkpoints is None:
        with ThreadPoolExecutor() as executor:
            checkpoints = open_weights(store, one_way, executor, [])
        one_way = readable_pairs(one_way, checkpoints)
    if one_way and checkpoints is not None:
        # imported for who has quantised models
        from megasim.compare.scaled_copies import prove_scaled_copies

        prove_scaled_copies(store, one_way, coded, checkpoints)


def check_request(metrics: Sequence[str], device: str | None) -> None:
    """Refuse metrics that there are not, and a GPU without torch.

    Raises:
        UsageError: an unknown metric.
        MissingExtraError: a GPU is asked for and torch is not installed.
    """
    if device not in (None, AUTO, CPU):
        require_extra("torch", "--device")
    for metric in metrics:
        if metric not in ON_REQUEST:
            raise UsageError(
                f"{printable(metric)!r} is not an optional metric",
                f"choose from {', '.join(ON_REQUEST)}; l0, l1 and l2 are always computed",
            )


def readable_pairs(pairs: Sequence[Pair], checkpoints: Mapping[int, Checkpoint]) -> list[Pair]:
    """Return the pairs of which both models are open."""
    return [pair for pair in pairs if pair[0] in checkpoints and pair[1] in checkpoints]


def finished_pairs(store: Store, pairs: Sequence[Pair], metrics: Sequence[str] = ()) -> list[Pair]:
    """Return those of some pairs, which were added to the store, that lack no distance."""
    flags = {metric: metric in metrics for metric in ON_REQUEST}
    open_: set[Pair] = set()
    for group in _batches(sorted(pairs)):
        batch = {"batch": pair_table(group)}
        open_.update((a, b) for a, b in store.rows("unfinished_pairs", tables=batch, **flags))
    return [pair for pair in pairs if pair not in open_]


def sum_up_pairs(
    store: Store,
    pairs: Sequence[Pair],
    *,
    linf: bool = False,
    cossim: bool = False,
    progress: Progress = NO_PROGRESS,
) -> None:
    """Sum the layers of pairs up, component by component, and mark the pairs as done.

    All their distances must be in the store, and `linf` and `cossim` where they are said to be.
    """
    progress.start("Summing up", len(pairs), "pairs")
    batches = _batches(sorted(pairs))
    group = next(batches, None)
    try:
        while group is not None:
            began = time.monotonic()
            with store.transaction():
                while group is not None and time.monotonic() - began < _SAVE_SECONDS:
                    _sum_up(store, group, linf, cossim)
                    progress.advance(len(group))
                    group = next(batches, None)
            if group is not None:
                store.release()
                time.sleep(_PAUSE_SECONDS)
    finally:
        progress.finish()


def _sum_up(store: Store, pairs: Sequence[Pair], linf: bool, cossim: bool) -> None:
    batch = {"batch": pair_table(pairs)}
    store.write("finish_pairs", tables=batch, linf=linf, cossim=cossim)
    store.write("drop_weaker_components", tables=batch)
    store.write("drop_imported_layers", tables=batch)
    _sum_judged(store, pairs)
    store.write("add_summed_components")


def summed_batches(store: Store, pairs: Sequence[Pair]) -> Iterator[list[Pair]]:
    """Sum the layers of finished pairs up, as `sum_up_pairs` does, and save nothing.

    Yields some pairs at a time, whose sums are in the temporary table `summed`.
    """
    with store.opened():
        for group in _batches(sorted(pairs)):
            _sum_judged(store, group)
            yield group


def _sum_judged(store: Store, pairs: Sequence[Pair]) -> None:
    first, last = pairs[0][0], pairs[-1][0]
    store.write("judge_pairs", tables={"batch": pair_table(pairs)}, first=first, last=last)
    store.write("measure_judged")
    store.write("sum_judged")


def _batches(pairs: Sequence[Pair]) -> Iterator[list[Pair]]:
    """Cut sorted pairs where the first model changes, into batches that are not too small.

    With few first models at a time the views read only what these and their partners hold.
    """
    batch: list[Pair] = []
    for _, group in itertools.groupby(pairs, key=lambda pair: pair[0]):
        batch += group
        if len(batch) >= _SUMMED_PAIRS:
            yield batch
            batch = []
    if batch:
        yield batch


def _reopen_old_pairs(store: Store) -> None:
    """Let pairs whose renames an older search sought be aligned anew, if their files are there."""
    if (store.pairs()["rename_version"] == RENAME_VERSION).all():
        return
    readable = [m.id for m in store.models() if m.path is not None and located(m.path).exists()]
    with store.transaction():
        store.write("reopen_old_pairs", tables={"readable": {"model_id": readable}})


@dataclass(frozen=True)
class FoundRenames:
    """Rows of renames between the keys of pairs, and of the keys that they bring together."""

    renames: list[tuple[Any, ...]] = field(default_factory=list)
    keys: list[tuple[Any, ...]] = field(default_factory=list)

    def tables(self) -> dict[str, Table]:
        """Return the statements that save them, each with its table; none where there is none."""
        columns = ["model_a", "model_b", "prefix_a", "prefix_b", "keys", "support", "basis"]
        if not self.renames:
            return {}
        return {
            "add_renames": table_of(columns, self.renames),
            "add_renamed_keys": table_of(["model_a", "model_b", "key_a", "key_b"], self.keys),
        }


def new_pairs(store: Store, pairs: Sequence[Pair]) -> list[Pair]:
    """Return the pairs that nobody asked for yet."""
    known = store.pairs()
    have = set(zip(known["model_a"].tolist(), known["model_b"].tolist(), strict=True))
    return [pair for pair in pairs if pair not in have]


def renames_of(store: Store, pairs: Sequence[Pair]) -> FoundRenames:
    """Return the renames between the keys of some pairs, from the fingerprints alone."""
    batch = {"batch": {"model_id": sorted({model_id for pair in pairs for model_id in pair})}}
    key_sets = {int(i): key_set for i, key_set in store.rows("key_sets", tables=batch)}

    @cache
    def side(model_id: int) -> dict[str, NamedTensor]:
        rows = store.rows("model_keys", id=model_id)
        return {
            key: NamedTensor(shape, tuple(hashes), trivial, norm, plain)
            for key, shape, *hashes, trivial, plain, norm in rows
        }

    found = FoundRenames()
    for a, b in pairs:
        if key_sets.get(a) == key_sets.get(b):
            continue
        for r in find_renames(side(a), side(b)):
            found.renames.append((a, b, r.prefix_a, r.prefix_b, len(r.keys), r.support, r.basis))
            found.keys.extend((a, b, key_a, key_b) for key_a, key_b in r.keys)
    return found


def add_pairs(store: Store, pairs: Sequence[Pair]) -> None:
    """Save those of some pairs that are new, with the renames between their keys."""
    new = new_pairs(store, pairs)
    found = renames_of(store, new)
    with store.transaction():
        store.write("add_pairs", tables={"batch": pair_table(new)})
        for statement, table in found.tables().items():
            store.write(statement, tables={"batch": table})


class _StoreKeeper:
    """Saves distances in the store, some thousands at a time."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._unsaved: list[tuple[Ids, PairDistances]] = []
        self._saved_at = time.monotonic()

    def take(self, tensor_pairs: Ids, found: PairDistances) -> None:
        self._unsaved.append((tensor_pairs, found))

    def save_in_time(self) -> None:
        late = time.monotonic() - self._saved_at > _SAVE_SECONDS
        rows = sum(len(pairs) for pairs, _ in self._unsaved)
        if not (late or rows >= _SAVE_ROWS):
            return
        # while somebody reads the work goes on, as long as there is room for what comes of it
        with held_interrupts(), suppress(StoreLockedError) if rows < _MOST_ROWS else nullcontext():
            self.save(wait=0.0 if rows < _MOST_ROWS else None)
            self._store.release()

    def save(self, wait: float | None = None) -> None:
        """Save what has come in, each metric in its table, in one transaction."""
        with self._store.transaction(wait=wait):
            for statement, batch in distance_tables(self._unsaved).items():
                self._store.write(statement, tables={"batch": batch})
        self._unsaved = []
        self._saved_at = time.monotonic()


def distance_tables(found: Sequence[tuple[Ids, PairDistances]]) -> dict[str, Table]:
    """Return the statements that save distances, each with a table of those it saves."""
    tables: dict[str, Table] = {}
    for statement, metrics in _STATEMENTS.items():
        having = [(p, d) for p, d in found if getattr(d, metrics[0]) is not None]
        if not having:
            continue
        pairs = np.concatenate([p for p, _ in having])
        columns: dict[str, Any] = {
            "tensor_a": pairs[:, 0].copy(),
            "tensor_b": pairs[:, 1].copy(),
            "rows": np.repeat([d.rows for _, d in having], [len(p) for p, _ in having]),
        }
        for metric in metrics:
            columns[metric] = np.concatenate([getattr(d, metric) for _, d in having])
        tables[statement] = columns
    roundings = [
        (pairs[place].tolist(), rounding)
        for pairs, distances in found
        for place, rounding in distances.roundings.items()
    ]
    if roundings:
        names = ["tensor_a", "tensor_b", *(f.name for f in fields(roundings[0][1]))]
        rows = [(*tensor_pair, *astuple(rounding)) for tensor_pair, rounding in roundings]
        tables["add_roundings"] = table_of(names, rows)
    return tables
