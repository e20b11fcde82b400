"""Paths → fingerprints → store, skipping what is known."""

from __future__ import annotations

import os
import shlex
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Executor
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

from megasim.anatomy.classification import Rules
from megasim.checkpoint.opening import (
    Checkpoint,
    FileIdentity,
    StateDictContents,
    default_name,
    find_checkpoints,
    open_checkpoint,
)
from megasim.errors import CheckpointError, ForeignFileError, MegasimError, UsageError, printable
from megasim.fingerprint.tensor import FINGERPRINT_VERSION
from megasim.ingest.known_models import KnownModels
from megasim.ingest.reading import Reading, begin_reading
from megasim.interrupts import held_interrupts, stoppable
from megasim.progress import NO_PROGRESS, Progress
from megasim.store.rows import HeldModel, Model, ModelTensor, Store
from megasim.words import PartRole

# Models are saved together once so many seconds have passed, or tensors have come together.
_SAVE_SECONDS = 5.0
_SAVE_TENSORS = 20_000


@dataclass
class IngestResult:
    """What became of each path: names of models, and what could not be read.

    `known` models were not read again; `moved` ones only got their new path; `copied` ones are
    second copies of a known file and were not read either. Files of another kind that a folder
    held beside checkpoints are `passed_over`.
    """

    added: list[str] = field(default_factory=list)
    replaced: list[str] = field(default_factory=list)
    known: list[str] = field(default_factory=list)
    moved: list[str] = field(default_factory=list)
    copied: list[str] = field(default_factory=list)
    failed: list[MegasimError] = field(default_factory=list)
    passed_over: list[ForeignFileError] = field(default_factory=list)
    bytes_read: int = 0

    def to_json(self) -> dict[str, object]:
        """Return plain lists and numbers."""
        return {
            "added": self.added,
            "replaced": self.replaced,
            "known": self.known,
            "moved": self.moved,
            "copied": self.copied,
            "failed": [error.message for error in self.failed],
            "passed_over": [error.message for error in self.passed_over],
            "bytes_read": self.bytes_read,
        }


@dataclass
class _Job:
    """A checkpoint on its way to the store: its state dicts, the main one first."""

    identity: FileIdentity
    readings: list[Reading]

    @property
    def model(self) -> Model:
        return self.readings[0].model

    @property
    def nbytes(self) -> int:
        return sum(size for reading in self.readings for size in reading.sizes)

    def cancel(self) -> None:
        for reading in self.readings:
            reading.cancel()


def ingest_paths(
    store: Store,
    paths: Sequence[Path],
    *,
    executor: Executor,
    names: Mapping[str, Path] | None = None,
    rules: Rules | None = None,
    sketch_size: int = 256,
    reread: bool = False,
    progress: Progress = NO_PROGRESS,
) -> IngestResult:
    """Fingerprint what is new among `paths` (files or folders) and save it, model by model.

    A file whose size, time and header hash are known is not read again unless `reread`; one
    that moved gets its new path. An unreadable file is reported in the result, and the others
    are saved. When interrupted, every model saved so far stays.

    Args:
        executor: runs `fingerprint_refs` on pieces of a file; only this function writes.
        names: names to give, with the path of each, which is read like the others; the file name
            without ending otherwise. A file with several names is several models, and read once.
        rules: anatomy rules; the built-in ones when None.
        sketch_size: numbers a sketch; one size for a whole store.

    Raises:
        UsageError: there is nothing at any path, a name is given to a folder of several
            checkpoints, or the store has sketches of another size.
    """
    with store.job(), stoppable():
        return _ingest_paths(
            store, paths, executor, names or {}, rules, sketch_size, reread, progress
        )


def _ingest_paths(
    store: Store,
    paths: Sequence[Path],
    executor: Executor,
    names: Mapping[str, Path],
    rules: Rules | None,
    sketch_size: int,
    reread: bool,
    progress: Progress,
) -> IngestResult:
    _check_sketch_size(store, sketch_size)
    names = {name: _one_in(path) for name, path in names.items()}
    paths = list(dict.fromkeys([*paths, *names.values()]))
    require_some(paths)
    aliases = {name: path.resolve() for name, path in names.items()}
    # the first name of a path is its model's; the others are copies
    first = {path: name for name, path in reversed(aliases.items())}
    run = _Ingest(
        store=store,
        executor=executor,
        names=first,
        rules=rules,
        sketch_size=sketch_size,
        reread=reread,
        progress=progress,
        result=IngestResult(),
        known=KnownModels(store.models()),
    )
    store.release()
    found = list(dict.fromkeys(p for path in paths for p in run.find(path)))
    for name, path in aliases.items():
        if path.is_dir() and path not in found:
            raise UsageError(
                f"{printable(path, 400)} holds several models, not one called {printable(name)!r}",
                "give the file or folder of one of them",
            )
    progress.start("Ingesting", sum(_size(path) for path in found), "bytes")
    try:
        try:
            for job in run.jobs(found):
                run.finish(job)
        finally:
            run.save()
        for name, path in aliases.items():
            if first[path] != name:
                run.alias(name, path)
    finally:
        progress.finish()
    return run.result


