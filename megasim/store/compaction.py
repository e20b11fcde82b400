"""A store written anew at its true size, which takes the place of the old one at once.

The database keeps the room of deleted rows for itself, and after many changes a file is larger than
what it holds. The new file stands beside the old one until it is whole and on the disk; then it
takes its name. Killed at any moment, one of the two is there, and both say the same.
"""

from __future__ import annotations

import os
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import duckdb

from megasim.errors import MegasimError, StoreLockedError, printable
from megasim.progress import NO_PROGRESS, Progress
from megasim.store.connection import connect
from megasim.store.statements import statement
from megasim.store.writer_lock import when_free, writer_lock

# Rows of a table that are copied by one statement.
_ROWS_AT_ONCE = 500_000

# Table → the statement of `sql/compaction.sql` that copies what is needed of it. The version of the
# schema and the texts of the views are those of the new store.
COPIED_BY = {
    "model": "copy_all",
    "model_tensor": "copy_all",
    "tensor": "copy_contents",
    "tensor_distance": "copy_pairs_of_contents",
    "tensor_linf": "copy_pairs_of_contents",
    "tensor_cossim": "copy_pairs_of_contents",
    "tensor_rounding": "copy_pairs_of_contents",
    "model_pair": "copy_pairs_of_models",
    "rename": "copy_pairs_of_models",
    "renamed_key": "copy_pairs_of_models",
    "component_distance": "copy_pairs_of_models",
    "imported_layer": "copy_pairs_of_models",
    "sampled_distance": "copy_pairs_of_models",
    "pair_group": "copy_pairs_of_models",
    "listed_key": "copy_rows_of_models",
    "unread_key": "copy_rows_of_models",
    "tied_key": "copy_rows_of_models",
    "beside": "copy_rows_of_models",
    "folded_sketch": "copy_rows_of_models",
    "known_component": "copy_all",
    "job": "copy_all",
    "profile": "copy_rows_of_contents",
    "imported_shard": "copy_all",
}


@dataclass(frozen=True)
class Compaction:
    """The bytes of a store before and after, and how many rows of no use were left behind."""

    bytes_before: int
    bytes_after: int
    rows_dropped: int

    def to_json(self) -> dict[str, int]:
        """Return plain numbers."""
        return asdict(self)


def compact_store(
    path: Path,
    *,
    memory: int | None = None,
    wait: float = 0.0,
    progress: Progress = NO_PROGRESS,
) -> Compaction:
    """Write the store at `path` anew, without what no model holds any more.

    Every other row comes over, in its order. Takes as much room on the disk as the new store has.

    Raises:
        NoAnswerError, NotAStoreError, StoreLockedError, StoreTooNewError: see `connect`.
        MegasimError: there are tables in it that megasim did not make.
        OSError: the folder takes no new file.
    """
    place = path.resolve()
    part = place.with_name(f"{place.name}.compacting")
    with writer_lock(place, wait):
        return when_free(lambda: _compact(place, part, path, memory, progress), wait)


def _compact(
    place: Path, part: Path, path: Path, memory: int | None, progress: Progress
) -> Compaction:
    connect(path, "update", memory=memory).close()  # up to date, and nothing left in its .wal
    before = place.stat().st_size
    _remove(part)
    try:
        connect(part, "write").close()
        # held until its name is taken, so that nobody writes to it
        with duckdb.connect(":memory:", config=_config(part, memory)) as con:
            _attach(con, place)
            if Path(f"{place}.wal").exists():
                raise MegasimError(
                    f"{printable(path)} was changed just now by a process that has ended",
                    "run `megasim compact` again",
                )
            con.execute(statement("attach_new"), {"path": str(part)})
            dropped = _copy(con, path, progress)
            con.execute(statement("detach_new"))
            shutil.copymode(place, part)
            _make_durable(part)
            part.replace(place)
        _make_durable(place.parent)
    except BaseException:
        _remove(part)
        raise
    return Compaction(before, place.stat().st_size, dropped)


def _attach(con: duckdb.DuckDBPyConnection, place: Path) -> None:
    """Attach the old store, to read."""
    try:
        con.execute(statement("attach_old"), {"path": str(place)})
    except duckdb.IOException as error:
        if "Could not set lock" not in str(error):
            raise
        raise StoreLockedError(
            f"{printable(place)} is in use by another process",
            "wait until it is done (see --wait), or stop it; what it has saved is kept",
        ) from None


def _copy(con: duckdb.DuckDBPyConnection, path: Path, progress: Progress) -> int:
    """Copy all rows of use, and return how many are left behind."""
    strange = [name for (name,) in con.execute(statement("strange_objects")).fetchall()]
    if strange:
        raise MegasimError(
            f"{printable(path)} contains more than megasim made: {printable(', '.join(strange))}",
            "copy it to another file and drop it here; otherwise it would be lost",
        )
    places, dropped = {}, 0
    for table in COPIED_BY:
        query = statement("rows_to_copy").format(table=table)
        ((rows, places[table]),) = con.execute(query).fetchall()
        dropped += int(rows)
    progress.start("Compacting", sum(places.values()), "rows")
    try:
        for table, copy in COPIED_BY.items():
            query = statement(copy).format(table=table)
            for first in range(0, places[table], _ROWS_AT_ONCE):
                last = min(first + _ROWS_AT_ONCE, places[table]) - 1
                copied = con.execute(query, {"first": first, "last": last})
                dropped -= int(copied.fetchall()[0][0])
                progress.advance(last + 1 - first)
    finally:
        progress.finish()
    return dropped


def _config(part: Path, memory: int | None) -> dict[str, Any]:
    config = {"temp_directory": f"{part}.tmp", "autoload_known_extensions": "false"}
    return config if memory is None else {**config, "memory_limit": f"{memory}B"}


def _make_durable(path: Path) -> None:
    """Wait until a file or folder is on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _remove(part: Path) -> None:
    """Remove what a compaction that was stopped left behind."""
    for ending in ("", ".wal"):
        Path(f"{part}{ending}").unlink(missing_ok=True)
    shutil.rmtree(f"{part}.tmp", ignore_errors=True)
