"""A plan on its way through an executor: piece after piece, its distances kept as they come."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, Future, wait
from dataclasses import dataclass, field
from typing import Protocol

from megasim.checkpoint.locations import located
from megasim.checkpoint.opening import Checkpoint
from megasim.checkpoint.tensors import file_paths
from megasim.compare.piece import PairDistances, PairPiece, Position, run_pair_piece
from megasim.compare.plan import Ids, PairPlan, PlannedPiece
from megasim.compare.result import CompareResult
from megasim.compare.weight_files import models_at
from megasim.errors import CheckpointError, LostWorkError
from megasim.interrupts import held_interrupts
from megasim.progress import Progress

# Pieces in other processes, which a signal may not have reached, are waited for so long.
_END_SECONDS = 1.0


class Keeper(Protocol):
    """Where distances go: into a store, or into a file of a shard."""

    def take(self, tensor_pairs: Ids, found: PairDistances) -> None:
        """Take the distances of some pairs of contents, (P, 2) ids."""

    def save_in_time(self) -> None:
        """Save what has come together, if it is time to."""

    def save(self) -> None:
        """Save all that has come."""


@dataclass
class PlanRun:
    """The planned work, piece by piece, through the executor and to the keeper."""

    executor: Executor
    plan: PairPlan
    checkpoints: dict[int, Checkpoint]
    memory: int
    devices: Sequence[str]
    result: CompareResult
    keeper: Keeper
    files: set[int] = field(default_factory=set)
    submitted: int = 0

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
                    except LostWorkError as error:
                        self.result.set_aside += 1
                        self.result.failed.append(error)
                    progress.advance(piece.elements)
                    for following in itertools.islice(planned, 1):
                        running[self._submit(following)] = following
                self.keeper.save_in_time()
        finally:
            for future in running:
                future.cancel()
            with held_interrupts():
                self.keeper.save()
            wait(running, timeout=_END_SECONDS)
            progress.finish()
        return len(self.checkpoints) < models

    def _submit(self, planned: PlannedPiece) -> Future[list[PairDistances]]:
        device = self.devices[self.submitted % len(self.devices)] if self.devices else None
        self.submitted += 1
        piece = PairPiece(tuple(planned.positions), self.memory, device)
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
        for tensor_pairs, found in zip(piece.tensor_pairs, distances, strict=True):
            self.keeper.take(tensor_pairs, found)
        result.tensor_pairs_computed += sum(map(len, piece.tensor_pairs))
        refs = [ref for position in piece.positions for ref in position.refs]
        result.tensors_read += len(refs)
        result.bytes_read += sum(ref.bytes_in_file for ref in refs)
        self.files.update(piece.models)
        result.files_read = len(self.files)


def _check_against_hashes(position: Position, found: PairDistances) -> None:
    """Raise CheckpointError for contents whose hashes differ and whose elements do not.

    But for 64-bit integers, which may differ beyond what float64 holds.
    """
    if found.l0 is None:
        return
    for pair in position.pairs[found.l0 == 0]:
        refs = [position.refs[i] for i in pair]
        if not any(ref.dtype in ("int64", "uint64") for ref in refs):
            path = located(next(iter(sorted(file_paths(refs[0])))))
            raise CheckpointError(
                path,
                "has the same values as a tensor whose fingerprint differs from its own",
                "run `megasim ingest --reread` on both",
                refs[0].key,
            )
