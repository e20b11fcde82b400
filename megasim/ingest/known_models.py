"""The models of a store as an ingest looks them up: by path, by identity, by name."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from megasim.store.rows import Model

Identity = tuple[int | None, int | None, str | None]


class KnownModels:
    """The models of a store, and those that are about to be saved, whose ids are negative.

    >>> known = KnownModels([Model("a", path="/m/a.pt", id=1)])
    >>> [model.name for model in known.at("/m/a.pt")], known.named("b")
    (['a'], None)
    """

    def __init__(self, models: Iterable[Model]) -> None:
        self._by_id: dict[int, Model] = {}
        self._by_name: dict[str, Model] = {}
        self._by_path: dict[str, dict[int, Model]] = {}
        self._by_identity: dict[Identity, dict[int, Model]] = {}
        self._parts: dict[int, list[int]] = {}
        for model in models:
            self.add(model)

    def add(self, model: Model) -> None:
        """Take a model in, under its id."""
        self._by_id[model.id] = model
        self._by_name[model.name] = model
        if model.file_model_id is not None:
            self._parts.setdefault(model.file_model_id, []).append(model.id)
            return
        if model.path is not None:
            self._by_path.setdefault(model.path, {})[model.id] = model
        self._by_identity.setdefault(model.identity, {})[model.id] = model

    def remove_file(self, model_id: int) -> None:
        """Leave out the main model of a file and its further parts."""
        for one in (model_id, *self._parts.pop(model_id, [])):
            model = self._by_id.pop(one, None)
            if model is None:
                continue
            self._by_name.pop(model.name, None)
            self._by_path.get(model.path or "", {}).pop(one, None)
            self._by_identity.get(model.identity, {}).pop(one, None)

    def move_file(self, model_id: int, path: str) -> None:
        """Note where the file of a model lies now."""
        models = [self._by_id[i] for i in (model_id, *self._parts.get(model_id, []))]
        self.remove_file(model_id)
        for model in models:
            self.add(replace(model, path=path))

    def rename_file(self, model_id: int, name: str) -> Model:
        """Give a model another name, and its parts after it; return it."""
        before = self._by_id[model_id]
        models = [before, *self.parts_of(model_id)]
        self.remove_file(model_id)
        for model in models:
            rest = model.name.removeprefix(before.name)
            self.add(replace(model, name=name + rest) if rest != model.name else model)
        return self._by_id[model_id]

    def at(self, path: str | None) -> list[Model]:
        """Return the main models of the file at a path, the oldest first: one for each name."""
        return list(self._by_path.get(path or "", {}).values())

    def parts_of(self, model_id: int) -> list[Model]:
        """Return the further parts of the file whose main part is a model."""
        return [self._by_id[i] for i in self._parts.get(model_id, [])]

    def twins(self, identity: Identity) -> list[Model]:
        """Return the main models of files of an identity, the oldest first."""
        return list(self._by_identity.get(identity, {}).values())

    def named(self, name: str) -> Model | None:
        """Return the model of a name."""
        return self._by_name.get(name)
