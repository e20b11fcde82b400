"""One checkpoint on its way to the store: all state dicts of its file are being fingerprinted."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from pathlib import Path

from megasim.anatomy.classification import Rules
from megasim.checkpoint.locations import located
from megasim.checkpoint.opening import Checkpoint, FileIdentity, default_name
from megasim.errors import CheckpointError, printable
from megasim.fingerprint.sketch import DEFAULT_SIZE
from megasim.fingerprint.tensor import FINGERPRINT_VERSION
from megasim.ingest.reading import Reading, begin_reading
from megasim.ingest.tiers import FULL, TierAsked
from megasim.interrupts import stoppable
from megasim.progress import NO_PROGRESS, Progress
from megasim.representation.opening import open_model
from megasim.store.rows import HeldModel, Model, Store


@dataclass
class FileReading:
    """What the executor is at work on for one file: its state dicts, the main one first."""

    identity: FileIdentity
    readings: list[Reading]

    @property
    def model(self) -> Model:
        """The model of the main state dict."""
        return self.readings[0].model

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors that are read."""
        return sum(size for reading in self.readings for size in reading.sizes)

    def cancel(self) -> None:
        """Begin no more pieces. See `Reading.cancel`."""
        for reading in self.readings:
            reading.cancel()

    def gather(self, advance: Callable[[int], object]) -> list[HeldModel]:
        """Wait for the fingerprints of all; the rest is cancelled where one fails.

        Args:
            advance: is called with the bytes of each piece that is done.

        Raises:
            CheckpointError: it cannot be read, or changed meanwhile.
        """
        try:
            held = [reading.gather(advance) for reading in self.readings]
            self.identity.check_unchanged()
            return held
        except BaseException:
            self.cancel()
            raise


def describe(checkpoint: Checkpoint, name: str, sketch_size: int) -> Model:
    """Return what the header of a checkpoint says, before its keys are classified.

    Raises:
        CheckpointError: its path cannot be named in the store.
    """
    _check_path(checkpoint.path)
    identity = checkpoint.identity
    return Model(
        name=name,
        path=str(checkpoint.path),
        format=checkpoint.format,
        bytes=identity.size,
        mtime_ns=identity.mtime_ns,
        header_hash=identity.header_hash,
        metadata=checkpoint.metadata,
        skipped=checkpoint.skipped,
        fingerprint_version=FINGERPRINT_VERSION,
        sketch_size=sketch_size,
    )


def begin_file(
    model: Model,
    checkpoint: Checkpoint,
    names: Sequence[str] = (),
    *,
    executor: Executor,
    rules: Rules | None,
    size: int,
    asked: TierAsked = FULL,
) -> FileReading:
    """Hand the tensors of a checkpoint to the executor, piece by piece.

    Args:
        model: what its header says; see `describe`.
        names: of the further state dicts of the file.
        rules: anatomy rules; the built-in ones when None.
        size: numbers a sketch.
        asked: how much of it is read.
    """
    readings = []
    for part, name in zip(checkpoint.parts, (model.name, *names), strict=True):
        described = replace(model, name=name, part=part.place, part_role=part.role)
        if part is not checkpoint:
            described = replace(described, id=0, metadata={}, skipped={})
        readings.append(begin_reading(described, part, executor, size, rules, asked))
    return FileReading(checkpoint.identity, readings)


def fingerprint_checkpoint(
    store: Store,
    path: Path,
    *,
    executor: Executor,
    part: str | None = None,
    rules: Rules | None = None,
    asked: TierAsked = FULL,
    progress: Progress = NO_PROGRESS,
) -> HeldModel:
    """Return one part of a checkpoint and its fingerprints, and save nothing.

    Args:
        part: where it lies in the file; the main part when None.
        asked: how much of it is read.

    Raises:
        CheckpointError: it cannot be read, or has no such part.
    """
    sizes = {model.sketch_size for model in store.models() if model.sketch_size is not None}
    checkpoint = open_model(located(path).resolve())
    wanted = next((p for p in checkpoint.parts if part is None or p.place == part), None)
    if wanted is None:
        raise CheckpointError(path, f"it has no part {printable(part, 80)}", "ingest it again")
    alone = replace(wanted, others=(), beside=())
    size = max(sizes, default=DEFAULT_SIZE)
    model = describe(alone, default_name(alone.path), size)
    reading = begin_file(model, alone, executor=executor, rules=rules, size=size, asked=asked)
    progress.start("Fingerprinting", reading.nbytes, "bytes")
    try:
        with stoppable():
            (held,) = reading.gather(progress.advance)
            return held
    finally:
        progress.finish()


def _check_path(path: Path) -> None:
    """Refuse a path that the store, which holds text, cannot name."""
    try:
        str(path).encode()
    except UnicodeEncodeError:
        raise CheckpointError(
            path, "its path is not valid UTF-8", "rename the file, or the folder it is in"
        ) from None
