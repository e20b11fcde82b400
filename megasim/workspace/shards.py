"""Parts of jobs that several machines share: each is written to a file that `import` takes in.

No machine speaks to another, and none writes to the store: an array of batch jobs runs them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Executor
from pathlib import Path
from typing import TYPE_CHECKING

from megasim.checkpoint.locations import located
from megasim.errors import UsageError
from megasim.ingest.shares import Shard, parse_shard
from megasim.progress import NO_PROGRESS, Progress
from megasim.store.connection import store_path
from megasim.store.lease import DEFAULT_WAIT
from megasim.workspace.executors import work_executor
from megasim.workspace.jobs import DEFAULT_MEMORY, StoreJobs, usable_cores

if TYPE_CHECKING:
    from megasim.compare.result import CompareResult
    from megasim.ingest.result import IngestResult


def ingest_shard(
    output: Path | str,
    shard: Shard | str,
    *paths: Path | str,
    names: Mapping[str, Path] | None = None,
    anatomy: Path | None = None,
    sketch_size: int = 256,
    workers: int | None = None,
    executor: Executor | None = None,
    cluster: str | None = None,
    progress: Progress = NO_PROGRESS,
) -> IngestResult:
    """Fingerprint one part of some checkpoints, and write it to a .parquet file; needs no store.

    See `ingest_shards.write_ingest_shard`, and `StoreJobs.ingest` for the arguments.

    Args:
        output: the file, which `StoreJobs.import_path` takes in.
        shard: which part, as "3/16".
    """
    from megasim.anatomy.classification import load_rules
    from megasim.exchange.ingest_shards import write_ingest_shard
    from megasim.exchange.model_map import is_model_map, read_model_map

    given = [located(path) for path in paths]
    all_names = dict(names or {})
    for path in given:
        if is_model_map(path):
            all_names.update(read_model_map(path).models)
    with work_executor(executor, workers or usable_cores(), cluster) as (running, _):
        return write_ingest_shard(
            Path(output),
            [path for path in given if not is_model_map(path)],
            shard if isinstance(shard, Shard) else parse_shard(shard),
            executor=running,
            names=all_names,
            rules=load_rules(anatomy) if anatomy else None,
            sketch_size=sketch_size,
            progress=progress,
        )


def compare_shard(
    output: Path | str,
    shard: Shard | str,
    store: Path | str | None = None,
    *,
    models: Sequence[str] | None = None,
    groups: Iterable[str] | None = None,
    metrics: Sequence[str] = (),
    memory: int = DEFAULT_MEMORY,
    device: str | None = None,
    workers: int | None = None,
    executor: Executor | None = None,
    cluster: str | None = None,
    wait: float = DEFAULT_WAIT,
    progress: Progress = NO_PROGRESS,
) -> CompareResult:
    """Compute one part of the distances that a store lacks, and write it to a .parquet file.

    The store is only read. See `compare_shards.write_compare_shard`, and `StoreJobs.compare` for
    the arguments.

    Args:
        output: the file, which `StoreJobs.import_path` takes in.
        shard: which part, as "3/16".
    """
    from megasim.compare.shards import ComparisonPart
    from megasim.compare.tiered_pairs import split_by_tier
    from megasim.exchange.compare_shards import write_compare_shard

    with (
        StoreJobs(store_path(store), "read", memory=memory, wait=wait) as jobs,
        work_executor(executor, workers or usable_cores(), cluster) as (running, count),
    ):
        pairs = jobs.pairs_of(models=models, groups=groups)
        full, others = split_by_tier(jobs.store, pairs)
        if others and not full:
            raise UsageError(
                "no two of these models were read in full, and samples are not compared by shards",
                "run `megasim compare` without --shard",
            )
        part = ComparisonPart(
            pairs=full,
            shard=shard if isinstance(shard, Shard) else parse_shard(shard),
            metrics=metrics,
            memory=memory // 4,
            workers=count,
            device=device,
        )
        return write_compare_shard(
            Path(output), jobs.store, part, executor=running, progress=progress
        )
