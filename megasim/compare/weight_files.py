"""The files that a comparison reads, and the proof that they are still what was fingerprinted."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Executor, Future, wait
from contextlib import closing
from functools import cache
from pathlib import Path
from typing import Any

from megasim.checkpoint.locations import located
from megasim.checkpoint.opening import Checkpoint
from megasim.errors import CheckpointError, MegasimError, UsageError, printable
from megasim.fingerprint.sample import sample_refs
from megasim.fingerprint.tensor import COMPARABLE_VERSIONS, content_hashes
from megasim.ingest.openings import Opening, openings
from megasim.ingest.reading import assemble_ref, pieces_of
from megasim.representation.opening import open_model
from megasim.store.rows import Model, Pair, Store

_ENDED = 1.0  # seconds to wait for work that a signal ends


def open_weights(
    store: Store, pairs: Sequence[Pair], executor: Executor, failed: list[MegasimError]
) -> dict[int, Checkpoint]:
    """Return the checkpoints of some pairs that are still what was fingerprinted.

    Size, time and header of a file must be those that it had. The content is proved by the time of
    the last change of its state, which nobody can set back: if that is older than the fingerprint,
    the file was not touched since. Where it is newer, as after a copy, a move or new permissions,
    all that the model holds is hashed again, at a third of the cost of reading it for the first
    time.

    Args:
        failed: takes the error of each model that is not.
    """
    wanted = {model_id for pair in pairs for model_id in pair}
    times = dict(store.rows("ingest_times"))
    models: list[tuple[Model, Path]] = []
    for model in store.models(ids=wanted):
        try:
            models.append((model, _path_of(model)))
        except MegasimError as error:
            failed.append(error)
    found: dict[int, Checkpoint] = {}
    opened: dict[Path, Opening] = {}  # of each file one, for all state dicts in it
    with closing(openings(list(dict.fromkeys(path for _, path in models)), _open)) as coming:
        for model, path in models:
            if path not in opened:
                _, opening = next(coming)
                opened[path] = cache(opening)
            try:
                checkpoint = _reopened(model, opened[path])
                newest = max((s.ctime_ns for s in checkpoint.identity.stamps.values()), default=0)
                if newest >= times.get(model.id, 0) * 1e9:
                    _prove(store, model, checkpoint, executor)
                found[model.id] = checkpoint
            except MegasimError as error:
                failed.append(error)
    return found


def models_at(checkpoints: Mapping[int, Checkpoint], models: Iterable[int], path: Path) -> set[int]:
    """Return those of some models of which a file is part."""
    return {
        model
        for model in models
        if model in checkpoints and path in checkpoints[model].identity.stamps
    }


def _path_of(model: Model) -> Path:
    """Return where the weights of a model lie."""
    if model.path is None:
        raise UsageError(
            f"{printable(model.name)} has no weights here: only published results are known",
            "run `megasim ingest` on its file to compare it",
        )
    if model.fingerprint_version not in COMPARABLE_VERSIONS:
        raise CheckpointError(
            model.path,
            f"the fingerprints of model {printable(model.name)!r} are of another version",
            "ingest it again",
        )
    return located(model.path)


class _Gone(Exception):
    """There is no file."""


def _open(path: Path) -> Checkpoint:
    if not path.exists():
        raise _Gone
    return open_model(path)


def _reopened(model: Model, opening: Opening) -> Checkpoint:
    """Return the state dict of a file that is a model."""
    try:
        checkpoint = opening()
    except _Gone:
        raise CheckpointError(
            model.path or "",
            f"the file of model {printable(model.name)!r} is gone",
            "put it back, or run `megasim ingest` on its new path",
        ) from None
    identity = checkpoint.identity
    part = next((p for p in checkpoint.parts if p.place == model.part), None)
    if part is None or (identity.size, identity.mtime_ns, identity.header_hash) != model.identity:
        raise _changed(model)
    return part


def _prove(store: Store, model: Model, checkpoint: Checkpoint, executor: Executor) -> None:
    """Raise CheckpointError unless the file holds what the store says of it."""
    rows = store.rows("contents_of_keys", id=model.id)
    try:
        refs = [assemble_ref(checkpoint.tensors, tuple(s), flipped) for s, flipped, _ in rows]
    except KeyError:
        raise _changed(model) from None
    level = model.sample_level
    futures: list[Future[Any]] = [
        executor.submit(content_hashes, piece)
        if level is None
        else executor.submit(sample_refs, piece, level)
        for piece in pieces_of(refs, level)
    ]
    try:
        found = [content for future in futures for content in future.result()]
        found = found if level is None else [sample.content_hash for sample in found]
    finally:
        for future in futures:
            future.cancel()
        wait(futures, timeout=_ENDED)
    if found != [content for *_, content in rows]:
        raise _changed(model)


def _changed(model: Model) -> CheckpointError:
    return CheckpointError(
        model.path or "",
        f"the file of model {printable(model.name)!r} changed since it was fingerprinted",
        "run `megasim ingest --reread` on it",
    )
