"""Models and what they hold → rows: one set of statements, however many models there are."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from megasim.store.held import HeldModel
from megasim.store.model_tables import (
    Saved,
    beside_table,
    fold_table,
    listed_table,
    model_table,
    model_tensor_table,
    profile_table,
    tensor_table,
    tied_table,
    unread_table,
)
from megasim.store.session import Session

if TYPE_CHECKING:
    from megasim.fingerprint.table import FingerprintTable
    from megasim.store.held import Model

# What is noted of a model beside its tensors: each a table of its own.
_NOTES = {
    "listed": listed_table,
    "unread": unread_table,
    "tied": tied_table,
    "beside": beside_table,
}
# Contents that are handed to the database at a time: it holds a second copy meanwhile.
_AT_ONCE = 16_384
# All that is kept of a model, and of pairs of it.
_OF_MODEL = ("tensors", *_NOTES, "folded")
_OF_PAIRS = ("pairs", "renames", "renamed_keys", "components", "layers", "samples")


def now() -> datetime:
    """Return the time, in UTC and without a zone, as DuckDB keeps it."""
    return datetime.now(UTC).replace(tzinfo=None, microsecond=0)


def save_files(store: Session, files: Sequence[Sequence[HeldModel]]) -> list[list[int]]:
    """Save the state dicts of files in one transaction, the main one of each first.

    Where a main one has an id of its own, the file replaces that model and its parts; a part of the
    same place keeps its id. Copies are of what is in the store before.

    Returns:
        the ids of each file's state dicts.
    """
    replaced = [parts[0].model.id for parts in files if parts[0].model.id]
    with store.transaction():
        kept = {(file, part): i for file, part, i in _parts_of(store, replaced)}
        free = _free_ids(store)
        saved: list[tuple[int, HeldModel]] = []
        ids: list[list[int]] = []
        for parts in files:
            ids.append([])
            for held in parts:
                model = replace(held.model, file_model_id=ids[-1][0] if ids[-1] else None)
                model_id = model.id or kept.get((parts[0].model.id, model.part)) or next(free)
                ids[-1].append(model_id)
                saved.append((model_id, replace(held, model=model)))
        _copy(store, [(model_id, held) for model_id, held in saved if held.twin_id])
        remove_models(store, replaced)
        _save(store, [(model_id, held) for model_id, held in saved if not held.twin_id])
        _seal(store, [model_id for model_id, _ in saved])
    return ids


def add_unsealed(store: Session, held: HeldModel) -> int:
    """Save a model that is only looked at, under a free id, and return that."""
    model_id = next(_free_ids(store))
    _save(store, [(model_id, held)])
    return model_id


def move_models(store: Session, paths: Mapping[int, str]) -> None:
    """Note where the files of models, and of their further parts, lie now."""
    batch = {"model_id": list(paths), "path": list(paths.values())}
    store.write("move_models", tables={"batch": batch})


def remove_models(store: Session, model_ids: Iterable[int]) -> None:
    """Forget models, the further parts of their files, and their pairs, in one transaction.

    Contents and their distances stay.
    """
    main = list(model_ids)
    if not main:
        return
    with store.transaction():
        parts = [part for _, _, part in _parts_of(store, main)]
        batch = {"batch": {"model_id": [*main, *parts]}}
        for what in (*_OF_MODEL, *_OF_PAIRS):
            store.write(f"remove_model_{what}", tables=batch)
        store.write("remove_models", tables=batch)


def _parts_of(store: Session, model_ids: Sequence[int]) -> list[tuple[int, str, int]]:
    """Return the further parts of files: the main model of the file, the part, and its model."""
    if not model_ids:
        return []
    return store.rows("parts_of_files", tables={"batch": {"model_id": list(model_ids)}})


def _free_ids(store: Session) -> Iterator[int]:
    """Return ids that no model has."""
    ((first,),) = store.rows("next_model_id")
    return itertools.count(int(first))


def _copy(store: Session, models: Saved) -> None:
    """Save models that hold what their twins in the store hold, each under its id."""
    if not models:
        return
    _add_models(store, models)
    ids = {"model_id": [i for i, _ in models], "twin_id": [held.twin_id for _, held in models]}
    for what in _OF_MODEL:
        store.write(f"copy_model_{what}", tables={"batch": ids})


def _save(store: Session, models: Saved) -> None:
    """Save models and what they hold, each under its id."""
    if not models:
        return
    _add_models(store, models)
    ids = _save_contents(store, [(held.prints, held.model) for _, held in models])
    for start in range(0, max(map(len, ids)), _AT_ONCE):
        batch = model_tensor_table(models, ids, slice(start, start + _AT_ONCE))
        store.write("add_model_tensors", tables={"batch": batch})
    for what, table in _NOTES.items():
        notes = table(models)
        if len(notes["model_id"]):
            store.write(f"add_model_{what}", tables={"batch": notes})
    folds = fold_table(models)
    if len(folds["model_id"]):
        store.write("add_folded_sketches", tables={"batch": folds})


def _add_models(store: Session, models: Saved) -> None:
    store.write("add_models", tables={"batch": model_table(models)}, ingested_at=now())


def _save_contents(
    store: Session, held: Sequence[tuple[FingerprintTable | None, Model]]
) -> list[list[int]]:
    """Save the contents that the store lacks, and return the ids of all, model by model."""
    tables = [(table, model.fingerprint_version) for table, model in held if table]
    contents = [table.hex_of("content_hash") for table, _ in tables]
    found: dict[str, tuple[int, int]] = {}  # content → its table, and its row there
    for place, hashes in enumerate(contents):
        rows = dict(zip(hashes, range(len(hashes)), strict=True))
        for content in sorted(rows):
            found.setdefault(content, (place, rows[content]))
    if not found:
        return [[] for _ in held]
    versions = [tables[place][1] for place, _ in found.values()]
    asked = {"content_hash": list(found), "version": versions}
    known = store.rows("known_tensors", tables={"batch": asked})
    ids = {content: int(i) for content, i, _ in known}
    new = [content for content in found if content not in ids]
    ((first,),) = store.rows("next_tensor_id")
    ids.update(zip(new, itertools.count(int(first)), strict=False))
    old = [content for content, _, is_current in known if not is_current]
    for name, which in (("add_tensors", new), ("renew_tensors", old)):
        for start in range(0, len(which), _AT_ONCE):
            some = which[start : start + _AT_ONCE]
            prints = [(*tables[found[content][0]], found[content][1]) for content in some]
            batch = tensor_table([ids[content] for content in some], prints)
            store.write(name, tables={"batch": batch})
    of_tables = [[ids[content] for content in hashes] for hashes in contents]
    profiles = profile_table(
        [table for table, _ in tables],
        of_tables,
        store.rows("known_profiles", tables={"batch": {"tensor_id": [i for _, i, _ in known]}})
        if known
        else [],
    )
    if len(profiles["tensor_id"]):
        store.write("add_profiles", tables={"batch": profiles})
    remaining = iter(of_tables)
    return [next(remaining) if table else [] for table, _ in held]


def _seal(store: Session, model_ids: Sequence[int]) -> None:
    """Note what models hold, now that all of it is saved."""
    batch = {"batch": {"model_id": list(model_ids)}}
    store.write("seal_models", tables=batch, first=min(model_ids), last=max(model_ids))
