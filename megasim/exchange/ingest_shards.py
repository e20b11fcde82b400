"""An ingest that several machines share: each reads its files into a shard, one place takes all in.

A shard holds the rows that a store of its own would hold, so that whatever an ingest notes travels
with it. Taken in, in whatever order and however often, shards give the store that one ingest of all
the files gives: models stand in the order of the files, and contents are known by their hashes.
"""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Mapping, Sequence
from concurrent.futures import Executor
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from megasim.anatomy.classification import Rules
from megasim.checkpoint.dtypes import STORAGE_DTYPES
from megasim.errors import printable
from megasim.exchange.fingerprint_file import LARGEST_SKETCH, ImportResult
from megasim.exchange.shard_file import INGEST, ShardFile, reading, shard_words
from megasim.fingerprint.sketch import LENGTH_FACTORS
from megasim.ingest.known_models import KnownModels
from megasim.ingest.names import free_name
from megasim.ingest.paths import ingest_paths
from megasim.ingest.result import IngestResult
from megasim.ingest.shared_files import share_files
from megasim.ingest.shares import Shard
from megasim.output_files import parquet_file
from megasim.progress import NO_PROGRESS, Progress
from megasim.store.batches import Table, table_of
from megasim.store.rows import Model, Store

# Ids that are kept for the state dicts of one file; those beyond get ids after all others.
_IDS_OF_A_FILE = 64
_LARGEST_ID = (1 << 31) - 1
# What is noted of a model of a shard, each by a statement of its own.
_HELD = ("model_tensors", "unread_keys", "tied_keys", "beside", "folded_sketches")
_RENAME = "rename the model of the store that has it, and import again"
# A model of a shard: its id there, and the id, the name and the main model that it gets here.
_Row = tuple[int, int, str, int | None]


class _Shared(NamedTuple):
    """A model of a shard, and the place of its file among all files of the job."""

    id: int
    name: str
    file_model_id: int | None
    path: str
    bytes: int
    mtime_ns: int
    header_hash: str
    fingerprint_version: int
    place: int


def write_ingest_shard(
    output: Path,
    paths: Sequence[Path],
    shard: Shard,
    *,
    executor: Executor,
    names: Mapping[str, Path] | None = None,
    rules: Rules | None = None,
    sketch_size: int = 256,
    progress: Progress = NO_PROGRESS,
) -> IngestResult:
    """Fingerprint one part of the files at some paths, and write what is known of them to a file.

    All machines must see the same files under the same paths, and cut them into as many parts. No
    store is needed. An unreadable file is reported in the result, and the rest is written.

    Args:
        output: the .parquet file; whole, or not there.

    Raises:
        UsageError: there is nothing at any path.
        OSError: the file cannot be written.
    """
    share = share_files(paths, shard, names)
    with (
        tempfile.TemporaryDirectory(prefix="megasim-shard-") as folder,
        Store(Path(folder) / "shard.duckdb", "write") as store,
    ):
        result = IngestResult()
        if share.mine:
            result = ingest_paths(
                store,
                [],
                executor=executor,
                names=share.mine,
                rules=rules,
                sketch_size=sketch_size,
                progress=progress,
            )
        result.failed = [*share.failed, *result.failed]
        result.passed_over += share.passed_over
        files = {"path": [str(p) for p in share.mine.values()]}
        place: Table = {
            **files,
            "place": np.array([share.order[p] for p in share.mine.values()], dtype=np.int64),
        }
        with parquet_file(output) as here:
            store.write(
                "write_ingest_shard",
                tables={"batch": place},
                path=str(here),
                sketch_size=str(sketch_size),
                files=str(len(share.order)),
                **shard_words(INGEST, share.job, shard),
            )
    return result


def import_ingest_shard(store: Store, file: ShardFile) -> ImportResult:
    """Save the models of a shard of an ingest, all of them or none.

    Files that the store knows as they are in the shard are left as they are; of a file that changed
    between two shards the newer state is kept.

    Raises:
        CheckpointError: the shard is damaged, or not of this store; nothing of it is saved.
    """
    result = ImportResult()
    with reading(file.path), store.transaction():
        _check(store, file)
        first, last = _ids_of_job(store, file)
        batch, replaced = _placed(store, file, first, last, result)
        store.remove_models(replaced)
        if batch:
            _save(store, file, batch)
        shard = file.shard
        store.write(
            "add_shard_job",
            job=file.job,
            kind=file.kind,
            part=shard.part,
            parts=shard.parts,
            first_id=first,
            last_id=last,
        )
    return result


