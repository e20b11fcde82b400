"""Models whose files are gone: removed, or on a disk that is not there."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path

from megasim.checkpoint.locations import is_address
from megasim.store.rows import Store
from megasim.words import ModelSource


@dataclass(frozen=True)
class MissingFiles:
    """Models of the store whose files are not where they were.

    Attributes:
        gone: names of those whose folder is there without them.
        unreachable: names of those whose folder is not there either, as of a disk that is
            unplugged.
    """

    gone: tuple[str, ...]
    unreachable: tuple[str, ...]

    def __contains__(self, model: str) -> bool:
        return model in self._names

    @cached_property
    def _names(self) -> frozenset[str]:
        return frozenset((*self.gone, *self.unreachable))


def missing_files(store: Store) -> MissingFiles:
    """Return the models whose files are gone; only whether they are there is looked at.

    Not at those under addresses: each would be a request.
    """
    gone: list[str] = []
    unreachable: list[str] = []
    is_there = cache(Path.is_dir)
    for model in store.models():
        if model.source != ModelSource.CHECKPOINT or not model.path or is_address(model.path):
            continue
        path = Path(model.path)
        if not path.exists():
            (gone if is_there(path.parent) else unreachable).append(model.name)
    return MissingFiles(tuple(gone), tuple(unreachable))
