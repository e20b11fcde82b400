"""The store: rows ↔ dataclasses, and the statements of `sql/` by name."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import duckdb
import numpy as np
import numpy.typing as npt

from megasim.errors import UsageError, printable
from megasim.matrix.model_names import full_name, no_such_model
from megasim.store.batches import (
    Table,
    duckdb_columns,
    fold_table,
    profile_table,
    table_of,
    tensor_table,
)
from megasim.store.connection import Mode
from megasim.store.held import BesideRow, HeldModel, Model, ModelTensor, UnreadKey
from megasim.store.lease import DEFAULT_WAIT, Lease
from megasim.store.statements import statement

if TYPE_CHECKING:
    import pandas as pd


__all__ = ["BesideRow", "HeldModel", "Model", "ModelTensor", "Store", "UnreadKey"]

Pair = tuple[int, int]  # ids of two models, the smaller first
# What is noted of a model beside its tensors: each a table of its own.
_NOTES = ("unread", "tied", "beside")


def shape_text(shape: Sequence[int]) -> str:
    """Return a shape as the store writes it; a scalar is the empty string.

    >>> shape_text((320, 4, 3, 3))
    '320x4x3x3'
    """
    return "x".join(map(str, shape))


def now() -> datetime:
    """Return the time, in UTC and without a zone, as DuckDB keeps it."""
    return datetime.now(UTC).replace(tzinfo=None, microsecond=0)


class Store:
    """An open store. Use it as a context manager; one thread at a time.

    `rows`, `arrays` and `frame` read; whatever changes the store goes through `write`.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as d, Store(Path(d) / "s.duckdb", "write") as store:
    ...     store.models()
    []
    """

    def __init__(
        self,
        path: Path | str,
        mode: Mode = "read",
        *,
        memory: int | None = None,
        threads: int | None = None,
        wait: float = DEFAULT_WAIT,
        all_rows: bool = False,
    ) -> None:
        """Open a store; see `Lease`.

        Args:
            all_rows: take rows of older versions, and those that were marked as wrong, as they are.
        """
        self.path = Path(path)
        self.mode = mode
        self._lease = Lease(
            self.path, mode, memory=memory, threads=threads, wait=wait, all_rows=all_rows
        )

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file. The store is not usable afterwards."""
        self._lease.close()

    # When other processes get their turn

    @property
    def connection(self) -> duckdb.DuckDBPyConnection:
        """The connection itself; once asked for, it is kept open, and others wait."""
        return self._lease.keep()

    @property
    def left_out(self) -> tuple[str, ...]:
        """Notes of the rows of older versions that are left out, as they were at the opening."""
        return self._lease.left_out

    @contextmanager
    def opened(self) -> Iterator[int]:
        """Keep the store open for a block; temporary tables of another number are gone."""
        with self._lease.use():
            yield self._lease.openings

    def keep(self) -> None:
        """Keep the store open until the end, so that all that is read is of one moment."""
        self._lease.keep()

    def release(self) -> None:
        """Let others have the store until the next statement. See `Lease`."""
        self._lease.release()

    def job(self) -> AbstractContextManager[None]:
        """Write in turns with the readers for the length of a block. See `Lease.job`."""
        return self._lease.job()

    def transaction(self, *, wait: float | None = None) -> AbstractContextManager[None]:
        """All of the block is saved, or nothing of it. See `Lease.transaction`."""
        return self._lease.transaction(wait=wait)

    # How every statement runs: by its name, with tables registered for the one call.

    def frame(
        self, name: str, /, *, tables: Mapping[str, Table] | None = None, **values: Any
    ) -> pd.DataFrame:
        """Return the result of a statement of `sql/` as a frame."""
        with self._running(name, tables or {}, values) as result:
            return result.df()

    def arrays(
        self, name: str, /, *, tables: Mapping[str, Table] | None = None, **values: Any
    ) -> dict[str, npt.NDArray[Any]]:
        """Return the result of a statement of `sql/` as one array a column.

        NULL is NaN among floats, and None among anything else, which makes that column objects.
        """
        with self._running(name, tables or {}, values) as result:
            return {name: _without_mask(column) for name, column in result.fetchnumpy().items()}

    def rows(
        self, name: str, /, *, tables: Mapping[str, Table] | None = None, **values: Any
    ) -> list[tuple[Any, ...]]:
        """Return the result of a statement of `sql/` as tuples."""
        with self._running(name, tables or {}, values) as result:
            return result.fetchall()

    def write(
        self, name: str, /, *, tables: Mapping[str, Table] | None = None, **values: Any
    ) -> None:
        """Run a statement of `sql/` that changes the store, or the tables of a piece of work."""
        with self._running(name, tables or {}, values):
            pass

    def query(self, sql: str, values: object = None) -> pd.DataFrame | None:
        """Return the result of SQL as a frame; None where there is no statement in it."""
        with self._lease.use() as connection:
            result = connection.execute(sql, values)
            return None if result is None else result.df()

    @contextmanager
    def _running(
        self, name: str, tables: Mapping[str, Table], values: Mapping[str, Any]
    ) -> Iterator[duckdb.DuckDBPyConnection]:
        """Run a statement; its result is fetched within the block."""
        with self._lease.use() as connection:
            for table, columns in tables.items():
                connection.register(table, duckdb_columns(columns))
            try:
                sql = statement(name)
                yield connection.execute(sql, values) if values else connection.execute(sql)
            finally:
                # in a transaction that failed nothing can be unregistered, and need not be
                with suppress(duckdb.TransactionException):
                    for table in tables:
                        connection.unregister(table)

    def content_digest(self) -> str:
        """Return a text that changes with the models, what they hold and what is known of pairs.

        Not guaranteed: the same text from another version of DuckDB.
        """
        ((digest,),) = self.rows("content_digest")
        return str(digest)

    # Models

    def models(self) -> list[Model]:
        """Return all models, in the order they came."""
        with self._running("models", {}, {}) as found:
            columns = [column[0] for column in found.description]
            rows = found.fetchall()
        models = []
        for row in rows:
            values = dict(zip(columns, row, strict=True))
            values["metadata"] = json.loads(values["metadata"] or "{}")
            values["skipped"] = json.loads(values["skipped"] or "{}")
            models.append(Model(**values))
        return models

    def model_names(self, typed: Iterable[str]) -> list[str]:
        """Return the names that are meant: whole, or the only ones that begin so.

        Raises:
            UsageError: no model is called so, or several are. See `full_name`.
        """
        known = self.model_ids()
        return [full_name(name, known) for name in typed]

    def outdated_paths(self) -> list[str]:
        """Return the paths of checkpoints that were read with fingerprints of an older version."""
        from megasim.fingerprint.tensor import FINGERPRINT_VERSION

        return [path for (path,) in self.rows("outdated_paths", version=FINGERPRINT_VERSION)]

    def model_ids(self, names: Iterable[str] | None = None) -> dict[str, int]:
        """Return name → id, of all models or of `names` in their order.

        Raises:
            UsageError: a name the store does not know.
        """
        known = {str(name): int(i) for name, i in self.rows("model_names")}
        if names is None:
            return known
        found = {}
        for name in names:
            if name not in known:
                raise no_such_model(name, known)
            found[name] = known[name]
        return found

    def require_model(self, name: str) -> int:
        """Return the id of a model.

        Raises:
            UsageError: a name the store does not know.
        """
        return self.model_ids([name])[name]

    def save_model(self, model: Model, tensors: Sequence[ModelTensor]) -> int:
        """Save a model and what it holds in one transaction, and return its id.

        A model with an id of its own replaces the one with that id; its pairs are forgotten,
        the distances of the contents stay.
        """
        return self.save_file([HeldModel(model, tensors)])[0]

    def save_file(self, parts: Sequence[HeldModel]) -> list[int]:
        """Save the state dicts of a file in one transaction, the main one first; return their ids.

        Where the main one has an id of its own, the file replaces that model and its parts; a part
        of the same place keeps its id.
        """
        main_id = parts[0].model.id
        with self.transaction():
            known = {model.part: model.id for model in self.parts_of(main_id)} if main_id else {}
            if main_id:
                self.remove_model(main_id)
            ids: list[int] = []
            for held in parts:
                model_id = held.model.id or known.get(held.model.part, 0)
                model_id = model_id or int(self.rows("next_model_id")[0][0])
                file_model_id = ids[0] if ids else None
                self._add_model(replace(held.model, file_model_id=file_model_id), model_id)
                if held.tensors:
                    self._add_tensors(model_id, held.tensors, held.model.fingerprint_version)
                self._add_notes(model_id, held)
                self.write("seal_model", id=model_id)
                ids.append(model_id)
        return ids

    def parts_of(self, model_id: int) -> list[Model]:
        """Return the further parts of the file whose main part is a model."""
        return [model for model in self.models() if model.file_model_id == model_id]

    @contextmanager
    def looking_at(self, model: Model, tensors: Sequence[ModelTensor]) -> Iterator[int]:
        """Hold a model in the store for the length of a block, under an id of its own."""
        with self._lease.rolled_back():
            model_id = int(self.rows("next_model_id")[0][0])
            self._add_model(model, model_id)
            self._add_tensors(model_id, tensors, model.fingerprint_version)
            yield model_id

    def copy_model(self, model: Model, twin: Model) -> int:
        """Save a model whose file is that of `twin` over again, and return its id.

        The further parts of the file are copied, too, and called after it.
        """
        copied: list[int] = []
        with self.transaction():
            for of in (twin, *self.parts_of(twin.id)):
                copy = replace(
                    of,
                    name=model.name + of.name.removeprefix(twin.name),
                    path=model.path,
                    bytes=model.bytes,
                    mtime_ns=model.mtime_ns,
                    header_hash=model.header_hash,
                    file_model_id=copied[0] if copied else None,
                )
                model_id = int(self.rows("next_model_id")[0][0])
                self._add_model(copy, model_id)
                for what in ("tensors", *_NOTES):
                    self.write(f"copy_model_{what}", copy=model_id, twin=of.id)
                self.write("seal_model", id=model_id)
                copied.append(model_id)
        return copied[0]

    def move_model(self, model_id: int, path: str) -> None:
        """Note where the file of a model, and of its further parts, lies now."""
        with self.transaction():
            self.write("move_model", id=model_id, path=path)

    def rename_model(self, model_id: int, name: str) -> None:
        """Give a model another name, and its parts after it; everything known of it stays."""
        with self.transaction():
            self.write("rename_parts", id=model_id, name=name)
            self.write("rename_model", id=model_id, name=name)

    def forget_models(self, names: Iterable[str]) -> None:
        """Forget models, their pairs, and what no other model holds; all of it, or nothing.

        Raises:
            UsageError: a name the store does not know.
        """
        ids = self._with_parts(names)
        with self.transaction():
            for model_id in ids:
                self.remove_model(model_id)
                self.write("remove_model_groups", id=model_id)
            self.write("drop_unheld_tensors")
            self.write("drop_unheld_profiles")
            self.write("drop_unheld_distances")

    def bytes_held_alone(self, names: Iterable[str]) -> int:
        """Return about how many bytes of the file forgetting some models frees.

        Raises:
            UsageError: a name the store does not know.
        """
        ids = self._with_parts(names)
        ((share,),) = self.rows("share_held_alone", tables={"batch": {"model_id": ids}})
        ((used, free),) = self.rows("store_bytes")
        return int(share * used) + int(free)

    def _with_parts(self, names: Iterable[str]) -> list[int]:
        ids = list(self.model_ids(names).values())
        held = [[model_id, *(part.id for part in self.parts_of(model_id))] for model_id in ids]
        return list(dict.fromkeys(itertools.chain.from_iterable(held)))

    def remove_model(self, model_id: int) -> None:
        """Forget a model, the further parts of its file, and its pairs.

        Contents and their distances stay.
        """
        for part in self.parts_of(model_id):
            self.remove_model(part.id)
        of_model = ("tensors", *_NOTES, "folded")
        of_pairs = ("pairs", "renames", "renamed_keys", "components", "layers")
        for what in (*of_model, *of_pairs):
            self.write(f"remove_model_{what}", id=model_id)
        self.write("remove_model", id=model_id)

    def _add_notes(self, model_id: int, held: HeldModel) -> None:
        """Save what was not read, which keys are tied, and what stands beside the weights."""
        columns = ["key", "canonical_key", "component", "reason", "dtype", "shape", "numel"]
        columns += ["digest", "note"]
        unread = [
            (
                *(k.key, k.canonical_key, k.component, str(k.reason), k.dtype),
                *(None if k.shape is None else shape_text(k.shape), k.numel, k.digest, k.note),
            )
            for k in held.unread
        ]
        tied = list(held.tied.items())
        places = ["place", "role", "tensors", "numel", "bytes", "digest"]
        beside = [
            (b.place, str(b.role), b.tensors, b.numel, b.bytes, b.digest) for b in held.beside
        ]
        for name, names, rows in (
            ("add_model_unread", columns, unread),
            ("add_model_tied", ["key", "tied_to"], tied),
            ("add_model_beside", places, beside),
        ):
            if rows:
                self.write(name, tables={"batch": table_of(names, rows)}, model=model_id)

    def _add_model(self, model: Model, model_id: int) -> None:
        self.write(
            "add_model",
            id=model_id,
            name=model.name,
            source=model.source,
            path=model.path,
            format=model.format,
            bytes=model.bytes,
            mtime_ns=model.mtime_ns,
            header_hash=model.header_hash,
            family=model.family,
            variant=model.variant,
            layout=model.layout,
            metadata=json.dumps(model.metadata, sort_keys=True),
            skipped=json.dumps(model.skipped, sort_keys=True),
            ingested_at=now(),
            fingerprint_version=model.fingerprint_version,
            sketch_size=model.sketch_size,
            part=model.part,
            part_role=model.part_role,
            file_model_id=model.file_model_id,
        )

    def _add_tensors(
        self, model_id: int, tensors: Sequence[ModelTensor], version: int | None
    ) -> None:
        prints = {t.fingerprint.content_hash: t.fingerprint for t in tensors}
        hashes = sorted(prints)
        known = self.rows(
            "known_tensors", tables={"batch": {"content_hash": hashes}}, version=version
        )
        ids = {h: int(i) for h, i, _ in known}
        new = [h for h in hashes if h not in ids]
        first = int(self.rows("next_tensor_id")[0][0])
        ids.update({h: first + i for i, h in enumerate(new)})
        old = [h for h, _, is_current in known if not is_current]
        for name, which in (("add_tensors", new), ("renew_tensors", old)):
            if which:
                table = tensor_table([prints[h] for h in which], ids)
                self.write(name, tables={"batch": table}, version=version)
        held = {"tensor_id": sorted(ids[h] for h in hashes if ids[h] < first)}
        known_profiles = self.rows("known_profiles", tables={"batch": held}) if known else []
        profiles = profile_table((t.fingerprint for t in tensors), ids, known_profiles)
        if len(profiles["tensor_id"]):
            self.write("add_profiles", tables={"batch": profiles})
        batch = {
            "model_id": [model_id] * len(tensors),
            "tensor_id": [ids[t.fingerprint.content_hash] for t in tensors],
            "key": [" + ".join(t.sources) for t in tensors],
            "sources": [list(t.sources) for t in tensors],
            "transposed": [t.transposed for t in tensors],
            "canonical_key": [t.canonical_key for t in tensors],
            "canonical_shape": [shape_text(t.canonical_shape) for t in tensors],
            "shape": [shape_text(t.shape) for t in tensors],
            "component": [t.component for t in tensors],
            "block": [t.block for t in tensors],
            "role": [t.role for t in tensors],
            "nature": [t.nature for t in tensors],
        }
        self.write("add_model_tensors", tables={"batch": batch})
        folds = fold_table(model_id, tensors)
        if len(folds["model_id"]):
            self.write("add_folded_sketches", tables={"batch": folds})

    # Pairs

    def pairs(self) -> dict[str, npt.NDArray[Any]]:
        """Return the pairs asked for: model_a, model_b, done, linf, cossim, rename_version."""
        return self.arrays("pairs")

    def groups(self) -> dict[str, list[Pair]]:
        """Return the named groups and their pairs of model ids, smaller id first."""
        found: dict[str, list[Pair]] = {}
        for name, a, b in self.rows("groups"):
            found.setdefault(name, []).append((a, b))
        return found

    def pairs_of_groups(self, names: Iterable[str]) -> list[Pair]:
        """Return the pairs of some groups, each once.

        Raises:
            UsageError: an unknown group.
        """
        known = self.groups()
        names = list(names)
        for name in names:
            if name not in known:
                raise UsageError(
                    f"no such group: {printable(name)!r}",
                    "there are: " + (", ".join(map(printable, known)) or "none"),
                )
        return sorted({pair for name in names for pair in known[name]})

    def add_groups(self, groups: Mapping[str, Iterable[Pair]]) -> None:
        """Save named groups of pairs; known ones are kept once."""
        rows = {(name, min(p), max(p)) for name, pairs in groups.items() for p in pairs}
        if rows:
            batch = table_of(["name", "model_a", "model_b"], sorted(rows))
            with self.transaction():
                self.write("add_group_pairs", tables={"batch": batch})


def _without_mask(column: Any) -> npt.NDArray[Any]:
    """Return a column with NULL as a value that is no number: never what lies under a mask."""
    if not np.ma.is_masked(column):
        return np.asarray(column)
    if np.issubdtype(column.dtype, np.floating):
        return np.asarray(np.ma.filled(column, np.nan))
    return np.asarray(np.ma.filled(column.astype(object), None))