def _check(store: Store, file: ShardFile) -> None:
    """Refuse a shard whose columns, sketches or rows are not what they should be."""
    ours = dict(store.rows("columns_of_ingest_shards"))
    if ours != dict(store.rows("shard_columns", path=str(file.path))):
        raise file.refused("its columns are not those of a shard of this version")
    size = file.number("sketch_size", LARGEST_SKETCH)
    sizes = {m.sketch_size for m in store.models() if m.sketch_size is not None}
    if sizes and sizes != {size}:
        raise file.refused(
            f"its sketches have {size} numbers; those of this store have {min(sizes)}",
            "use one --sketch on all machines",
        )
    faults = store.rows(
        "shard_faults",
        tables={"length_factors": table_of(["elements", "factor"], LENGTH_FACTORS)},
        path=str(file.path),
        dtypes=list(STORAGE_DTYPES),
        sketch_size=size,
    )
    for (fault,) in faults:
        raise file.refused(str(fault))


def _ids_of_job(store: Store, file: ShardFile) -> tuple[int, int]:
    """Return the first and the last id that are kept for the models of a job."""
    for _, _, first, last in store.rows("shard_job", job=file.job):
        return int(first), int(last)
    ((first,),) = store.rows("next_model_id")
    last = int(first) + file.number("files", _LARGEST_ID) * _IDS_OF_A_FILE - 1
    if last > _LARGEST_ID:
        raise file.refused("it says that its job has more files than a store has room for")
    return int(first), last


def _placed(
    store: Store, file: ShardFile, first: int, last: int, result: ImportResult
) -> tuple[list[_Row], list[int]]:
    """Return under which id and name each model of a shard is saved, and the models that go."""
    known = KnownModels(store.models())
    ids = {model.id for model in store.models()}
    further = itertools.count(max(last, max(ids, default=0)) + 1)
    models = [_Shared(*row) for row in store.rows("shard_models", path=str(file.path))]
    parts: dict[int, list[_Shared]] = {}
    for model in models:
        if model.file_model_id is not None:
            parts.setdefault(model.file_model_id, []).append(model)
    batch: list[_Row] = []
    replaced: list[int] = []
    for main in models:
        if main.file_model_id is not None:
            continue
        shown = printable(main.name, 80)
        here = next(iter(known.at(main.path)), None)
        if here is not None and not _is_newer(main, here):
            result.left_out.append(f"{shown}: is known.")
            continue
        if here is None:
            name = free_name(main.name, Path(main.path), known)
            if known.named(name) is not None:
                result.failed.append(file.refused(f"no name is free for {shown}", _RENAME))
                continue
            wish = first + main.place * _IDS_OF_A_FILE
            model_id = wish if wish <= last and wish not in ids else next(further)
        else:
            name, model_id = here.name, here.id
            replaced.append(here.id)
            known.remove_file(here.id)
        held = [main, *parts.get(main.id, [])]
        for i, part in enumerate(held):
            wish = model_id + i
            free = not i or (i < _IDS_OF_A_FILE and first < wish <= last and wish not in ids)
            new = wish if free else next(further)
            called = name + part.name.removeprefix(main.name)
            ids.add(new)
            batch.append((part.id, new, called, model_id if i else None))
            known.add(Model(called, path=part.path, id=new, file_model_id=model_id if i else None))
        result.models.append(name)
        result.imported.append(f"{printable(name, 80)}: from shard {file.shard}.")
    return batch, replaced


def _is_newer(shared: _Shared, here: Model) -> bool:
    """Whether a shard read a file in a later state than the store, or by newer fingerprints."""
    if (shared.bytes, shared.mtime_ns, shared.header_hash) == here.identity:
        return (here.fingerprint_version or 0) < shared.fingerprint_version
    return shared.mtime_ns > (here.mtime_ns or 0)


def _save(store: Store, file: ShardFile, batch: list[_Row]) -> None:
    path, ids = str(file.path), [row[1] for row in batch]
    tables: dict[str, Table] = {
        "batch": {
            **table_of(["old_id", "id", "name"], batch),
            "file_model_id": pd.array([row[3] for row in batch], dtype="Int32"),
        }
    }
    ((first,),) = store.rows("next_tensor_id")
    store.write("add_shard_models", tables=tables, path=path)
    store.write("place_shard_contents", tables=tables, path=path, first=int(first))
    renewed = store.frame("shard_renewals", path=path)
    if len(renewed):
        store.write("renew_tensors", tables={"batch": renewed})
    store.write("add_shard_contents", path=path)
    store.write("add_shard_profiles", path=path)
    for what in _HELD:
        store.write(f"add_shard_{what}", tables=tables, path=path)
    altered = store.rows("altered_shard_models", tables=tables, first=min(ids), last=max(ids))
    for (name,) in altered:
        raise file.refused(f"what it says of {printable(name, 80)} was altered, or is not whole")
