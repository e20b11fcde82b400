"""Paths → fingerprints → store, skipping what is known."""

from __future__ import annotations

import gc
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Executor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

from megasim.anatomy.classification import Rules
from megasim.checkpoint.locations import located
from megasim.checkpoint.opening import (
    Checkpoint,
    default_name,
    find_checkpoints,
)
from megasim.errors import (
    CheckpointError,
    ForeignFileError,
    LostWorkError,
    MegasimError,
    UsageError,
    printable,
)
from megasim.fingerprint.tensor import FINGERPRINT_VERSION
from megasim.ingest.files import FileReading, begin_file, describe
from megasim.ingest.known_models import KnownModels
from megasim.ingest.names import check_name, free_name, part_names, renamed
from megasim.ingest.openings import Opening, openings
from megasim.ingest.result import IngestResult
from megasim.ingest.tiers import FULL, TierAsked
from megasim.ingest.unsaved import Unsaved
from megasim.interrupts import stoppable
from megasim.progress import NO_PROGRESS, Progress
from megasim.store.held import HeldModel, copy_of_file
from megasim.store.rows import Model, Store
from megasim.words import Tier

# Objects that are made before cycles among them are looked for.
_OBJECTS_AT_ONCE = 200_000


def ingest_paths(
    store: Store,
    paths: Sequence[Path],
    *,
    executor: Executor,
    names: Mapping[str, Path] | None = None,
    rules: Rules | None = None,
    sketch_size: int = 256,
    reread: bool = False,
    asked: TierAsked = FULL,
    progress: Progress = NO_PROGRESS,
) -> IngestResult:
    """Fingerprint what is new among `paths` (files or folders) and save it, some models at a time.

    A file whose size, time and header hash are known is not read again unless `reread`; one
    that moved gets its new path. An unreadable file is reported in the result, and the others
    are saved. When interrupted, what was read by then is saved.

    Args:
        executor: runs `fingerprint_refs` on pieces of a file; only this function writes.
        names: names to give, with the path of each, which is read like the others; the file name
            without ending otherwise. A file with several names is several models, and read once.
        rules: anatomy rules; the built-in ones when None.
        sketch_size: numbers a sketch; one size for a whole store.
        asked: how much of each file is read. A known file of which less was read is read again, and
            its model keeps its name and place; one of which as much was read stays as it is.

    Raises:
        UsageError: there is nothing at any path, a name is given to a folder of several
            checkpoints, or the store has sketches of another size.
    """
    with store.job(keep_open=True), stoppable(), _rare_collections():
        return _ingest_paths(
            store, paths, executor, names or {}, rules, sketch_size, reread, asked, progress
        )


def _ingest_paths(
    store: Store,
    paths: Sequence[Path],
    executor: Executor,
    names: Mapping[str, Path],
    rules: Rules | None,
    sketch_size: int,
    reread: bool,
    asked: TierAsked,
    progress: Progress,
) -> IngestResult:
    models = store.models()
    _check_sketch_size(models, sketch_size)
    names = {name: _one_in(located(path)) for name, path in names.items()}
    paths = list(dict.fromkeys([*map(located, paths), *names.values()]))
    require_some(paths)
    aliases = {name: path.resolve() for name, path in names.items()}
    # the first name of a path is its model's; the others are copies
    first = {path: name for name, path in reversed(aliases.items())}
    known, result = KnownModels(models), IngestResult()
    run = _Ingest(
        store=store,
        executor=executor,
        names=first,
        rules=rules,
        sketch_size=sketch_size,
        reread=reread,
        asked=asked,
        progress=progress,
        result=result,
        known=known,
        unsaved=Unsaved(store, known, result),
    )
    found = list(dict.fromkeys(p for path in paths for p in run.find(path)))
    for name, path in aliases.items():
        if path.is_dir() and path not in found:
            raise UsageError(
                f"{printable(path, 400)} holds several models, not one called {printable(name)!r}",
                "give the file or folder of one of them",
            )
    progress.start("Ingesting", sum(file_bytes(path) for path in found), "bytes")
    try:
        try:
            for reading in run.readings(found):
                run.finish(reading)
        finally:
            run.unsaved.save()
        run.save_aliases({name: path for name, path in aliases.items() if first[path] != name})
    finally:
        progress.finish()
    return result