def _one_in(path: Path) -> Path:
    """Return the one checkpoint that a folder holds; the path itself for all else."""
    try:
        found = find_checkpoints(path)
    except MegasimError:  # reading it will say why
        return path
    return found[0] if len(found) == 1 else path


def require_some(paths: Sequence[Path]) -> None:
    """Raise UsageError where nothing is at any of some paths."""
    if not any(path.exists() for path in paths):
        where = ", ".join(printable(path, 400) for path in paths) or "no path"
        raise UsageError(f"nothing found at {where}", "give files or folders that hold checkpoints")


def fingerprint_checkpoint(
    store: Store,
    path: Path,
    *,
    executor: Executor,
    rules: Rules | None = None,
    progress: Progress = NO_PROGRESS,
) -> tuple[Model, list[ModelTensor]]:
    """Return the main part of a checkpoint and its fingerprints, and save nothing.

    Raises:
        CheckpointError: it cannot be read.
    """
    sizes = {model.sketch_size for model in store.models() if model.sketch_size is not None}
    size = max(sizes, default=256)
    run = _Ingest(store, executor, {}, rules, size, False, progress, IngestResult())
    checkpoint = open_checkpoint(path.resolve())
    alone = replace(checkpoint, others=(), beside=())
    job = run.submit(run.describe(checkpoint), alone)
    progress.start("Fingerprinting", job.nbytes, "bytes")
    try:
        with stoppable():
            (held,) = run.gather(job)
            return held.model, list(held.tensors)
    finally:
        progress.finish()


