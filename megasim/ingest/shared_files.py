"""The files of an ingest that several machines share: which are whose, and what all are called."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from blake3 import blake3

from megasim.checkpoint.locations import located
from megasim.checkpoint.opening import default_name, find_checkpoints
from megasim.errors import CheckpointError, ForeignFileError, MegasimError, UsageError
from megasim.ingest.known_models import KnownModels
from megasim.ingest.names import free_name
from megasim.ingest.paths import file_bytes, require_some
from megasim.ingest.shares import Shard
from megasim.representation.opening import open_model
from megasim.store.rows import Model


@dataclass
class SharedFiles:
    """All files of a job, as every machine finds them, and the share of one.

    Attributes:
        job: 64 hex digits, equal on all machines that found the same files of the same sizes, cut
            into as many parts.
        order: path to its place among all files.
        mine: the paths of this share, each under the name of its model.
        failed: what is wrong with the paths that were given.
        passed_over: files of another kind beside the checkpoints.
    """

    job: str
    order: dict[Path, int]
    mine: dict[str, Path]
    failed: list[MegasimError] = field(default_factory=list)
    passed_over: list[ForeignFileError] = field(default_factory=list)


def share_files(
    paths: Sequence[Path], shard: Shard, names: Mapping[str, Path] | None = None
) -> SharedFiles:
    """Return the share of the files at some paths; only names and sizes of files are looked at.

    Names are those that one ingest of all the paths would give: where two files would have the
    same, both are opened, to see whether the first can be read and so takes it.

    Args:
        paths: files or folders, as for `ingest_paths`.
        names: names to give, with the path of each.

    Raises:
        UsageError: there is nothing at any path, or two names for one file.
    """
    paths = [located(path) for path in paths]
    given = {name: located(path).resolve() for name, path in (names or {}).items()}
    if len(set(given.values())) < len(given):
        raise UsageError("a file of a shard has one name", "give each --name another file")
    require_some([*paths, *given.values()])
    found = SharedFiles("", {}, {})
    defaults: dict[Path, str] = {}
    for path in dict.fromkeys([*paths, *given.values()]):
        for file in _find(path, found):
            defaults.setdefault(file.resolve(), default_name(file))
    found.order = {path: place for place, path in enumerate(defaults)}
    named = {path: name for name, path in given.items()}
    wanted = {path: named.get(path, default) for path, default in defaults.items()}
    titles = _titles(wanted, named)
    sizes = [file_bytes(path) for path in wanted]
    mine = shard.share_of(sizes)
    found.mine = {titles[path]: path for path, is_mine in zip(wanted, mine, strict=True) if is_mine}
    digest = blake3(f"{shard.parts}\n".encode())
    for path, size in zip(wanted, sizes, strict=True):
        digest.update(f"{size} {titles[path]!r} {path}\n".encode("utf-8", "surrogateescape"))
    found.job = digest.hexdigest()
    return found


def _find(path: Path, found: SharedFiles) -> list[Path]:
    def pass_over(error: CheckpointError) -> None:
        if isinstance(error, ForeignFileError):
            found.passed_over.append(error)
        else:
            found.failed.append(error)

    try:
        return find_checkpoints(path, pass_over)
    except CheckpointError as error:
        found.failed.append(error)
    except UsageError:
        found.failed.append(CheckpointError(path, "nothing found there", "check the path"))
    return []


def _titles(wanted: Mapping[Path, str], named: Mapping[Path, str]) -> dict[Path, str]:
    """Return what the model of each file is called, no two the same."""
    often = Counter(wanted.values())
    known = KnownModels([])
    titles: dict[Path, str] = {}
    # a name that was asked for goes to whom it was given
    for path in sorted(wanted, key=lambda path: path not in named):
        name = wanted[path]
        taken = known.named(name) is not None
        titles[path] = free_name(name, path, known) if taken else name
        if taken and titles[path] == name:
            titles[path] = str(path)
        if often[name] > 1 and not (path in named or _opens(path)):
            continue
        known.add(Model(titles[path], path=str(path), id=-len(titles)))
    return titles


def _opens(path: Path) -> bool:
    try:
        open_model(path)
    except MegasimError:
        return False
    return True
