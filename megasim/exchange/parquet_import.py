"""Parquet files → store: fingerprints of named models, and the shards of shared jobs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from megasim.errors import MegasimError
from megasim.exchange.compare_shards import (
    SharedPairs,
    finish_shared_pairs,
    import_compare_shard,
)
from megasim.exchange.fingerprint_file import ImportResult, import_fingerprints, joined
from megasim.exchange.ingest_shards import import_ingest_shard
from megasim.exchange.shard_file import INGEST, ShardFile, open_shard, words_of
from megasim.progress import NO_PROGRESS, Progress
from megasim.store.rows import Store

_NAMED_PARTS = 20  # missing parts that are named one by one


def import_parquet(
    store: Store, paths: Sequence[Path], *, progress: Progress = NO_PROGRESS
) -> ImportResult:
    """Take in Parquet files that megasim wrote, in any order, each of them whole or not at all.

    What is in already changes nothing. Once all parts of a shared comparison are in, its pairs are
    summed up. A file that cannot be taken in is reported in the result, and the others are saved.
    """
    result = ImportResult()
    done = [result]
    jobs: dict[str, ShardFile] = {}
    shared: dict[str, SharedPairs] = {}
    # distances are known by the contents of models, which come first
    for path, words in sorted(_opened(store, paths, result), key=lambda p: _comes_late(p[1])):
        try:
            if "megasim_shard" not in words:
                done.append(import_fingerprints(store, path))
                continue
            file = open_shard(path, words)
            jobs[file.job] = file
            if file.kind == INGEST:
                done.append(import_ingest_shard(store, file))
            else:
                found, shared[file.job] = import_compare_shard(store, file)
                done.append(found)
        except MegasimError as error:
            result.failed.append(error)
    for job, file in jobs.items():
        missing = _missing_parts(store, file)
        if missing:
            result.notes.append(_still_to_come(file, missing))
        elif job in shared:
            known, still_open = finish_shared_pairs(store, shared[job], progress=progress)
            said = f"{known:,} pairs are compared"
            if still_open:
                said += (
                    f", {still_open:,} are open: their files could not be read, or were not the "
                    "same, where the shards were made; `megasim compare` computes them"
                )
            result.notes.append(f"{said}.")
    return joined(done)


def _opened(
    store: Store, paths: Sequence[Path], result: ImportResult
) -> list[tuple[Path, dict[str, str]]]:
    """Return the files that can be opened, each with the words beside it."""
    found = []
    for path in paths:
        try:
            found.append((path, words_of(store, path)))
        except MegasimError as error:
            result.failed.append(error)
    return found


def _comes_late(words: dict[str, str]) -> bool:
    return words.get("megasim_shard") not in (None, INGEST)


def _missing_parts(store: Store, file: ShardFile) -> list[int]:
    have = {part for part, *_ in store.rows("shard_job", job=file.job)}
    return [part for part in range(1, file.shard.parts + 1) if part not in have]


def _still_to_come(file: ShardFile, missing: Sequence[int]) -> str:
    named = ", ".join(map(str, missing[:_NAMED_PARTS]))
    named += ", …" if len(missing) > _NAMED_PARTS else ""
    parts = file.shard.parts
    what = "the ingest" if file.kind == INGEST else "the comparison"
    rest = "megasim ingest" if file.kind == INGEST else "megasim compare"
    return (
        f"{parts - len(missing)} of {parts} shards of {what} are in; still to come: {named}. "
        f"`{rest}` reads what is missing, too."
    )
