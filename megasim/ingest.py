"""Paths → fingerprints → store, skipping what is known."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Executor, Future, wait
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

from megasim.anatomy.classification import ModelAnatomy, Rules, canonical_shape, classify_keys
from megasim.anatomy.natures import key_natures
from megasim.checkpoint.opening import (
    Checkpoint,
    TensorRef,
    default_name,
    find_checkpoints,
    fuse_refs,
    open_checkpoint,
    transpose_ref,
)
from megasim.errors import CheckpointError, ForeignFileError, MegasimError, UsageError, printable
from megasim.fingerprint.tensor import (
    FINGERPRINT_VERSION,
    Fingerprint,
    fingerprint_refs,
)
from megasim.interrupts import held_interrupts, stoppable
from megasim.progress import NO_PROGRESS, Progress
from megasim.store.rows import Model, ModelTensor, Store

# Large enough that a piece is worth its overhead, small enough that two cores end together.
PIECE_BYTES = 64 << 20
# Pieces in other processes, which a signal may not have reached, are waited for so long.
_END_SECONDS = 1.0


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
    """A checkpoint on its way to the store: its pieces are being fingerprinted."""

    model: Model
    anatomy: ModelAnatomy
    natures: Mapping[str, str]
    refs: list[TensorRef]
    futures: list[Future[list[Fingerprint]]]
    sizes: list[int]

    def cancel(self) -> None:
        """Begin no more pieces, and wait for those that a signal ends, or that are short."""
        for future in self.futures:
            future.cancel()
        wait(self.futures, timeout=_END_SECONDS)


def assemble_ref(
    tensors: Mapping[str, TensorRef], sources: Sequence[str], transposed: bool
) -> TensorRef:
    """Return the tensor that some keys of a file make up: one, or several one after another."""
    ref = (
        tensors[sources[0]]
        if len(sources) == 1
        else fuse_refs(" + ".join(sources), [tensors[key] for key in sources])
    )
    return transpose_ref(ref) if transposed else ref


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
    )
    found = list(dict.fromkeys(p for path in paths for p in run.find(path)))
    for name, path in aliases.items():
        if path.is_dir() and path not in found:
            raise UsageError(
                f"{printable(path, 400)} is not one model to call {printable(name)!r}",
                "name the file or folder of one of them",
            )
    progress.start("Ingesting", sum(_size(path) for path in found), "bytes")
    try:
        for job in run.jobs(found):
            run.finish(job)
        for name, path in aliases.items():
            if first[path] != name:
                run.alias(name, path)
    finally:
        progress.finish()
    return run.result


def require_some(paths: Sequence[Path]) -> None:
    """Raise UsageError where nothing is at any of some paths."""
    if not any(path.exists() for path in paths):
        where = ", ".join(printable(path, 400) for path in paths) or "no path"
        raise UsageError(f"nothing at {where}", "name files or folders that hold checkpoints")


def fingerprint_checkpoint(
    store: Store,
    path: Path,
    *,
    executor: Executor,
    rules: Rules | None = None,
    progress: Progress = NO_PROGRESS,
) -> tuple[Model, list[ModelTensor]]:
    """Return a checkpoint and its fingerprints as the store would hold them, and save nothing.

    Raises:
        CheckpointError: it cannot be read.
    """
    sizes = {model.sketch_size for model in store.models() if model.sketch_size is not None}
    size = max(sizes, default=256)
    run = _Ingest(store, executor, {}, rules, size, False, progress, IngestResult())
    checkpoint = open_checkpoint(path.resolve())
    job = run.submit(run.describe(checkpoint), checkpoint)
    progress.start("Fingerprinting", sum(job.sizes), "bytes")
    try:
        with stoppable():
            return job.model, run.gather(job)
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

    def find(self, path: Path) -> list[Path]:
        try:
            return [p.resolve() for p in find_checkpoints(path, self.result.passed_over.append)]
        except CheckpointError as error:
            self.result.failed.append(error)
        except UsageError:
            self.result.failed.append(CheckpointError(path, "nothing is there", "check the path"))
        return []

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
            name=self.names.get(checkpoint.path) or default_name(checkpoint.path),
            path=str(checkpoint.path),
            format=checkpoint.format,
            bytes=identity.size,
            mtime_ns=identity.mtime_ns,
            header_hash=identity.header_hash,
            metadata=checkpoint.metadata,
            skipped={
                **checkpoint.skipped,
                **{key: tensor.note for key, tensor in checkpoint.unread.items()},
            },
            fingerprint_version=FINGERPRINT_VERSION,
            sketch_size=self.sketch_size,
        )

    def submit(self, model: Model, checkpoint: Checkpoint) -> _Job:
        """Hand the tensors of a checkpoint to the executor, piece by piece."""
        anatomy = classify_keys({k: r.shape for k, r in checkpoint.tensors.items()}, self.rules)
        refs = [assemble_ref(checkpoint.tensors, p.sources, p.transposed) for p in anatomy.parts]
        pieces = _pieces(refs)
        return _Job(
            model=replace(
                model, family=anatomy.family, variant=anatomy.variant, layout=anatomy.layout
            ),
            anatomy=anatomy,
            natures=key_natures({k: (r.shape, r.dtype) for k, r in checkpoint.tensors.items()}),
            refs=refs,
            futures=[
                self.executor.submit(fingerprint_refs, piece, self.sketch_size) for piece in pieces
            ],
            sizes=[sum(ref.nbytes for ref in piece) for piece in pieces],
        )

    def start(self, path: Path) -> _Job | None:
        """Begin to fingerprint a checkpoint; None where it is settled without reading."""
        checkpoint = open_checkpoint(path)
        model = self.describe(checkpoint)
        known = self.store.models()
        here = next((m for m in known if m.path == model.path), None)
        twins = [m for m in known if m.identity == model.identity and _is_current(m)]
        if not self.reread and twins and (here is None or here in twins):
            self.settle(model, here or twins[0], known)
            return None
        if here is not None:
            model = replace(model, id=here.id, name=self.names.get(path, here.name))
        _check_name(model, known)
        return self.submit(model, checkpoint)

    def settle(self, model: Model, twin: Model, known: Sequence[Model]) -> None:
        """A file known by its identity: at the same place, moved, or a second copy."""
        assert model.path is not None
        if twin.path != model.path and twin.path is not None and Path(twin.path).exists():
            _check_name(model, known)
            self.store.copy_model(model, twin)
            self.result.copied.append(model.name)
            return
        wanted = self.names.get(Path(model.path), twin.name)
        if wanted != twin.name:
            _check_name(replace(model, id=twin.id, name=wanted), known)
            self.store.rename_model(twin.id, wanted)
        if twin.path == model.path:
            self.result.known.append(wanted)
        else:
            self.store.move_model(twin.id, model.path)
            self.result.moved.append(wanted)

    def alias(self, name: str, path: Path) -> None:
        """Save the model at a path under another name, too."""
        known = self.store.models()
        twin = next((m for m in known if m.path == str(path) and m.name != name), None)
        here = next((m for m in known if m.name == name and m.path == str(path)), None)
        if twin is None or (here is not None and here.identity == twin.identity):
            return
        model = replace(twin, name=name, id=0)
        try:
            _check_name(replace(model, id=here.id if here else 0), known)
        except CheckpointError as error:
            self.result.failed.append(error)
            return
        with self.store.transaction():
            if here is not None:
                self.store.remove_model(here.id)
            self.store.copy_model(model, twin)
        self.result.copied.append(name)

    def finish(self, job: _Job) -> None:
        """Gather the fingerprints of a checkpoint and save it."""
        try:
            tensors = self.gather(job)
            # the model read just before this one may have taken its name
            _check_name(job.model, self.store.models())
        except CheckpointError as error:
            self.result.failed.append(error)
            return
        with held_interrupts():
            self.store.save_model(job.model, tensors)
            self.store.release()
        (self.result.replaced if job.model.id else self.result.added).append(job.model.name)

    def gather(self, job: _Job) -> list[ModelTensor]:
        """Wait for the fingerprints of a checkpoint; the rest is cancelled where one fails."""
        prints: list[Fingerprint] = []
        try:
            for future, size in zip(job.futures, job.sizes, strict=True):
                prints += future.result()
                self.progress.advance(size)
                self.result.bytes_read += size
        except BaseException:
            job.cancel()
            raise
        return [
            ModelTensor(
                sources=part.sources,
                transposed=part.transposed,
                canonical_key=part.canonical_key,
                canonical_shape=canonical_shape(ref.shape),
                shape=ref.shape,
                component=part.component,
                block=part.block,
                role=part.role,
                fingerprint=fingerprint,
                nature=job.natures[part.sources[0]],
            )
            for part, ref, fingerprint in zip(job.anatomy.parts, job.refs, prints, strict=True)
        ]


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
            f"the sketches of this store hold {min(sizes)} numbers, not {sketch_size}",
            f"use --sketch {min(sizes)}, or another store: two sizes cannot be compared",
        )


def _check_name(model: Model, known: Sequence[Model]) -> None:
    """Refuse a name that another model has."""
    holder = next((m for m in known if m.name == model.name and m.id != model.id), None)
    if holder is not None:
        where = f"the model of {printable(holder.path)}" if holder.path else "an imported model"
        path = Path(model.path or "")
        # from where it parts from the holder on, with its ending: no two such files get one name
        other = Path(holder.path).parent if holder.path else path.parent.parent
        apart = path.relative_to(os.path.commonpath([path.parent, other]))
        named = shlex.quote(printable(f"{'-'.join(apart.parts)}={path}", 4096))
        raise CheckpointError(
            path,
            f"the name {printable(model.name)!r} belongs to {where}",
            f"give this one a name of its own, as with --name {named}",
        )


def _pieces(refs: Sequence[TensorRef]) -> list[list[TensorRef]]:
    """Cut a file into pieces of about `PIECE_BYTES`; a larger tensor is a piece of its own."""
    pieces: list[list[TensorRef]] = []
    room = 0
    for ref in refs:
        if not pieces or room < ref.nbytes:
            pieces.append([])
            room = PIECE_BYTES
        pieces[-1].append(ref)
        room -= ref.nbytes
    return pieces
