"""What an ingest found and has not saved yet: models read, second copies, files that moved."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace

from megasim.checkpoint.opening import FileIdentity
from megasim.errors import CheckpointError
from megasim.ingest.known_models import KnownModels
from megasim.ingest.result import IngestResult
from megasim.interrupts import held_interrupts
from megasim.store.held import copy_of_file
from megasim.store.rows import HeldModel, Model, Store

# All is saved together once so many seconds have passed, or tensors have come together.
_SAVE_SECONDS = 5.0
_SAVE_TENSORS = 20_000


class Unsaved:
    """Saves in one transaction what has come together. `known` has it until then, too."""

    def __init__(self, store: Store, known: KnownModels, result: IngestResult) -> None:
        self._store, self._known, self._result = store, known, result
        self._free_id = -1
        self._raised: set[int] = set()
        self._empty()

    def _empty(self) -> None:
        self._moves: dict[int, Model] = {}
        # in the order they came, each with the identity that it has to have still
        self._files: list[tuple[FileIdentity | None, Sequence[HeldModel]]] = []
        self._provisional: list[int] = []
        self._tensors = 0
        self._began = time.monotonic()

    def copy(self, model: Model, twin: Model) -> None:
        """Take in a model whose file is that of another one in the store over again."""
        copies = copy_of_file([twin, *self._known.parts_of(twin.id)], model)
        self._files.append((None, copies))
        self._note(copies)

    def move(self, model: Model) -> None:
        """Take in a model whose file lies elsewhere now, at its `path`."""
        self._moves[model.id] = model
        self._known.move_file(model.id, model.path or "")

    def raises(self, model: Model) -> None:
        """Note that more is read of a model than before."""
        self._raised.add(model.id)

    def read(self, identity: FileIdentity, held: Sequence[HeldModel]) -> None:
        """Take in what was read of a file; where its model has an id, it replaces that one."""
        if held[0].model.id:
            self._known.remove_file(held[0].model.id)
        self._files.append((identity, held))
        self._tensors += sum(len(part.tensors) for part in held)
        self._note(held)

    def _note(self, held: Sequence[HeldModel]) -> None:
        """Let `known` have the models of a file under negative ids."""
        ids = range(self._free_id, self._free_id - len(held), -1)
        self._free_id -= len(held)
        self._provisional.append(ids[0])
        self._add(held, ids)

    def _add(self, held: Sequence[HeldModel], ids: Sequence[int]) -> None:
        for part, model_id in zip(held, ids, strict=True):
            main = None if model_id == ids[0] else ids[0]
            self._known.add(replace(part.model, id=model_id, file_model_id=main))

    @property
    def is_due(self) -> bool:
        """Whether it is time to save."""
        return self._tensors > _SAVE_TENSORS or time.monotonic() - self._began > _SAVE_SECONDS

    def save(self) -> None:
        """Save all that still holds, and say in the result what became of it."""
        failed: list[CheckpointError] = []
        kept: list[Sequence[HeldModel]] = []
        for identity, held in self._files:
            try:
                if identity is not None:
                    identity.check_unchanged()
                kept.append(held)
            except CheckpointError as error:
                failed.append(error)
        with held_interrupts():
            saved = self._write(kept) if kept or self._moves else []
            for model_id in self._provisional:
                self._known.remove_file(model_id)
            self._tell(kept, saved)
            self._result.failed += failed
            self._empty()

    def _write(self, kept: Sequence[Sequence[HeldModel]]) -> list[list[int]]:
        with self._store.transaction():
            if self._moves:
                self._store.move_models({i: model.path or "" for i, model in self._moves.items()})
            return self._store.save_files(kept) if kept else []

    def _tell(self, kept: Sequence[Sequence[HeldModel]], saved: Sequence[Sequence[int]]) -> None:
        self._result.moved += [model.name for model in self._moves.values()]
        for held, ids in zip(kept, saved, strict=True):
            self._add(held, ids)
            if held[0].twin_id:
                self._result.copied.append(held[0].model.name)
            else:
                known = held[0].model.id
                names = self._result.replaced if known else self._result.added
                names = self._result.raised if known in self._raised else names
                names += [part.model.name for part in held]
