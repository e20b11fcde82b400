"""Pairs of which a model was not read in full: what headers and samples say of them → store.

Of two samples the elements that both have are compared, of a sample and a model that was read in
full those of the sample. Keys are those of the anatomy; renames are not sought: contents tell them.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, Future, wait
from dataclasses import dataclass, field
from typing import Any

from megasim.checkpoint.opening import Checkpoint
from megasim.compare.pairs import missing_pairs
from megasim.compare.result import CompareResult
from megasim.compare.sample_piece import SampleDistances, run_sample_piece
from megasim.compare.sample_plan import SamplePiece, SamplePlan, status_of
from megasim.compare.weight_files import models_at, open_weights
from megasim.errors import CheckpointError
from megasim.ingest.reading import read_bytes
from megasim.interrupts import held_interrupts, stoppable
from megasim.progress import NO_PROGRESS, Progress
from megasim.store.batches import pair_table, table_of
from megasim.store.rows import Pair, Store
from megasim.words import Tier

_COLUMNS = (
    *("model_a", "model_b", "canonical_key", "status", "sampled", "blocks", "l0", "l1", "l2"),
    *("whole_l2", "l2_error"),
)
_END_SECONDS = 1.0
# What was found is saved each time that so many elements were read for it.
_SAVED_ELEMENTS = 128 << 20


def split_by_tier(store: Store, pairs: Sequence[Pair]) -> tuple[list[Pair], list[Pair]]:
    """Return the pairs of models that were both read in full, and the others."""
    below = {model_id for (model_id,) in store.rows("models_below_full")}
    full = [pair for pair in pairs if not below.intersection(pair)]
    return full, [pair for pair in pairs if below.intersection(pair)]


def compare_tiered(
    store: Store,
    pairs: Sequence[Pair],
    *,
    executor: Executor,
    workers: int = 2,
    progress: Progress = NO_PROGRESS,
) -> CompareResult:
    """Compare pairs of which a model was not read in full, those that are not known yet, and save.

    A pair with a header is compared by keys and shapes alone. Distances are saved as they come: the
    next run goes on after them.

    Args:
        pairs: model ids, smaller first.
        executor: runs `run_sample_piece`; only this function writes to the store.
        workers: how many pieces the executor runs at a time.
    """
    result = CompareResult(pairs_asked=len(pairs))
    with store.job(keep_open=True), stoppable():
        missing = missing_pairs(store, pairs)
        result.pairs_known = len(pairs) - len(missing)
        involved = {model_id for pair in missing for model_id in pair}
        models = {model.id: model for model in store.models(ids=involved)}
        headers = {i for i, model in models.items() if model.tier == Tier.HEADER}
        by_header = [pair for pair in missing if headers.intersection(pair)]
        sampled = [pair for pair in missing if not headers.intersection(pair)]
        checkpoints = open_weights(store, sampled, executor, result.failed)
        run = _SampleRun(store, executor, result, checkpoints)
        sampled = run.readable(sampled)
        _add_pairs(store, [*sampled, *by_header])
        run.compute(SamplePlan(store, sampled, models), 2 * workers, progress)
        sampled = run.readable(sampled)
        if sampled or by_header:
            sum_up_tiered(store, [*sampled, *by_header])
        result.sampled_pairs, result.header_pairs = len(sampled), len(by_header)
    result.pairs_done = len(sampled) + len(by_header)
    return result


def _add_pairs(store: Store, pairs: Sequence[Pair]) -> None:
    batch = {"batch": pair_table(pairs)}
    with held_interrupts(), store.transaction():
        store.write("add_pairs", tables=batch)


def sum_up_tiered(store: Store, pairs: Sequence[Pair]) -> None:
    """Sum up what headers and samples say of pairs, and note that they are done."""
    batch = {"batch": pair_table(pairs)}
    with held_interrupts(), store.transaction():
        store.write("drop_weaker_components", tables=batch)
        store.write("sum_tiered", tables=batch)
        store.write("add_summed_components")
        store.write("finish_pairs", tables=batch, linf=False, cossim=False)


@dataclass
class _SampleRun:
    """A plan on its way through an executor.

    Attributes:
        checkpoints: those whose files could be read so far, by model.
        rows: what was found and is not saved, as rows of the table `sampled_distance`.
    """

    store: Store
    executor: Executor
    result: CompareResult
    checkpoints: dict[int, Checkpoint]
    rows: list[tuple[Any, ...]] = field(default_factory=list)
    elements: int = 0  # that were read since it was saved

    def readable(self, pairs: Sequence[Pair]) -> list[Pair]:
        """Return the pairs of which both files could be read so far."""
        return [(a, b) for a, b in pairs if a in self.checkpoints and b in self.checkpoints]

    def compute(self, plan: SamplePlan, ahead: int, progress: Progress) -> None:
        """Run a plan with `ahead` pieces under way at a time."""
        for known in plan.known():
            zeros = (0, 0.0, 0.0, 0.0, None if known.status == "same_in_sample" else 0.0)
            said = zeros if known.status != "non_finite" else (None,) * 5
            what = (known.key, str(known.status), known.sampled, known.blocks)
            self.rows.append((*known.pair, *what, *said))
        pieces = list(plan.pieces(dict(self.checkpoints)))
        progress.start("Comparing samples", sum(piece.elements for piece in pieces), "elements")
        waiting = iter(pieces)
        running: dict[Future[list[SampleDistances]], SamplePiece] = {}
        try:
            for piece in itertools.islice(waiting, ahead):
                running[self.executor.submit(run_sample_piece, piece.positions)] = piece
            while running:
                done, _ = wait(running, return_when=FIRST_COMPLETED)
                for future in done:
                    piece = running.pop(future)
                    self._take(plan, piece, future)
                    self.elements += piece.elements
                    progress.advance(piece.elements)
                    for piece in itertools.islice(waiting, 1):
                        running[self.executor.submit(run_sample_piece, piece.positions)] = piece
                if self.elements >= _SAVED_ELEMENTS:
                    self._save()
        finally:
            for future in running:
                future.cancel()
            self._save()
            wait(running, timeout=_END_SECONDS)
            progress.finish()

    def _save(self) -> None:
        """Save what has come in."""
        rows, self.rows, self.elements = self.rows, [], 0
        if rows:
            batch = {"batch": table_of(_COLUMNS, rows)}
            with held_interrupts(), self.store.transaction():
                self.store.write("add_sampled_distances", tables=batch)
            self.store.release()

    def _take(
        self, plan: SamplePlan, piece: SamplePiece, future: Future[list[SampleDistances]]
    ) -> None:
        """Note what a piece found, once it is sure what it is of."""
        try:
            found = future.result()
            for model_id in sorted(piece.models & self.checkpoints.keys()):
                self.checkpoints[model_id].identity.check_unchanged()
        except CheckpointError as error:
            lost = models_at(self.checkpoints, piece.models, error.path)
            if not lost and piece.models <= self.checkpoints.keys():
                raise
            self.result.failed += [error] if lost else []
            for model_id in lost:
                del self.checkpoints[model_id]
            return
        for key, pairs, distances in zip(piece.keys, piece.pairs, found, strict=True):
            for place, pair in enumerate(pairs):
                self.rows.append(_row(plan, key, pair, distances, place))
        self.result.tensor_pairs_computed += sum(map(len, piece.pairs))
        refs = [ref for position in piece.positions for ref in position.refs]
        self.result.tensors_read += len(refs)
        self.result.bytes_read += sum(
            read_bytes(ref, position.level) for position in piece.positions for ref in position.refs
        )
        self.result.files_read = max(self.result.files_read, len(self.checkpoints))


def _row(
    plan: SamplePlan, key: str, pair: Pair, found: SampleDistances, place: int
) -> tuple[Any, ...]:
    """Return what was found of a key of a pair as a row of the table `sampled_distance`."""
    numbers = [float(x[place]) for x in (found.l1, found.l2, found.whole_l2, found.l2_error)]
    is_finite = math.isfinite(numbers[1])
    differing = int(found.l0[place])
    a, b = (plan.held(key, model_id) for model_id in pair)
    status = status_of(a, b, differing, found.sampled, is_finite=is_finite)
    said = [None if math.isnan(x) or not is_finite else x for x in numbers]
    l0 = differing if is_finite else None
    return (*pair, key, str(status), found.sampled, found.blocks, l0, *said)
