"""A comparison that several machines share: each writes distances by content, one takes all in."""

from __future__ import annotations

from concurrent.futures import Executor
from dataclasses import dataclass
from pathlib import Path

from megasim.compare.pairs import (
    ON_REQUEST,
    add_pairs,
    finished_pairs,
    missing_pairs,
    prove_copies,
    sum_up_pairs,
)
from megasim.compare.result import CompareResult
from megasim.compare.shards import ComparisonPart, compute_part
from megasim.errors import printable
from megasim.exchange.fingerprint_file import ImportResult
from megasim.exchange.shard_file import COMPARE, ShardFile, reading, shard_words
from megasim.output_files import parquet_file
from megasim.progress import NO_PROGRESS, Progress
from megasim.store.batches import pair_table
from megasim.store.rows import Pair, Store

_COLUMNS = {
    **dict.fromkeys(("record", "model_a", "model_b", "content_a", "content_b", "basis"), "VARCHAR"),
    **dict.fromkeys(("rows", "l0", "measured", "within", "proving"), "BIGINT"),
    **dict.fromkeys(("l1", "l2", "linf", "cossim", "excess"), "DOUBLE"),
}


@dataclass(frozen=True)
class SharedPairs:
    """The pairs of models that a shared comparison is for, and the metrics beside l0, l1 and l2."""

    pairs: tuple[Pair, ...]
    metrics: tuple[str, ...]


def write_compare_shard(
    output: Path,
    store: Store,
    part: ComparisonPart,
    *,
    executor: Executor,
    progress: Progress = NO_PROGRESS,
) -> CompareResult:
    """Compute one part of the distances that a store lacks, and write them to a file.

    The store is only read, so many machines can share one, or have a copy each. All of them must
    see the files of the models. See `compute_part`.

    Args:
        output: the .parquet file; whole, or not there.

    Raises:
        OSError: the file cannot be written.
    """
    job = part.job(store)
    result = compute_part(store, part, executor=executor, progress=progress)
    with parquet_file(output) as here:
        store.write(
            "write_compare_shard",
            tables={"batch": pair_table(part.pairs)},
            path=str(here),
            metrics=",".join(sorted(part.metrics)),
            **shard_words(COMPARE, job, part.shard),
        )
    return result


def import_compare_shard(store: Store, file: ShardFile) -> tuple[ImportResult, SharedPairs]:
    """Save the distances of a shard of a comparison that the store lacks, all of them or none.

    Returns:
        what came in, and the pairs that the comparison is for, which `finish_shared_pairs` takes
        once all its shards are in.

    Raises:
        CheckpointError: the shard is damaged, or contradicts the store; nothing of it is saved.
    """
    result, path = ImportResult(), str(file.path)
    with reading(file.path), store.transaction():
        if dict(store.rows("shard_columns", path=path)) != _COLUMNS:
            raise file.refused("its columns are not those of a shard of this version")
        store.write("shard_distances_told", path=path)
        ((told, unknown, fault),) = store.rows("shard_distance_faults")
        if fault is not None:
            raise file.refused(str(fault))
        ((apart,),) = store.rows("shard_contradictions")
        if apart:
            raise file.refused(
                f"{apart:,} of its distances differ from those of the store",
                "run `megasim doctor --files` on the store; it or the shard is wrong",
            )
        ((before,),) = store.rows("count_distances")
        store.write("add_told_distances")
        ((after,),) = store.rows("count_distances")
        ids = store.model_ids()
        named = store.rows("shard_pairs", path=path)
        pairs = {(ids[a], ids[b]) for a, b in named if a in ids and b in ids}
        shard = file.shard
        store.write(
            "add_shard_job",
            job=file.job,
            kind=file.kind,
            part=shard.part,
            parts=shard.parts,
            first_id=None,
            last_id=None,
        )
    result.imported.append(
        f"shard {shard} of a comparison: {after - before:,} distances, "
        f"{told - unknown - (after - before):,} known before."
    )
    if unknown:
        result.left_out.append(
            f"{unknown:,} distances of {printable(file.path)}: of contents that this store does "
            "not hold."
        )
    if len(pairs) < len(named):
        result.left_out.append(f"{len(named) - len(pairs):,} pairs of models that are not here.")
    metrics = tuple(m for m in file.said.get("metrics", "").split(",") if m in ON_REQUEST)
    shared = tuple(sorted((min(pair), max(pair)) for pair in pairs))
    return result, SharedPairs(shared, metrics)


def finish_shared_pairs(
    store: Store, shared: SharedPairs, *, progress: Progress = NO_PROGRESS
) -> tuple[int, int]:
    """Sum up those pairs of a shared comparison of which no distance is missing any more.

    Returns:
        how many pairs are now known, and how many are still open.
    """
    missing = missing_pairs(store, shared.pairs, shared.metrics)
    if missing:
        add_pairs(store, missing)
        done = finished_pairs(store, missing, shared.metrics)
        flags = {metric: metric in shared.metrics for metric in ON_REQUEST}
        prove_copies(store, done)  # a shard looks at one tensor at a time
        sum_up_pairs(store, done, **flags, progress=progress)
        missing = missing_pairs(store, shared.pairs, shared.metrics)
    return len(shared.pairs) - len(missing), len(missing)