@contextmanager
def _rare_collections() -> Iterator[None]:
    """Look for cycles of objects seldom: what is made of a large file stays, and has none.

    Looking took a fifth of the ingest of 100,000 small tensors.
    """
    before = gc.get_threshold()
    gc.set_threshold(max(before[0], _OBJECTS_AT_ONCE) if before[0] else 0, *before[1:])
    try:
        yield
    finally:
        gc.set_threshold(*before)


def _one_in(path: Path) -> Path:
    """Return the one checkpoint that a folder holds; the path itself for all else."""
    try:
        found = find_checkpoints(path)
    except MegasimError:  # reading it will say why
        return path
    return found[0] if len(found) == 1 else path


def require_some(paths: Sequence[Path]) -> None:
    """Raise UsageError where nothing is at any of some paths."""
    if not any(map(_may_be_there, paths)):
        where = ", ".join(printable(path, 400) for path in paths) or "no path"
        raise UsageError(f"nothing found at {where}", "give files or folders that hold checkpoints")


def _may_be_there(path: Path) -> bool:
    try:
        return located(path).exists()
    except OSError:  # opening it will say why
        return True


@dataclass(frozen=True)
class _Settled:
    """A file that need not be read, and the model of the store that has its identity."""

    model: Model
    twin: Model