@dataclass
class _Ingest:
    """What the steps of one ingest share."""

    store: Store
    executor: Executor
    names: Mapping[Path, str]
    rules: Rules | None
    sketch_size: int
    reread: bool
    progress: Progress
    result: IngestResult
    defaults: dict[Path, str] = field(default_factory=dict)
    known: KnownModels = field(default_factory=lambda: KnownModels([]))
    unsaved: list[tuple[FileIdentity, list[HeldModel]]] = field(default_factory=list)
    saved_at: float = field(default_factory=time.monotonic)

    def find(self, path: Path) -> list[Path]:
        try:
            found = find_checkpoints(path, self.pass_over)
            # by the name it is reached under: in the cache of the hub a file is a link to a hash
            self.defaults.update({p.resolve(): default_name(p) for p in reversed(found)})
            return [p.resolve() for p in found]
        except CheckpointError as error:
            self.result.failed.append(error)
        except UsageError:
            self.result.failed.append(
                CheckpointError(path, "nothing found there", "check the path")
            )
        return []

    def pass_over(self, error: CheckpointError) -> None:
        """Note what a folder holds that is not read: no checkpoint, or one that is missing."""
        if isinstance(error, ForeignFileError):
            self.result.passed_over.append(error)
        else:
            self.result.failed.append(error)

    def jobs(self, paths: Sequence[Path]) -> Iterator[_Job]:
        """Yield the checkpoints to save; the next one is being read while one is saved."""
        ahead: _Job | None = None
        try:
            for path in paths:
                try:
                    job = self.start(path)
                except MegasimError as error:
                    self.result.failed.append(error)
                    job = None
                if job is None:
                    self.progress.advance(_size(path))
                    continue
                if ahead is not None:
                    yield ahead
                ahead = job
            if ahead is not None:
                last, ahead = ahead, None
                yield last
        finally:
            if ahead is not None:
                ahead.cancel()

    def describe(self, checkpoint: Checkpoint) -> Model:
        """Return what the header of a checkpoint says, before its keys are classified."""
        _check_path(checkpoint.path)
        identity = checkpoint.identity
        return Model(
            name=self.names.get(checkpoint.path) or self.default(checkpoint.path),
            path=str(checkpoint.path),
            format=checkpoint.format,
            bytes=identity.size,
            mtime_ns=identity.mtime_ns,
            header_hash=identity.header_hash,
            metadata=checkpoint.metadata,
            skipped=checkpoint.skipped,
            fingerprint_version=FINGERPRINT_VERSION,
            sketch_size=self.sketch_size,
        )

    def submit(self, model: Model, checkpoint: Checkpoint) -> _Job:
        """Hand the tensors of a checkpoint to the executor, piece by piece."""
        names = part_names(model.name, checkpoint.others)
        readings = []
        for part, name in zip(checkpoint.parts, (model.name, *names), strict=True):
            described = replace(model, name=name, part=part.place, part_role=part.role)
            if part is not checkpoint:
                described = replace(described, id=0, metadata={}, skipped={})
            readings.append(
                begin_reading(described, part, self.executor, self.sketch_size, self.rules)
            )
        return _Job(checkpoint.identity, readings)

    def start(self, path: Path) -> _Job | None:
        """Begin to fingerprint a checkpoint; None where it is settled without reading."""
        checkpoint = open_checkpoint(path)
        model = self.describe(checkpoint)
        if any(m.id < 0 for m in self._alike(model)):
            self.save()  # to have an id to go by
        here = self.known.at(model.path)
        twins = [m for m in self.known.twins(model.identity) if _is_current(m)]
        if not self.reread and twins and (here is None or here in twins):
            self.settle(model, here or twins[0])
            return None
        if here is not None:
            model = replace(model, id=here.id, name=self.names.get(path, here.name))
        return self.submit(self.named(model), checkpoint)

    def _alike(self, model: Model) -> list[Model]:
        here = self.known.at(model.path)
        return [*([here] if here else []), *self.known.twins(model.identity)]

    def named(self, model: Model) -> Model:
        """Return a model under its name; under another where that is taken, and was not asked for.

        Raises CheckpointError where the name was asked for, or no other is free.
        """
        path = Path(model.path or "")
        if path not in self.names and not model.id:
            model = replace(model, name=_free_name(self.default(path), path, self.known))
        _check_name(model, self.known)
        return model

    def default(self, path: Path) -> str:
        """Return what a checkpoint is called where no name is given, by where it was found."""
        return self.defaults.get(path) or default_name(path)

    def settle(self, model: Model, twin: Model) -> None:
        """A file known by its identity: at the same place, moved, or a second copy."""
        path = model.path
        assert path is not None
        if twin.path != path and twin.path is not None and Path(twin.path).exists():
            model = self.named(model)
            self.store.copy_model(model, twin)
            self.known = KnownModels(self.store.models())
            self.result.copied.append(model.name)
            return
        wanted = self.names.get(Path(path), twin.name)
        if wanted != twin.name:
            _check_name(replace(model, id=twin.id, name=wanted), self.known)
            self.store.rename_model(twin.id, wanted)
            self.known = KnownModels(self.store.models())
        if twin.path == path:
            self.result.known.append(wanted)
        else:
            self.store.move_model(twin.id, path)
            self.known.move_file(twin.id, path)
            self.result.moved.append(wanted)

    def alias(self, name: str, path: Path) -> None:
        """Save the model at a path under another name, too."""
        known = self.store.models()
        files = [m for m in known if m.file_model_id is None]
        twin = next((m for m in files if m.path == str(path) and m.name != name), None)
        here = next((m for m in files if m.name == name and m.path == str(path)), None)
        if twin is None or (here is not None and here.identity == twin.identity):
            return
        model = replace(twin, name=name, id=0)
        try:
            _check_name(replace(model, id=here.id if here else 0), KnownModels(known))
        except CheckpointError as error:
            self.result.failed.append(error)
            return
        with self.store.transaction():
            if here is not None:
                self.store.remove_model(here.id)
            self.store.copy_model(model, twin)
        self.result.copied.append(name)

    def finish(self, job: _Job) -> None:
        """Gather the fingerprints of a checkpoint, and save it soon, with those beside it."""
        try:
            held = self.gather(job)
            # the model read just before this one may have taken its name
            name = self.named(job.model).name
            held = [_renamed(part, job.model.name, name) for part in held]
            for part in held:
                _check_name(part.model, self.known, file_id=job.model.id)
        except CheckpointError as error:
            self.result.failed.append(error)
            return
        if job.model.id:
            self.known.remove_file(job.model.id)
        self.unsaved.append((job.identity, held))
        self._note(held, [_provisional(len(self.unsaved), i) for i in range(len(held))])
        tensors = sum(len(part.tensors) for _, parts in self.unsaved for part in parts)
        if tensors > _SAVE_TENSORS or time.monotonic() - self.saved_at > _SAVE_SECONDS:
            self.save()

    def _note(self, held: Sequence[HeldModel], ids: Sequence[int]) -> None:
        for part, model_id in zip(held, ids, strict=True):
            main = ids[0] if part is not held[0] else None
            self.known.add(replace(part.model, id=model_id, file_model_id=main))

    def save(self) -> None:
        """Save what was gathered and still holds in one transaction, and let others read."""
        if not self.unsaved:
            return
        kept = []
        for i, (identity, held) in enumerate(self.unsaved, 1):
            self.known.remove_file(_provisional(i))
            try:
                identity.check_unchanged()
                kept.append(held)
            except CheckpointError as error:
                self.result.failed.append(error)
        with held_interrupts():
            with self.store.transaction():
                ids = [self.store.save_file(held) for held in kept]
            self.unsaved = []
            self.store.release()
        for held, saved in zip(kept, ids, strict=True):
            self._note(held, saved)
            names = self.result.replaced if held[0].model.id else self.result.added
            names += [part.model.name for part in held]
        self.saved_at = time.monotonic()

    def gather(self, job: _Job) -> list[HeldModel]:
        """Wait for the fingerprints of a checkpoint; the rest is cancelled where one fails.

        Raises:
            CheckpointError: it cannot be read, or changed meanwhile.
        """
        try:
            held = [reading.gather(self.advance) for reading in job.readings]
            job.identity.check_unchanged()
            return held
        except BaseException:
            job.cancel()
            raise

    def advance(self, size: int) -> None:
        self.progress.advance(size)
        self.result.bytes_read += size


