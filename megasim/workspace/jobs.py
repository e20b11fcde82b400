"""The jobs on a store: ingest, compare, import, export, forget on an open one; and those that open
it themselves: migrate, compact, doctor.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Self

from megasim.checkpoint.locations import located
from megasim.progress import NO_PROGRESS, Progress
from megasim.store.connection import Mode, store_path
from megasim.store.lease import DEFAULT_WAIT
from megasim.store.rows import Pair, Store
from megasim.workspace.executors import work_executor

if TYPE_CHECKING:
    from megasim.compare.result import CompareResult
    from megasim.doctor.diagnosis import Diagnosis
    from megasim.exchange.fingerprint_file import ImportResult
    from megasim.exchange.mega_cmp_export import ExportResult
    from megasim.exchange.model_map import ModelMap
    from megasim.ingest.missing_files import MissingFiles
    from megasim.ingest.result import IngestResult
    from megasim.store.compaction import Compaction

DEFAULT_MEMORY = 1 << 30


def usable_cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class StoreJobs:
    """An open store and the jobs that write to it, or write it out. `Workspace` adds the answers.

    A model is given by its full name, or by any prefix that no other model shares.
    """

    def __init__(
        self, path: Path, mode: Mode, *, memory: int = DEFAULT_MEMORY, wait: float = DEFAULT_WAIT
    ) -> None:
        self.memory = memory
        # the database spills to disk beyond its share; below 1 GiB some joins cannot
        limit = None if mode == "read" else max(memory, 1 << 30)
        self.store = Store(path, mode, memory=limit, wait=wait)

    @classmethod
    def over(cls, store: Store, *, memory: int = DEFAULT_MEMORY) -> Self:
        """Return the jobs and answers of a store that is open already."""
        workspace = cls.__new__(cls)
        workspace.memory, workspace.store = memory, store
        return workspace

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the store."""
        self.store.close()

    def _names(self, typed: Sequence[str] | None) -> list[str] | None:
        return None if typed is None else self.store.model_names(typed)

    def _name(self, typed: str) -> str:
        return self.store.model_names([typed])[0]

    # The way of the data

    def ingest(
        self,
        *paths: Path | str,
        names: Mapping[str, Path] | None = None,
        anatomy: Path | None = None,
        sketch_size: int = 256,
        reread: bool = False,
        header: bool = False,
        sample: str | None = None,
        workers: int | None = None,
        executor: Executor | None = None,
        cluster: str | None = None,
        progress: Progress = NO_PROGRESS,
    ) -> IngestResult:
        """Fingerprint checkpoints: files, folders, or a mega_cmp model map. See `ingest_paths`.

        With `reread` and no path, the files of all models that an older version read.

        Args:
            anatomy: a CSV of rules for keys, instead of the built-in ones. See `load_rules`.
            header: read names, shapes, dtypes and metadata alone.
            sample: read no more than so much of each model, as "256M" or "5%".
            workers: threads; as many as there are cores when None.
            executor: runs the pieces of work instead of threads; it is not shut down.
            cluster: "local:N" or the address of a Dask scheduler, whose workers run the pieces.
        """
        from megasim.anatomy.classification import load_rules
        from megasim.estimate.folded import save_folded_sketches
        from megasim.exchange.model_map import is_model_map, read_model_map
        from megasim.ingest.paths import ingest_paths
        from megasim.ingest.result import IngestResult
        from megasim.ingest.tiers import tier_asked

        asked = tier_asked(header=header, sample=sample)
        given = [located(path) for path in paths]
        if reread and not (given or names):
            given = [located(path) for path in self.store.outdated_paths()]
            if not given:
                return IngestResult()
        maps = [read_model_map(path) for path in given if is_model_map(path)]
        places = [path for path in given if not is_model_map(path)]
        all_names = dict(names or {})
        for model_map in maps:
            all_names.update(model_map.models)
            places.extend(model_map.models.values())
        # one job, so that what is looked for last is asked of the connection that saved
        with (
            self.store.job(keep_open=True),
            work_executor(executor, workers or usable_cores(), cluster) as (running, _),
        ):
            result = ingest_paths(
                self.store,
                places,
                executor=running,
                names=all_names,
                rules=load_rules(anatomy) if anatomy else None,
                sketch_size=sketch_size,
                reread=reread,
                asked=asked,
                progress=progress,
            )
            save_folded_sketches(self.store, progress=progress)
        for model_map in maps:
            self._add_groups(model_map)
        return result

    def _add_groups(self, model_map: ModelMap) -> None:
        ids = self.store.model_ids()
        self.store.add_groups(
            {
                group: [(ids[a], ids[b]) for a, b in pairs if a in ids and b in ids]
                for group, pairs in model_map.groups.items()
            }
        )

    def pairs_of(
        self,
        *,
        models: Sequence[str] | None = None,
        groups: Iterable[str] | None = None,
        model_map: Path | None = None,
    ) -> list[Pair]:
        """Return the pairs of ids that are meant: all, those among `models`, or those of groups.

        Args:
            model_map: a model_map.json, whose groups are saved and meant.

        Raises:
            UsageError: an unknown model or group.
        """
        from megasim.compare.pairs import all_pairs
        from megasim.exchange.model_map import read_model_map

        if model_map is not None:
            wanted = read_model_map(model_map)
            self._add_groups(wanted)
            groups = list(wanted.groups)
        if groups is not None:
            return self.store.pairs_of_groups(groups)
        chosen = self._names(models)
        return all_pairs([m for m in self.store.models() if chosen is None or m.name in chosen])

    def compare(
        self,
        *,
        models: Sequence[str] | None = None,
        groups: Iterable[str] | None = None,
        model_map: Path | None = None,
        metrics: Sequence[str] = (),
        nearest: int | None = None,
        component: str = "all",
        estimate: bool = False,
        device: str | None = None,
        workers: int | None = None,
        executor: Executor | None = None,
        cluster: str | None = None,
        progress: Progress = NO_PROGRESS,
    ) -> CompareResult:
        """Compute the exact distances still missing. See `compare_models` and `pairs_of`.

        Args:
            nearest: only the pairs of each model with so many nearest ones, by estimate.
            component: what `nearest` goes by.
            estimate: read no file: estimate all distances that are not known from the sketches, and
                keep them until they are computed. Other answers use them, and mark them.
            workers: threads, or how many pieces `executor` runs at a time; the cores when None.
            executor: runs the pieces of work instead of threads; it is not shut down.
            cluster: "local:N" or the address of a Dask scheduler, whose workers run the pieces.
            device: a GPU where it pays when None; see `choose_devices`. With an executor or a
                cluster, whose machines are not known here, the CPU.
        """
        from megasim.compare.pairs import compare_models
        from megasim.compare.result import CompareResult
        from megasim.compare.tiered_pairs import compare_tiered, split_by_tier

        if estimate:
            from megasim.estimate.pairs import save_estimates
            from megasim.store.matrices import component_names

            names = component_names(self.store)
            return CompareResult(estimated=save_estimates(self.store, names, progress=progress))
        pairs = self.pairs_of(models=models, groups=groups, model_map=model_map)
        if nearest is not None:
            from megasim.estimate.nearest import nearest_pairs

            near = set(nearest_pairs(self.store, component, nearest, progress=progress))
            pairs = [pair for pair in pairs if pair in near]
        full, others = split_by_tier(self.store, pairs)
        with work_executor(executor, workers or usable_cores(), cluster) as (running, count):
            tiered = compare_tiered(
                self.store, others, executor=running, workers=count, progress=progress
            )
            return tiered + compare_models(
                self.store,
                full,
                executor=running,
                metrics=metrics,
                memory=self.memory // 4,
                workers=count,
                device=device or ("auto" if executor is None and cluster is None else "cpu"),
                progress=progress,
            )

    def import_path(self, *paths: Path | str, progress: Progress = NO_PROGRESS) -> ImportResult:
        """Import results of mega_cmp, or .parquet files: of fingerprints, or shards of shared jobs.

        See `mega_cmp_import.import_path` and `parquet_import.import_parquet`.
        """
        from megasim.exchange.fingerprint_file import joined
        from megasim.exchange.mega_cmp_import import import_path
        from megasim.exchange.parquet_import import import_parquet

        given = [located(path) for path in paths]
        parquet = [path for path in given if path.suffix.lower() == ".parquet"]
        with self.store.job():
            found = [
                import_path(self.store, path, progress=progress)
                for path in given
                if path not in parquet
            ]
            if parquet:
                found.append(import_parquet(self.store, parquet, progress=progress))
        return joined(found)

    def export_mega_cmp(
        self,
        folder: Path | str,
        *,
        models: Sequence[str] | None = None,
        groups: Iterable[str] | None = None,
        progress: Progress = NO_PROGRESS,
    ) -> ExportResult:
        """Write pairs as mega_cmp did: of groups, among models, or all. See `export_mega_cmp`."""
        from megasim.exchange.mega_cmp_export import export_mega_cmp

        pairs = None
        if groups is not None:
            pairs = self.store.pairs_of_groups(groups)
        elif models is not None:
            ids = self.store.model_ids(self._names(models)).values()
            known = self.store.rows("finding_pairs")
            pairs = [(a, b) for a, b in known if a in ids and b in ids]
        return export_mega_cmp(self.store, Path(folder), pairs, progress=progress)

    def export_fingerprints(
        self,
        path: Path | str,
        *,
        models: Sequence[str] | None = None,
        component: str = "all",
        names: Mapping[str, str] | None = None,
    ) -> int:
        """Write hashes, norms and sketches of models to a .parquet file; return how many.

        Args:
            component: only its keys.
            names: model to the name it gets in the file.
        """
        from megasim.exchange.fingerprint_file import export_fingerprints

        renamed = {self._name(typed): name for typed, name in (names or {}).items()}
        chosen = self._names(models)
        return export_fingerprints(
            self.store, Path(path), models=chosen, component=component, names=renamed
        )

    def missing_files(self) -> MissingFiles:
        """Return the models whose files are gone. See `ingest.missing_files`."""
        from megasim.ingest.missing_files import missing_files

        return missing_files(self.store)

    def forget(self, *models: str) -> int:
        """Forget models, their pairs, and what no other model holds; all of it, or nothing.

        Returns:
            About how many bytes `compact` can now give back.
        """
        names = self.store.model_names(models)
        held_alone = self.store.bytes_held_alone(names)
        self.store.forget_models(names)
        return held_alone

    def bytes_held_alone(self, *models: str) -> int:
        """Return about how many bytes of the store forgetting some models frees."""
        return self.store.bytes_held_alone(self.store.model_names(models))


