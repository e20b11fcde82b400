"""The pairs still missing → exact distances → store."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, Future, wait
from contextlib import nullcontext, suppress
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from megasim.checkpoint.opening import Checkpoint
from megasim.checkpoint.tensors import file_paths
from megasim.compare.piece import PairDistances, PairPiece, Position, run_pair_piece
from megasim.compare.plan import Ids, PairPlan, PlannedPiece
from megasim.compare.renames import RENAME_VERSION, NamedTensor, find_renames
from megasim.compare.weight_files import models_at, open_weights
from megasim.errors import (
    CheckpointError,
    MegasimError,
    StoreLockedError,
    UsageError,
    printable,
    require_extra,
)
from megasim.interrupts import held_interrupts, stoppable
from megasim.progress import NO_PROGRESS, Progress
from megasim.store.batches import pair_table, table_of
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
# Pieces in other processes, which a signal may not have reached, are waited for so long.
_END_SECONDS = 1.0
# Pairs are summed up so many at a time, or as many as one model has with those after it.
_SUMMED_PAIRS = 32
# The statement that saves metrics, for each table of them.
_STATEMENTS = {
    "add_distances": ("l0", "l1", "l2"),
    "add_linfs": ("linf",),
    "add_cossims": ("cossim",),
}


@dataclass
class CompareResult:
    """What a comparison did; the counters show that nothing is done twice.

    Attributes:
        pairs_asked: pairs of models that were to be known.
        pairs_known: of them, known before.
        pairs_done: of them, finished by this run.
        tensor_pairs_computed: pairs of contents whose distances were computed.
        tensors_read: contents read: each once for a key that it stands under.
        bytes_read: bytes of these contents.
        files_read: models out of which they were read.
        estimated: distances of components that were estimated from the sketches instead.
        failed: models that could not be read; their pairs are left open.
    """

    pairs_asked: int = 0
    pairs_known: int = 0
    pairs_done: int = 0
    tensor_pairs_computed: int = 0
    tensors_read: int = 0
    bytes_read: int = 0
    files_read: int = 0
    estimated: int = 0
    failed: list[MegasimError] = field(default_factory=list)

    def to_json(self) -> dict[str, object]:
        """Return plain lists and numbers."""
        return {**asdict(self), "failed": [error.message for error in self.failed]}


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
        device: a torch device for the arithmetic; the compiled kernel on the CPU when None.

    Raises:
        UsageError: an unknown metric.
        MissingExtraError: a device is asked for and torch is not installed.
    """
    if device is not None:
        require_extra("torch", "--device")
    for metric in metrics:
        if metric not in ON_REQUEST:
            raise UsageError(
                f"{printable(metric)!r} is not an optional metric",
                f"choose from {', '.join(ON_REQUEST)}; l0, l1 and l2 are always computed",
            )
    result = CompareResult(pairs_asked=len(pairs))
    with store.job(keep_open=True), stoppable():
        _reopen_old_pairs(store)
        missing = missing_pairs(store, pairs, metrics)
        result.pairs_known = len(pairs) - len(missing)
        checkpoints = open_weights(store, missing, executor, result.failed)
        todo = _readable(missing, checkpoints)
        if not todo:
            return result
        _add_pairs(store, todo)
        if len(todo) > _SOON_PLANNED:
            store.release()
        flags = {metric: metric in metrics for metric in ON_REQUEST}
        lost = True
        while todo and lost:  # what was to be read of a file that is lost, another model may hold
            plan = PairPlan(store, todo, checkpoints, **flags)
            run = _Comparison(store, executor, plan, checkpoints, memory // workers, device, result)
            lost = run.compute(2 * workers, progress)
            todo = _readable(todo, checkpoints)
        sum_up_pairs(store, todo, **flags, progress=progress)
    result.pairs_done = len(todo)
    return result


def _readable(pairs: Sequence[Pair], checkpoints: Mapping[int, Checkpoint]) -> list[Pair]:
    return [pair for pair in pairs if pair[0] in checkpoints and pair[1] in checkpoints]


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
    store.write("add_exact_components")


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
    readable = [m.id for m in store.models() if m.path is not None and Path(m.path).exists()]
    with store.transaction():
        store.write("reopen_old_pairs", tables={"readable": {"model_id": readable}})


def _add_pairs(store: Store, pairs: Sequence[Pair]) -> None:
    """Save new pairs with the renames between their keys."""
    known = store.pairs()
    have = set(zip(known["model_a"].tolist(), known["model_b"].tolist(), strict=True))
    new = [pair for pair in pairs if pair not in have]
    key_sets = {int(i): key_set for i, key_set in store.rows("key_sets")}

    @cache
    def side(model_id: int) -> dict[str, NamedTensor]:
        rows = store.rows("model_keys", id=model_id)
        return {
            key: NamedTensor(shape, tuple(hashes), trivial, norm, plain)
            for key, shape, *hashes, trivial, plain, norm in rows
        }

    renames: list[tuple[Any, ...]] = []
    keys: list[tuple[Any, ...]] = []
    for a, b in new:
        if key_sets.get(a) == key_sets.get(b):
            continue
        for r in find_renames(side(a), side(b)):
            renames.append((a, b, r.prefix_a, r.prefix_b, len(r.keys), r.support, r.basis))
            keys += [(a, b, key_a, key_b) for key_a, key_b in r.keys]
    with store.transaction():
        store.write("add_pairs", tables={"batch": pair_table(new)})
        if renames:
            columns = ["model_a", "model_b", "prefix_a", "prefix_b", "keys", "support", "basis"]
            batch = table_of(columns, renames)
            store.write("add_renames", tables={"batch": batch})
            batch = table_of(["model_a", "model_b", "key_a", "key_b"], keys)
            store.write("add_renamed_keys", tables={"batch": batch})


def _check_against_hashes(position: Position, found: PairDistances) -> None:
    """Raise CheckpointError for contents whose hashes differ and whose elements do not.

    But for 64-bit integers, which may differ beyond what float64 holds.
    """
    if found.l0 is None:
        return
    for pair in position.pairs[found.l0 == 0]:
        refs = [position.refs[i] for i in pair]
        if not any(ref.dtype in ("int64", "uint64") for ref in refs):
            path = Path(next(iter(sorted(file_paths(refs[0])))))
            raise CheckpointError(
                path,
                "has the same values as a tensor whose fingerprint differs from its own",
                "run `megasim ingest --reread` on both",
                refs[0].key,
            )


@dataclass
class _Comparison:
    """The planned work, piece by piece, through the executor and into the store."""

    store: Store
    executor: Executor
    plan: PairPlan
    checkpoints: dict[int, Checkpoint]
    memory: int
    device: str | None
    result: CompareResult
    unsaved: list[tuple[Ids, PairDistances]] = field(default_factory=list)
    saved_at: float = field(default_factory=time.monotonic)
    files: set[int] = field(default_factory=set)

    def compute(self, ahead: int, progress: Progress) -> bool:
        """Run the plan with `ahead` pieces under way at a time; save when interrupted, too.

        Returns:
            Whether a model was lost on the way: its file is gone, or changed.
        """
        models = len(self.checkpoints)
        progress.start("Comparing", self.plan.elements, "elements")
        running: dict[Future[list[PairDistances]], PlannedPiece] = {}
        planned = self.plan.pieces(progress)
        try:
            for piece in itertools.islice(planned, ahead):
                running[self._submit(piece)] = piece
            while running:
                done, _ = wait(running, return_when=FIRST_COMPLETED)
                for future in done:
                    piece = running.pop(future)
                    try:
                        self._take(piece, future.result())
                    except CheckpointError as error:
                        self._lose(piece, error)
                    progress.advance(piece.elements)
                    for following in itertools.islice(planned, 1):
                        running[self._submit(following)] = following
                self._save_in_time()
        finally:
            for future in running:
                future.cancel()
            with held_interrupts():
                self._save()
            wait(running, timeout=_END_SECONDS)
            progress.finish()
        return len(self.checkpoints) < models

    def _submit(self, planned: PlannedPiece) -> Future[list[PairDistances]]:
        piece = PairPiece(tuple(planned.positions), self.memory, self.device)
        return self.executor.submit(run_pair_piece, piece)

    def _lose(self, piece: PlannedPiece, error: CheckpointError) -> None:
        """Leave the model of an error aside from now on, and nothing in the store of a piece."""
        lost = models_at(self.checkpoints, piece.models, error.path)
        if not lost and not piece.models <= self.checkpoints.keys():
            return  # of a model that was lost before
        if not lost:
            raise error
        self.result.failed.append(error)
        for model in lost:
            del self.checkpoints[model]

    def _take(self, piece: PlannedPiece, distances: Sequence[PairDistances]) -> None:
        """Note the distances of a piece, once it is sure what they are of.

        Raises:
            CheckpointError: a file changed while it was read, or is not what it was said to be.
        """
        for model in sorted(piece.models & self.checkpoints.keys()):
            self.checkpoints[model].identity.check_unchanged()
        if not piece.models <= self.checkpoints.keys():
            return
        for position, found in zip(piece.positions, distances, strict=True):
            _check_against_hashes(position, found)
        result = self.result
        self.unsaved += zip(piece.tensor_pairs, distances, strict=True)
        result.tensor_pairs_computed += sum(map(len, piece.tensor_pairs))
        refs = [ref for position in piece.positions for ref in position.refs]
        result.tensors_read += len(refs)
        result.bytes_read += sum(ref.nbytes for ref in refs)
        self.files.update(piece.models)
        result.files_read = len(self.files)

    def _save_in_time(self) -> None:
        late = time.monotonic() - self.saved_at > _SAVE_SECONDS
        rows = sum(len(pairs) for pairs, _ in self.unsaved)
        if not (late or rows >= _SAVE_ROWS):
            return
        # while somebody reads the work goes on, as long as there is room for what comes of it
        with held_interrupts(), suppress(StoreLockedError) if rows < _MOST_ROWS else nullcontext():
            self._save(wait=0.0 if rows < _MOST_ROWS else None)
            self.store.release()

    def _save(self, wait: float | None = None) -> None:
        """Save what has come in, each metric in its table, in one transaction."""
        unsaved = self.unsaved
        with self.store.transaction(wait=wait):
            for statement, metrics in _STATEMENTS.items():
                having = [(p, d) for p, d in unsaved if getattr(d, metrics[0]) is not None]
                if not having:
                    continue
                pairs = np.concatenate([p for p, _ in having])
                columns: dict[str, Any] = {
                    "tensor_a": pairs[:, 0].copy(),
                    "tensor_b": pairs[:, 1].copy(),
                }
                columns["rows"] = np.repeat(
                    [d.rows for _, d in having], [len(p) for p, _ in having]
                )
                for metric in metrics:
                    columns[metric] = np.concatenate([getattr(d, metric) for _, d in having])
                self.store.write(statement, tables={"batch": columns})
        self.unsaved = []
        self.saved_at = time.monotonic()
