"""The fingerprints in the store against the files that they were made of, read again."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Executor
from dataclasses import dataclass
from pathlib import Path

from megasim.checkpoint.locations import located
from megasim.errors import MegasimError, printable
from megasim.fingerprint.tensor import COMPARABLE_VERSIONS
from megasim.ingest.files import fingerprint_checkpoint
from megasim.ingest.tiers import TierAsked
from megasim.progress import NO_PROGRESS, Progress
from megasim.store.rows import HeldModel, Model, Store
from megasim.words import Tier

_HASHES = ("content_hash", "value_hash", "fp16_hash", "bf16_hash", "dtype", "numel")


_ALTERED = "its file changed since its sample was read: ingest it again with --reread"


@dataclass(frozen=True)
class FileFault:
    """A model whose file does not say what the store says of it.

    Attributes:
        model: its name. path: where its file was.
        problem: in words: gone, unreadable, changed since, or another content under some keys.
        contents: ids of contents whose fingerprint in the store is not that of the file, though
            the file is the one that was read: the store is wrong.
    """

    model: str
    path: str
    problem: str
    contents: tuple[int, ...] = ()

    @property
    def is_damage(self) -> bool:
        """Whether the store is wrong, and not only behind the file."""
        return bool(self.contents)

    def to_json(self) -> dict[str, object]:
        """Return what `megasim doctor --files --json` promises."""
        return {
            "model": self.model,
            "path": self.path,
            "problem": self.problem,
            "is_damage": self.is_damage,
        }


def check_files(
    store: Store, *, executor: Executor, progress: Progress = NO_PROGRESS
) -> Iterator[FileFault]:
    """Read every file again, and yield the models of which it says something else."""
    for model in store.models():
        if model.source != "checkpoint" or model.path is None:
            continue
        if model.fingerprint_version not in COMPARABLE_VERSIONS:
            continue  # to be read again anyway
        problem = _check(store, model, located(model.path), executor, progress)
        if problem is not None:
            yield problem


def _holds_as_listed(store: Store, model: Model, again: HeldModel) -> bool:
    """Whether a file holds the keys, and under them the samples, that the store has of it."""
    known = {
        tuple(sources): found for sources, _, found in store.rows("contents_of_keys", id=model.id)
    }
    return known == {key.tensor.sources: key.content_hash for key in again.listed}


def _check(
    store: Store, model: Model, path: Path, executor: Executor, progress: Progress
) -> FileFault | None:
    def fault(problem: str, contents: tuple[int, ...] = ()) -> FileFault:
        return FileFault(model.name, str(path), problem, contents)

    if not path.exists():
        return fault("its file is gone")
    asked = TierAsked(Tier(model.tier), level=model.sample_level)
    try:
        again = fingerprint_checkpoint(
            store, path, executor=executor, part=model.part, asked=asked, progress=progress
        )
    except MegasimError as error:
        return fault(f"its file cannot be read: {error.message}")
    if again.model.identity != model.identity:
        return fault("its file changed since it was fingerprinted: ingest it again")
    if not model.is_full:
        return None if _holds_as_listed(store, model, again) else fault(_ALTERED)
    stored = {row[0]: row[1:] for row in store.rows("contents_under_keys", id=model.id)}
    wrong: dict[str, int] = {}
    for tensor, found in zip(again.tensors, again.prints or (), strict=True):
        here = stored.pop(tensor.canonical_key, None)
        computed = tuple(getattr(found, name) for name in _HASHES)
        if here is not None and computed != here[1:]:
            wrong[tensor.canonical_key] = here[0]
    if wrong:
        some = ", ".join(printable(key, 80) for key in sorted(wrong)[:3])
        return fault(
            f"the store has other hashes of {len(wrong)} keys: {some}",
            tuple(sorted(set(wrong.values()))),
        )
    return None