def migrate(path: Path | str | None = None, *, wait: float = DEFAULT_WAIT) -> list[str]:
    """Bring a store up to the schema of this megasim. See `connection.migrate_store`."""
    from megasim.store.connection import migrate_store
    from megasim.store.writer_lock import when_free

    return when_free(lambda: migrate_store(store_path(path)), wait)


def compact(
    path: Path | str | None = None,
    *,
    memory: int = DEFAULT_MEMORY,
    wait: float = DEFAULT_WAIT,
    progress: Progress = NO_PROGRESS,
) -> Compaction:
    """Write a store anew at its true size. See `compaction.compact_store`."""
    from megasim.store.compaction import compact_store

    return compact_store(store_path(path), memory=memory, wait=wait, progress=progress)


def doctor(
    path: Path | str | None = None,
    *,
    files: bool = False,
    repair: bool = False,
    workers: int | None = None,
    memory: int = DEFAULT_MEMORY,
    wait: float = DEFAULT_WAIT,
    progress: Progress = NO_PROGRESS,
) -> Diagnosis:
    """Look for what is wrong in a store, and repair it where asked for. See `diagnosis.examine`."""
    from megasim.doctor.diagnosis import examine

    mode: Mode = "update" if repair else "read"
    with (
        Store(store_path(path), mode, memory=memory, wait=wait, all_rows=True) as store,
        ThreadPoolExecutor(workers or usable_cores()) as running,
    ):
        return examine(store, executor=running, files=files, mend=repair, progress=progress)