@dataclass
class _Ingest:
    """What the steps of one ingest share."""

    store: Store
    executor: Executor
    names: Mapping[Path, str]
    rules: Rules | None
    sketch_size: int
    reread: bool
    asked: TierAsked
    progress: Progress
    result: IngestResult
    known: KnownModels
    unsaved: Unsaved
    defaults: dict[Path, str] = field(default_factory=dict)

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

    def readings(self, paths: Sequence[Path]) -> Iterator[FileReading]:
        """Yield the checkpoints to save; the next one is being read while one is saved."""
        ahead: FileReading | None = None
        opened = openings(paths)
        try:
            for path, opening in opened:
                reading: FileReading | None = None
                try:
                    begun = self.start(path, opening)
                    if isinstance(begun, _Settled):
                        # models are saved in the order of their files
                        if ahead is not None:
                            last, ahead = ahead, None
                            yield last
                        self.settle(begun)
                    else:
                        reading = begun
                except MegasimError as error:
                    self.result.failed.append(error)
                if reading is None:
                    self.progress.advance(file_bytes(path))
                    continue
                if ahead is not None:
                    yield ahead
                ahead = reading
            if ahead is not None:
                last, ahead = ahead, None
                yield last
        finally:
            opened.close()
            if ahead is not None:
                ahead.cancel()

    def start(self, path: Path, opening: Opening) -> FileReading | _Settled:
        """Begin to fingerprint a checkpoint, unless it is settled without reading."""
        checkpoint = opening()
        model = describe(checkpoint, self.names.get(path) or self.default(path), self.sketch_size)
        numels = [ref.numel for ref in checkpoint.tensors.values()]
        tier, level = self.asked.of_model(numels)
        model = replace(model, tier=tier, sample_level=level)
        here, twin = self.known_as(model)
        if any(known is not None and known.id < 0 for known in (here, twin)):
            self.save()  # to have an id to go by
            here, twin = self.known_as(model)
        if twin is not None and not self.reread:
            return _Settled(model, twin)
        asked = self.asked
        if here is not None:
            model = replace(model, id=here.id, name=self.names.get(path, here.name))
            if here.identity == model.identity:
                if not here.reads_as_much(tier, level):
                    self.unsaved.raises(here)
                elif not model.reads_as_much(here.tier, here.sample_level):
                    # what is read again is read as it was: a model never goes down
                    asked = TierAsked(Tier(here.tier), level=here.sample_level)
        return self.submit(self.named(model), checkpoint, asked)

    def known_as(self, model: Model) -> tuple[Model | None, Model | None]:
        """Return the model at the path of one, and the one that its file need not be read for."""
        here = next(iter(self.known.at(model.path)), None)
        twins = [
            m
            for m in self.known.twins(model.identity)
            if _is_current(m) and m.reads_as_much(model.tier, model.sample_level)
        ]
        if not twins or (here is not None and here not in twins):
            return here, None
        return here, here or twins[0]

    def submit(self, model: Model, checkpoint: Checkpoint, asked: TierAsked) -> FileReading:
        """Begin to read a checkpoint, all of its state dicts."""
        names = part_names(model.name, checkpoint.others)
        return begin_file(
            model,
            checkpoint,
            names,
            executor=self.executor,
            rules=self.rules,
            size=self.sketch_size,
            asked=asked,
        )

    def named(self, model: Model) -> Model:
        """Return a model under its name; under another where that is taken, and was not asked for.

        Raises CheckpointError where the name was asked for, or no other is free.
        """
        path = located(model.path or "")
        if path not in self.names and not model.id:
            model = replace(model, name=free_name(self.default(path), path, self.known))
        check_name(model, self.known)
        return model

    def default(self, path: Path) -> str:
        """Return what a checkpoint is called where no name is given, by where it was found."""
        return self.defaults.get(path) or default_name(path)

    def settle(self, settled: _Settled) -> None:
        """A file known by its identity: at the same place, moved, or a second copy."""
        model, twin = settled.model, settled.twin
        path = model.path
        assert path is not None
        if twin.path != path and twin.path is not None and located(twin.path).exists():
            self.unsaved.copy(self.named(model), twin)
        else:
            wanted = self.names.get(located(path), twin.name)
            if wanted != twin.name:
                check_name(replace(model, id=twin.id, name=wanted), self.known)
                self.store.rename_model(twin.id, wanted)
                twin = self.known.rename_file(twin.id, wanted)
            if twin.path == path:
                self.result.known.append(wanted)
            else:
                self.unsaved.move(replace(twin, path=path))
        self.save_in_time()

    def save_aliases(self, aliases: Mapping[str, Path]) -> None:
        """Save models under further names, too, in one transaction."""
        copies: list[list[HeldModel]] = []
        outdated: list[int] = []
        for name, path in aliases.items():
            at = self.known.at(str(path))
            twin = next((m for m in at if m.name != name), None)
            here = next((m for m in at if m.name == name), None)
            if twin is None or (here is not None and here.identity == twin.identity):
                continue
            model = replace(twin, name=name, id=0)
            try:
                check_name(replace(model, id=here.id if here else 0), self.known)
            except CheckpointError as error:
                self.result.failed.append(error)
                continue
            outdated += [here.id] if here is not None else []
            copies.append(copy_of_file([twin, *self.known.parts_of(twin.id)], model))
        if copies:
            with self.store.transaction():
                self.store.remove_models(outdated)
                self.store.save_files(copies)
            self.result.copied += [parts[0].model.name for parts in copies]

    def finish(self, reading: FileReading) -> None:
        """Gather the fingerprints of a checkpoint, and save it soon, with those beside it."""
        try:
            held = reading.gather(self.advance)
            # the model read just before this one may have taken its name
            name = self.named(reading.model).name
            held = [renamed(part, reading.model.name, name) for part in held]
            for part in held:
                check_name(part.model, self.known, file_id=reading.model.id)
        except LostWorkError as error:
            path = reading.model.path or ""
            self.result.failed.append(CheckpointError(path, error.message, error.remedy))
            return
        except CheckpointError as error:
            self.result.failed.append(error)
            return
        self.unsaved.read(reading.identity, held)
        self.save_in_time()

    def save_in_time(self) -> None:
        if self.unsaved.is_due:
            self.save()

    def save(self) -> None:
        """Save what has come together, and let others read."""
        self.unsaved.save()
        self.store.release()

    def advance(self, size: int) -> None:
        self.progress.advance(size)
        self.result.bytes_read += size


def file_bytes(path: Path) -> int:
    """Return the bytes of a file or folder; 0 where it has just gone, as opening it will say."""
    with suppress(OSError):
        if path.is_dir():
            return sum(p.stat().st_size for p in path.rglob("*") if p.is_file())
        return path.stat().st_size
    return 0


def _is_current(model: Model) -> bool:
    return model.source == "checkpoint" and model.fingerprint_version == FINGERPRINT_VERSION


def _check_sketch_size(models: Sequence[Model], sketch_size: int) -> None:
    sizes = {model.sketch_size for model in models if model.sketch_size is not None}
    if sizes and sizes != {sketch_size}:
        raise UsageError(
            f"the sketches in this store have {min(sizes)} numbers, not {sketch_size}",
            f"use --sketch {min(sizes)}, or another store: two sizes cannot be compared",
        )