def part_names(name: str, parts: Sequence[StateDictContents]) -> list[str]:
    """Return names for the further parts of a file, called after it and what they are.

    Where what it is does not tell a part, its name in the file does; and a number, where that is
    taken as well.

    >>> part_names("train", [StateDictContents({}, name="model_ema", role=PartRole.EMA)])
    ['train#ema']
    """
    telling = (PartRole.EMA, PartRole.TEACHER, PartRole.DISCRIMINATOR, PartRole.ADAPTER)
    found: list[str] = []
    for part in parts:
        last = part.name.rpartition(".")[2]
        choices = [part.role.value] if part.role in telling else []
        choices += [last, part.name]
        free = next((c for c in choices if f"{name}#{c}" not in found), None)
        number = 2
        while free is None or f"{name}#{free}" in found:
            free = f"{choices[0]}#{number}"
            number += 1
        found.append(f"{name}#{free}")
    return found


def _provisional(place: int, part: int = 0) -> int:
    """Return an id for a part of the file at a place among those not yet saved."""
    return -(place * 1_000_000 + part)


def _size(path: Path) -> int:
    """Return the bytes of a file or folder; 0 where it has just gone, as opening it will say."""
    with suppress(OSError):
        if path.is_dir():
            return sum(p.stat().st_size for p in path.rglob("*") if p.is_file())
        return path.stat().st_size
    return 0


def _check_path(path: Path) -> None:
    """Refuse a path that the store, which holds text, cannot name."""
    try:
        str(path).encode()
    except UnicodeEncodeError:
        raise CheckpointError(
            path, "its path is not valid UTF-8", "rename the file, or the folder it is in"
        ) from None


def _is_current(model: Model) -> bool:
    return model.source == "checkpoint" and model.fingerprint_version == FINGERPRINT_VERSION


def _check_sketch_size(store: Store, sketch_size: int) -> None:
    sizes = {model.sketch_size for model in store.models() if model.sketch_size is not None}
    if sizes and sizes != {sketch_size}:
        raise UsageError(
            f"the sketches in this store have {min(sizes)} numbers, not {sketch_size}",
            f"use --sketch {min(sizes)}, or another store: two sizes cannot be compared",
        )


def _renamed(held: HeldModel, old: str, new: str) -> HeldModel:
    """Return a part of a file under the new name of its file."""
    return replace(held, model=replace(held.model, name=new + held.model.name.removeprefix(old)))


def _free_name(name: str, path: Path, known: KnownModels) -> str:
    """Return the name of a new model, or where that is taken, one with a piece of its path.

    The piece is the first in which its path differs from that of the model that has the name; then
    all of them; then with the ending of the file.
    """
    holder = known.named(name)
    if holder is None:
        return name
    pieces = _pieces_apart(path, holder)
    choices = ["-".join(pieces)]
    if len(pieces) > 1:
        choices = [f"{pieces[0]}-{name}", "-".join([*pieces[:-1], name]), *choices]
    return next((choice for choice in choices if known.named(choice) is None), name)


def _pieces_apart(path: Path, holder: Model) -> tuple[str, ...]:
    """The pieces of a path from where it parts from another model's on, with its ending."""
    other = Path(holder.path).parent if holder.path else path.parent.parent
    return path.relative_to(os.path.commonpath([path.parent, other])).parts


def _check_name(model: Model, known: KnownModels, file_id: int = 0) -> None:
    """Refuse a name that a model of another file has; `file_id` is its own file's, 0 if new."""
    own = {model.id, file_id} - {0}
    holder = known.named(model.name)
    if holder is not None and (holder.id in own or holder.file_model_id in own):
        holder = None
    if holder is not None:
        where = f"the model of {printable(holder.path)}" if holder.path else "an imported model"
        path = Path(model.path or "")
        # no two files get one such name
        free = "-".join(_pieces_apart(path, holder))
        named = shlex.quote(printable(f"{free}={path}", 4096))
        raise CheckpointError(
            path,
            f"the name {printable(model.name)!r} belongs to {where}",
            f"give this one another name, e.g. --name {named}",
        )
