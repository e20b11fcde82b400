"""The store: rows ↔ dataclasses, and the statements of `sql/` by name."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import numpy.typing as npt

from megasim.errors import UsageError, printable
from megasim.matrix.model_names import full_name, no_such_model
from megasim.store import saving
from megasim.store.batches import table_of
from megasim.store.held import BesideRow, HeldModel, ListedKey, Model, ModelTensor, UnreadKey
from megasim.store.session import Session

__all__ = ["BesideRow", "HeldModel", "ListedKey", "Model", "ModelTensor", "Store", "UnreadKey"]

Pair = tuple[int, int]  # ids of two models, the smaller first

# So many ids are looked for in each row; of more all rows are taken.
_FEW_IDS = 1000


class Store(Session):
    """The models of an open store, what they hold, and their pairs.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as d, Store(f"{d}/s.duckdb", "write") as store:
    ...     store.models()
    []
    """

    # Models

    def models(
        self, names: Sequence[str] | None = None, *, ids: Collection[int] | None = None
    ) -> list[Model]:
        """Return all models, or those of these names or ids, in the order they came."""
        few = list(ids) if ids is not None and len(ids) <= _FEW_IDS else None
        with self._running("models", {}, {"names": names, "ids": few}) as found:
            columns = [column[0] for column in found.description]
            rows = found.fetchall()
        models = []
        for row in rows:
            values = dict(zip(columns, row, strict=True))
            for name in ("metadata", "skipped"):
                text = values[name]
                values[name] = {} if text in (None, "{}") else json.loads(text)
            models.append(Model.of_columns(values))
        return models if ids is None else [model for model in models if model.id in ids]

    def model_names(self, typed: Iterable[str]) -> list[str]:
        """Return the names that are meant: whole, or the only ones that begin so.

        Raises:
            UsageError: no model is called so, or several are. See `full_name`.
        """
        asked = list(typed)
        # of 100,000 models most are not asked for
        known: Collection[str] = {name for name, _ in self.rows("model_names", names=asked)}
        if not set(asked).issubset(known):
            known = self.model_ids()
        return [full_name(name, known) for name in asked]

    def outdated_paths(self) -> list[str]:
        """Return the paths of checkpoints that were read with fingerprints of an older version."""
        from megasim.fingerprint.tensor import FINGERPRINT_VERSION

        return [path for (path,) in self.rows("outdated_paths", version=FINGERPRINT_VERSION)]

    def model_ids(self, names: Iterable[str] | None = None) -> dict[str, int]:
        """Return name → id, of all models or of `names` in their order.

        Raises:
            UsageError: a name the store does not know.
        """
        asked = None if names is None else list(names)
        known = {str(name): int(i) for name, i in self.rows("model_names", names=asked)}
        if asked is None:
            return known
        found = {}
        for name in asked:
            if name not in known:
                raise no_such_model(name, self.model_ids())
            found[name] = known[name]
        return found

    def names_of(self, model_ids: Iterable[int]) -> dict[int, str]:
        """Return id → name of some models."""
        batch = {"batch": {"model_id": list(model_ids)}}
        return {int(i): str(name) for i, name in self.rows("names_of_models", tables=batch)}

    def require_model(self, name: str) -> int:
        """Return the id of a model.

        Raises:
            UsageError: a name the store does not know.
        """
        return self.model_ids([name])[name]

    # How models come, move and go

    def save_model(self, held: HeldModel) -> int:
        """Save a model and what it holds in one transaction, and return its id.

        A model with an id of its own replaces the one with that id; its pairs are forgotten,
        the distances of the contents stay.
        """
        return self.save_files([[held]])[0][0]

    def save_files(self, files: Sequence[Sequence[HeldModel]]) -> list[list[int]]:
        """Save the state dicts of files in one transaction. See `saving.save_files`."""
        return saving.save_files(self, files)

    @contextmanager
    def looking_at(self, held: HeldModel) -> Iterator[int]:
        """Hold a model in the store for the length of a block, under an id of its own."""
        with self._lease.rolled_back():
            yield saving.add_unsealed(self, held)

    def unsaved(self) -> AbstractContextManager[None]:
        """Change the store for the length of a block, and for it alone."""
        return self._lease.rolled_back()

    def move_models(self, paths: Mapping[int, str]) -> None:
        """Note where the files of models, and of their further parts, lie now."""
        saving.move_models(self, paths)

    def rename_model(self, model_id: int, name: str) -> None:
        """Give a model another name, and its parts after it; everything known of it stays."""
        with self.transaction():
            self.write("rename_parts", id=model_id, name=name)
            self.write("rename_model", id=model_id, name=name)

    def remove_models(self, model_ids: Iterable[int]) -> None:
        """Forget models and their pairs, and keep contents. See `saving.remove_models`."""
        saving.remove_models(self, model_ids)

    def forget_models(self, names: Iterable[str]) -> None:
        """Forget models, their pairs, and what no other model holds; all of it, or nothing.

        Raises:
            UsageError: a name the store does not know.
        """
        ids = self._with_parts(names)
        with self.transaction():
            self.remove_models(ids)
            self.write("remove_model_groups", tables={"batch": {"model_id": ids}})
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
        """Return the ids of models and of the further parts of their files."""
        main = list(self.model_ids(names).values())
        parts = self.rows("parts_of_files", tables={"batch": {"model_id": main}})
        return list(dict.fromkeys([*main, *(int(part) for _, _, part in parts)]))

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
