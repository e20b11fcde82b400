"""A store with the jobs on it: everything the command line does, under the same names.

>>> import tempfile, megasim
>>> with tempfile.TemporaryDirectory() as d, megasim.open_store(f"{d}/s.duckdb") as store:
...     len(store.models())
0
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

import duckdb

from megasim.answers.questions import Answers, usable_cores
from megasim.errors import UsageError, printable
from megasim.interrupts import interrupting
from megasim.progress import NO_PROGRESS, Progress
from megasim.store.connection import Mode
from megasim.store.rows import Pair, Store
from megasim.store.statements import named_statements

if TYPE_CHECKING:
    import pandas as pd

    from megasim.compare.pairs import CompareResult
    from megasim.exchange.fingerprint_file import ImportResult
    from megasim.exchange.mega_cmp_export import ExportResult
    from megasim.exchange.model_map import ModelMap
    from megasim.ingest import IngestResult
    from megasim.store.compaction import Compaction

DEFAULT_STORE = "megasim.duckdb"
DEFAULT_MEMORY = 1 << 30


def open_store(
    path: Path | str | None = None, mode: Mode = "write", *, memory: int | None = None
) -> Workspace:
    """Open a store, made when it is not there and `mode` is "write".

    Args:
        path: the DuckDB file; `MEGASIM_DB`, or megasim.duckdb in the current folder when None.
        mode: "read" lets several processes in at once; "update" writes to a store that is there.
        memory: bytes for the work of ingest and compare together; 1 GiB when None.

    Raises:
        NoAnswerError, NotAStoreError, StoreLockedError, StoreTooNewError: see `connect`.
    """
    return Workspace(store_path(path), mode, memory=memory or DEFAULT_MEMORY)


def store_path(path: Path | str | None = None) -> Path:
    """Return where the store is: `path`, else as `MEGASIM_DB` says, else in this folder."""
    return Path(path or os.environ.get("MEGASIM_DB") or DEFAULT_STORE)


class Workspace(Answers):
    """An open store and the jobs on it. Use it as a context manager."""

    def __init__(self, path: Path, mode: Mode, *, memory: int = DEFAULT_MEMORY) -> None:
        # the database spills to disk beyond its share; below 1 GiB some joins cannot
        self.memory = memory
        self.store = Store(path, mode, memory=None if mode == "read" else max(memory, 1 << 30))

    def __enter__(self) -> Workspace:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the store."""
        self.store.close()

    # The store and its tables

    def models(self) -> pd.DataFrame:
        """Return the view `models`."""
        return self.store.frame("show_models")

    def forget(self, *models: str) -> int:
        """Forget models, their pairs, and what no other model holds; all of it, or nothing.

        Returns:
            About how many bytes `compact` can now give back.
        """
        ids = list(self.store.model_ids(models).values())
        held_alone = self._bytes_held_alone(ids)
        with self.store.transaction():
            for model_id in ids:
                self.store.remove_model(model_id)
                self.store.rows("remove_model_groups", id=model_id)
            self.store.rows("drop_unheld_tensors")
            self.store.rows("drop_unheld_distances")
        return held_alone

    def bytes_held_alone(self, *models: str) -> int:
        """Return about how many bytes of the store forgetting some models frees."""
        return self._bytes_held_alone(list(self.store.model_ids(models).values()))

    def _bytes_held_alone(self, ids: Sequence[int]) -> int:
        ((share,),) = self.store.rows("share_held_alone", tables={"batch": {"model_id": ids}})
        ((used, free),) = self.store.rows("store_bytes")
        return int(share * used) + int(free)

    def sql(self, query: str) -> pd.DataFrame:
        """Return the result of a query over the views.

        Raises:
            UsageError: DuckDB does not accept the query; its message says why.
        """
        try:
            with interrupting(self.store.connection.interrupt):
                result = self.store.connection.execute(query)
            if result is None:  # duckdb's stubs do not know of it
                raise UsageError("the query is empty", 'write "select …"')
            return result.df()
        except duckdb.Error as error:
            # what points at a column points at nothing once the lines are one
            lines = [line.strip() for line in str(error).splitlines()]
            told = " · ".join(line for line in lines if line.strip("^~ "))
            raise UsageError(printable(told, 600)) from None

    def sql_example(self, name: str) -> pd.DataFrame:
        """Return the result of a query of `sql/examples.sql`."""
        examples = sql_examples()
        if name not in examples:
            raise UsageError(
                f"no such example: {printable(name)!r}", "there are: " + ", ".join(examples)
            )
        return self.sql(examples[name])

    # The way of the data

    def ingest(
        self,
        *paths: Path | str,
        names: Mapping[str, Path] | None = None,
        anatomy: Path | None = None,
        sketch_size: int = 256,
        reread: bool = False,
        workers: int | None = None,
        executor: Executor | None = None,
        progress: Progress = NO_PROGRESS,
    ) -> IngestResult:
        """Fingerprint checkpoints: files, folders, or a mega_cmp model map. See `ingest_paths`.

        Args:
            workers: threads; as many as there are cores when None.
            executor: runs the pieces of work instead of threads; it is not shut down.
        """
        from megasim.anatomy.classification import load_rules
        from megasim.exchange.model_map import is_model_map
        from megasim.ingest import ingest_paths

        given = [Path(path) for path in paths]
        maps = [_read_map(path) for path in given if is_model_map(path)]
        places = [path for path in given if not is_model_map(path)]
        all_names = dict(names or {})
        for model_map in maps:
            all_names.update(model_map.models)
            places.extend(model_map.models.values())
        with _executor(executor, workers or usable_cores()) as running:
            result = ingest_paths(
                self.store,
                places,
                executor=running,
                names=all_names,
                rules=load_rules(anatomy) if anatomy else None,
                sketch_size=sketch_size,
                reread=reread,
                progress=progress,
            )
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

        Raises:
            UsageError: an unknown model or group.
        """
        from megasim.compare.pairs import all_pairs

        if model_map is not None:
            wanted_map = _read_map(model_map)
            self._add_groups(wanted_map)
            groups = list(wanted_map.groups)
        if groups is not None:
            known = self.store.groups()
            for name in groups:
                if name not in known:
                    raise UsageError(
                        f"no such group: {printable(name)!r}",
                        "there are: " + (", ".join(map(printable, known)) or "none"),
                    )
            return sorted({pair for name in groups for pair in known[name]})
        rows = self.store.models()
        if models is not None:
            wanted = self.store.model_ids(models)
            rows = [row for row in rows if row.name in wanted]
        return all_pairs(rows)

    def compare(
        self,
        *,
        models: Sequence[str] | None = None,
        groups: Iterable[str] | None = None,
        model_map: Path | None = None,
        metrics: Sequence[str] = (),
        nearest: int | None = None,
        component: str = "all",
        device: str | None = None,
        workers: int | None = None,
        executor: Executor | None = None,
        progress: Progress = NO_PROGRESS,
    ) -> CompareResult:
        """Compute the exact distances still missing. See `compare_models` and `pairs_of`.

        With `nearest`, only those of each model with its nearest by estimate of `component`.

        Args:
            workers: threads, or how many pieces `executor` runs at a time; the cores when None.
            executor: runs the pieces of work instead of threads; it is not shut down.
        """
        from megasim.compare.pairs import compare_models

        pairs = self.pairs_of(models=models, groups=groups, model_map=model_map)
        if nearest is not None:
            from megasim.estimate.nearest import nearest_pairs

            near = set(nearest_pairs(self.store, component, nearest, progress=progress))
            pairs = [pair for pair in pairs if pair in near]
        count = workers or usable_cores()
        with _executor(executor, count) as running:
            return compare_models(
                self.store,
                pairs,
                executor=running,
                metrics=metrics,
                memory=self.memory // 4,
                workers=count,
                device=device,
                progress=progress,
            )

    def import_path(self, path: Path | str, *, progress: Progress = NO_PROGRESS) -> ImportResult:
        """Import results of mega_cmp, or a file of fingerprints.

        See `importing.import_path` and `fingerprint_file.import_fingerprints`.
        """
        from megasim.exchange.fingerprint_file import import_fingerprints
        from megasim.exchange.mega_cmp_import import import_path

        if Path(path).suffix.lower() == ".parquet":
            return import_fingerprints(self.store, Path(path))
        return import_path(self.store, Path(path), progress=progress)

    def export_mega_cmp(
        self,
        folder: Path | str,
        *,
        models: Sequence[str] | None = None,
        groups: Iterable[str] | None = None,
        progress: Progress = NO_PROGRESS,
    ) -> ExportResult:
        """Write pairs as mega_cmp did. See `exporting.export_mega_cmp`."""
        from megasim.exchange.mega_cmp_export import export_mega_cmp

        pairs = None
        if groups is not None:
            pairs = self.pairs_of(groups=groups)
        elif models is not None:
            ids = self.store.model_ids(models).values()
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
        """Write hashes, norms and sketches of models to a Parquet file; return how many.

        Of one component only, and under other names, where those are given.
        """
        from megasim.exchange.fingerprint_file import export_fingerprints

        return export_fingerprints(
            self.store, Path(path), models=models, component=component, names=names
        )


def compact_store(
    path: Path | str | None = None,
    *,
    memory: int = DEFAULT_MEMORY,
    progress: Progress = NO_PROGRESS,
) -> Compaction:
    """Write a store anew at its true size. See `compaction.compact_store`."""
    from megasim.store.compaction import compact_store

    return compact_store(store_path(path), memory=memory, progress=progress)


def sql_examples() -> dict[str, str]:
    """Return the queries of `sql/examples.sql` by name."""
    return named_statements("examples.sql")


def _read_map(path: Path) -> ModelMap:
    from megasim.exchange.model_map import read_model_map

    return read_model_map(path)


def _executor(given: Executor | None, workers: int) -> AbstractContextManager[Executor]:
    """Return the executor to run pieces of work on, to be left as it is if it was given."""
    return nullcontext(given) if given is not None else ThreadPoolExecutor(workers)
