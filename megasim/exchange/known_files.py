"""Files that people know, in a Parquet file: found by hashes of the file, its data, its tensors.

Such a registry holds names and hashes, no weights, no paths and no metadata. It has a row for each
hash, sorted, so that few bytes of it answer a question. It is a claim of whoever wrote it, and
needs no store.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from tempfile import TemporaryDirectory

import duckdb
from blake3 import blake3

from megasim.checkpoint.locations import RemotePath
from megasim.checkpoint.opening import Checkpoint, default_name
from megasim.errors import CheckpointError, MegasimError, UsageError, printable
from megasim.exchange.remote_registry import fetch_known
from megasim.fingerprint.file_hashes import FileHashes, hash_file
from megasim.fingerprint.tensor import content_hashes
from megasim.ingest.reading import pieces_of
from megasim.output_files import parquet_file
from megasim.progress import NO_PROGRESS, Progress
from megasim.representation.opening import open_model
from megasim.store.batches import table_of
from megasim.store.connection import IN_MEMORY
from megasim.store.rows import Store

# 1 had one row for each file, so that only the hash of the file was in order; both are read.
FORMAT_VERSION = 2
_COLUMNS = {
    "name": "VARCHAR",
    "bytes": "BIGINT",
    **dict.fromkeys(("sha256", "autov2", "autov3", "data_sha256", "tensors_digest"), "VARCHAR"),
    "tensors": "BIGINT",
}
_COLUMNS_OF = {"1": _COLUMNS, "2": {"file": "BIGINT", **_COLUMNS}}
_OTHER_FILE = "ask for a file that `megasim identify -o` wrote"


class Match(StrEnum):
    """How a known file is the same, the strongest first."""

    FILE = "file"  # every byte
    TENSORS = "tensors"  # the same keys with the same dtypes, shapes and bytes, in any container
    DATA = "data"  # the bytes behind the header of a .safetensors file; it may name them otherwise


# The column in which each way to be the same is sought.
_COLUMN_OF = {
    Match.FILE: "sha256",
    Match.TENSORS: "tensors_digest",
    Match.DATA: "data_sha256",
}


@dataclass(frozen=True)
class KnownFile:
    """A file under its name, with what it can be known by.

    Attributes:
        hashes: None for a folder.
        tensors_digest: 64 hex digits, BLAKE3 over each key, dtype, shape and content; None where a
            tensor could not be read, so that nobody can say that all are the same.
        tensors: how many there are.
    """

    name: str
    path: Path
    hashes: FileHashes | None
    tensors_digest: str | None
    tensors: int


@dataclass(frozen=True)
class Identified:
    """A file, and the known files that are the same: (name, how) of each, the strongest first."""

    file: KnownFile
    matches: tuple[tuple[str, Match], ...]

    def to_json(self) -> dict[str, object]:
        """Return plain values."""
        hashes = self.file.hashes
        return {
            "path": str(self.file.path),
            "bytes": None if hashes is None else hashes.size,
            "sha256": None if hashes is None else hashes.sha256,
            "autov2": None if hashes is None else hashes.autov2,
            "autov3": None if hashes is None else hashes.autov3,
            "data_sha256": None if hashes is None else hashes.data_sha256,
            "tensors_digest": self.file.tensors_digest,
            "tensors": self.file.tensors,
            "matches": [{"name": name, "same": str(how)} for name, how in self.matches],
        }


@dataclass
class Identification:
    """What became of the files that were to be identified."""

    files: list[Identified] = field(default_factory=list)
    failed: list[MegasimError] = field(default_factory=list)

    def to_json(self) -> dict[str, object]:
        """Return plain values."""
        return {
            "files": [found.to_json() for found in self.files],
            "failed": [error.message for error in self.failed],
        }


def known_file(path: Path, executor: Executor) -> KnownFile:
    """Return what a file, or a folder that is one model, can be known by; it is read twice.

    Raises:
        UsageError: nothing is there. CheckpointError: it cannot be read as a checkpoint.
    """
    checkpoint = open_model(path)
    hashing = None if path.is_dir() else executor.submit(hash_file, _opened_path(checkpoint, path))
    digest = _tensors_digest(checkpoint, executor)
    hashes = None if hashing is None else hashing.result()
    checkpoint.identity.check_unchanged()
    count = len(checkpoint.tensors) + len(checkpoint.unread)
    return KnownFile(default_name(path), path, hashes, digest, count)


def _opened_path(checkpoint: Checkpoint, path: Path) -> str:
    """Return the path of a file; under an address, of the version that was opened."""
    opened = next((p for p in checkpoint.identity.stamps if p == path), path)
    return str(opened)


def _tensors_digest(checkpoint: Checkpoint, executor: Executor) -> str | None:
    """Return the digest of all tensors of a file, those of further state dicts too."""
    parts = list(checkpoint.parts)
    if any(part.unread for part in parts):
        return None
    digest = blake3()
    for part in parts:
        refs = [part.tensors[key] for key in sorted(part.tensors)]
        found = [executor.submit(content_hashes, piece) for piece in pieces_of(refs)]
        hashes = [content for future in found for content in future.result()]
        for ref, content in zip(refs, hashes, strict=True):
            line = f"{part.place!r} {ref.key!r} {ref.dtype} {ref.shape} {content}\n"
            digest.update(line.encode("utf-8", "surrogatepass"))
    return digest.hexdigest()


def write_known_files(path: Path, files: Iterable[KnownFile]) -> None:
    """Write a registry, a row for each hash of each file; the same files give the same bytes.

    Raises:
        OSError: it cannot be written.
    """
    rows = [
        (
            *(f.name, None if f.hashes is None else f.hashes.size),
            *((None,) * 4 if f.hashes is None else _names_of(f.hashes)),
            *(f.tensors_digest, f.tensors),
        )
        for f in files
    ]
    with Store(IN_MEMORY, "write") as store, parquet_file(path) as here:
        store.write(
            "write_known_files",
            tables={"batch": table_of(list(_COLUMNS), rows)},
            path=str(here),
            format_version=str(FORMAT_VERSION),
        )


def _names_of(hashes: FileHashes) -> tuple[str | None, ...]:
    return hashes.sha256, hashes.autov2, hashes.autov3, hashes.data_sha256


def look_up(registry: Path, files: Sequence[KnownFile]) -> list[Identified]:
    """Return which known files of a registry some files are the same as.

    Raises:
        UsageError: there is no registry.
        CheckpointError: it cannot be read, or is none.
    """
    _require_registry(registry)
    sought = _sought(files)
    if isinstance(registry, RemotePath):
        with TemporaryDirectory() as folder:
            here = Path(folder) / "known.parquet"
            columns = {column: [h for _, h in sought[how]] for how, column in _COLUMN_OF.items()}
            fetch_known(registry, columns, here)
            return _look_up(here, files, sought, registry)
    return _look_up(registry, files, sought, registry)


def _look_up(
    registry: Path,
    files: Sequence[KnownFile],
    sought: Mapping[Match, Sequence[tuple[int, str]]],
    origin: Path,
) -> list[Identified]:
    found: dict[int, dict[str, Match]] = {}
    with Store(IN_MEMORY, "write") as store:
        try:
            words = dict(store.rows("fingerprint_file_versions", path=str(registry)))
            expected = _COLUMNS_OF.get(words.get("megasim_known_files", ""))
            if expected is None:
                raise CheckpointError(origin, "not a registry of known files", _OTHER_FILE)
            columns = dict(store.rows("fingerprint_file_columns", path=str(registry)))
            if columns != expected:
                raise CheckpointError(origin, "its columns are not a registry's", _OTHER_FILE)
            for how, hashes in sought.items():
                batch = table_of(["place", "hash"], hashes)
                if hashes:
                    rows = store.rows(
                        f"known_by_{how}", tables={"batch": batch}, path=str(registry)
                    )
                    for place, name in rows:
                        found.setdefault(int(place), {}).setdefault(str(name), how)
        except duckdb.Error as error:
            problem = printable(str(error).splitlines()[0])
            raise CheckpointError(
                origin, f"cannot be read as Parquet: {problem}", _OTHER_FILE
            ) from None
    return [Identified(f, tuple(found.get(i, {}).items())) for i, f in enumerate(files)]


def _require_registry(registry: Path) -> None:
    try:
        is_there = registry.is_file()
    except OSError as error:
        raise CheckpointError(
            registry, f"cannot be read: {error.strerror}", "check the address"
        ) from None
    if not is_there:
        raise UsageError(
            f"there is no registry at {printable(registry, 400)}",
            "give a .parquet file that `megasim identify -o` wrote, or its address",
        )


def _sought(files: Sequence[KnownFile]) -> dict[Match, list[tuple[int, str]]]:
    """Return what to look for: for each way to be the same, places of files and hashes."""
    sought: dict[Match, list[tuple[int, str]]] = {how: [] for how in Match}
    for place, file in enumerate(files):
        if file.hashes is not None:
            sought[Match.FILE].append((place, file.hashes.sha256))
            if file.hashes.data_sha256 is not None:
                sought[Match.DATA].append((place, file.hashes.data_sha256))
        if file.tensors_digest is not None:
            sought[Match.TENSORS].append((place, file.tensors_digest))
    return sought


def identify_files(
    paths: Sequence[Path],
    *,
    executor: Executor,
    against: Path | None = None,
    output: Path | None = None,
    progress: Progress = NO_PROGRESS,
) -> Identification:
    """Return the hashes of some files, and which known files they are; see `KnownFile`.

    A file that cannot be read is reported in the result, and the others are done.

    Args:
        paths: files, or folders that are one model each.
        against: the registry that they are sought in.
        output: a registry of these files, to be written.
    """
    if against is not None:
        _require_registry(against)  # before hours of hashing
    result = Identification()
    files: list[KnownFile] = []
    progress.start("Hashing", len(paths), "files")
    try:
        for path in paths:
            try:
                files.append(known_file(path, executor))
            except MegasimError as error:
                result.failed.append(error)
            progress.advance(1)
    finally:
        progress.finish()
    result.files = (
        [Identified(f, ()) for f in files] if against is None else look_up(against, files)
    )
    if output is not None:
        write_known_files(output, files)
    return result
