"""Models and what they hold → tables, each of all models that are saved together."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from megasim.fingerprint.folded import FOLD_VERSION, fold_sketches, key_set_of
from megasim.store.batches import Table, table_of
from megasim.words import Nature

if TYPE_CHECKING:
    from megasim.fingerprint.table import FingerprintTable
    from megasim.store.held import HeldModel

# Models that are saved together, each under its id.
Saved = Sequence[tuple[int, "HeldModel"]]

# What the macro is_measured says.
_MEASURED = (None, Nature.WEIGHT, Nature.STATISTIC)


def shape_text(shape: Sequence[int]) -> str:
    """Return a shape as the store writes it; a scalar is the empty string.

    >>> shape_text((320, 4, 3, 3))
    '320x4x3x3'
    """
    return "x".join(map(str, shape))


def model_table(models: Saved) -> Table:
    """Return models as rows of their table."""
    columns = ["name", "source", "path", "format", "bytes", "mtime_ns", "header_hash", "family"]
    columns += ["variant", "layout", "fingerprint_version", "sketch_size", "part", "part_role"]
    columns += ["file_model_id", "sample_level"]
    data: dict[str, Any] = {c: [getattr(held.model, c) for _, held in models] for c in columns}
    data["id"] = [model_id for model_id, _ in models]
    data["tier"] = [str(held.model.tier) for _, held in models]
    for name in ("metadata", "skipped"):
        texts = [json.dumps(getattr(held.model, name), sort_keys=True) for _, held in models]
        data[name] = texts
    return data


def tensor_table(
    ids: Sequence[int], prints: Sequence[tuple[FingerprintTable, int | None, int]]
) -> Table:
    """Return fingerprints as rows of the table `tensor`.

    Args:
        ids: of the contents.
        prints: for each the table that has it, the version of that, and its row there.
    """
    parts = []
    for _, of_table in itertools.groupby(prints, key=lambda found: id(found[0])):
        some = list(of_table)
        parts.append(some[0][0].columns_of([row for *_, row in some]))
    data: dict[str, Any] = {
        name: np.concatenate([part[name] for part in parts])
        if isinstance(values, np.ndarray)
        else [value for part in parts for value in part[name]]
        for name, values in parts[0].items()
    }
    return {**data, "id": list(ids), "version": [version for _, version, _ in prints]}


def profile_table(
    prints: Sequence[FingerprintTable],
    ids: Sequence[Sequence[int]],
    known: Iterable[tuple[int, int | None, int | None]],
) -> Table:
    """Return profiles as rows of the table `profile`, those not among the known ones.

    A content that stands under several shapes has a profile for each pair of lengths.

    Args:
        ids: of the contents of each table.
        known: content, rows and columns of profiles that the store has.
    """
    seen = set(known)
    data: dict[str, list[Any]] = {"tensor_id": [], "rows": [], "columns": []}
    for table, contents in zip(prints, ids, strict=True):
        lengths = (table.row_norms.lengths.tolist(), table.column_norms.lengths.tolist())
        for i, place in enumerate(zip(contents, *lengths, strict=True)):
            content, rows, columns = place[0], place[1] or None, place[2] or None
            if (rows or columns) and (content, rows, columns) not in seen:
                seen.add((content, rows, columns))
                data["tensor_id"].append(content)
                data["rows"].append(table.row_norms[i].tobytes() if rows else None)
                data["columns"].append(table.column_norms[i].tobytes() if columns else None)
    return data


def model_tensor_table(models: Saved, ids: Sequence[Sequence[int]], some: slice) -> Table:
    """Return what models hold as rows of the table `model_tensor`, some of the tensors of each.

    Args:
        ids: of the contents, model by model.
    """
    columns = ["transposed", "canonical_key", "component", "block", "role", "nature"]
    columns += ["representation"]
    held = [(model_id, tensor) for model_id, model in models for tensor in model.tensors[some]]
    tensors = [tensor for _, tensor in held]
    data: dict[str, Any] = {c: [getattr(t, c) for t in tensors] for c in columns}
    data["model_id"] = [model_id for model_id, _ in held]
    data["tensor_id"] = [i for of_model in ids for i in of_model[some]]
    data["key"] = [" + ".join(dict.fromkeys(t.sources)) for t in tensors]
    data["sources"] = [list(t.sources) for t in tensors]
    data["canonical_shape"] = [shape_text(t.canonical_shape) for t in tensors]
    data["shape"] = [shape_text(t.shape) for t in tensors]
    return data


def unread_table(models: Saved) -> Table:
    """Return the keys of models whose tensors could not be read."""
    columns = ["model_id", "key", "canonical_key", "component", "reason", "dtype", "shape"]
    rows = [
        (
            *(model_id, k.key, k.canonical_key, k.component, str(k.reason), k.dtype),
            *(None if k.shape is None else shape_text(k.shape), k.numel, k.digest, k.note),
        )
        for model_id, model in models
        for k in model.unread
    ]
    return table_of([*columns, "numel", "digest", "note"], rows)


def listed_table(models: Saved) -> Table:
    """Return the keys of models that were not read in full."""
    columns = ["model_id", "key", "sources", "transposed", "canonical_key", "canonical_shape"]
    columns += ["shape", "component", "block", "role", "nature", "representation"]
    columns += ["dtype", "numel", "sampled", "content_hash", "non_finite", "l2"]
    rows = [
        (
            *(
                model_id,
                " + ".join(dict.fromkeys(t.sources)),
                list(t.sources),
                t.transposed,
                t.canonical_key,
            ),
            *(shape_text(t.canonical_shape), shape_text(t.shape), t.component, t.block, t.role),
            *(t.nature, t.representation, k.dtype, k.numel, k.sampled, k.content_hash),
            *(k.non_finite, k.l2),
        )
        for model_id, model in models
        for k in model.listed
        for t in (k.tensor,)
    ]
    return table_of(columns, rows)


def tied_table(models: Saved) -> Table:
    """Return the keys of models that share the tensor of another key."""
    rows = [(model_id, *tie) for model_id, model in models for tie in model.tied.items()]
    return table_of(["model_id", "key", "tied_to"], rows)


def beside_table(models: Saved) -> Table:
    """Return what stands in the files of models beside their state dicts."""
    rows = [
        (model_id, b.place, str(b.role), b.tensors, b.numel, b.bytes, b.digest)
        for model_id, model in models
        for b in model.beside
    ]
    columns = ["model_id", "place", "role", "tensors", "numel", "bytes", "digest"]
    return table_of(columns, rows)


def fold_table(models: Saved) -> Table:
    """Return the folded sketches of the components of models, as rows of their table."""
    columns = ["model_id", "component", "keys", "key_set", "sketch", "sketch_version"]
    rows = [
        (model_id, component, len(places), *_fold(held, places), FOLD_VERSION)
        for model_id, held in models
        for component, places in _by_component(held).items()
    ]
    return table_of(columns, rows)


def _by_component(held: HeldModel) -> dict[str, list[int]]:
    """Return the tensors that are folded together, in the order of their canonical keys."""
    found: dict[str, list[int]] = {}
    if held.prints is None:
        return found
    lengths = held.prints.sketches.lengths.tolist()
    for i in sorted(range(len(held.tensors)), key=lambda i: held.tensors[i].canonical_key):
        tensor = held.tensors[i]
        if tensor.nature in _MEASURED and lengths[i]:
            found.setdefault(tensor.component, []).append(i)
    return found


def _fold(held: HeldModel, places: Sequence[int]) -> tuple[str, Any]:
    """Return the text that tells which keys go into a fold, and the fold."""
    assert held.prints is not None
    keys = [held.tensors[i].canonical_key for i in places]
    shapes = [shape_text(held.tensors[i].canonical_shape) for i in places]
    fold = fold_sketches(keys, shapes, [held.prints.sketches[i] for i in places])
    return key_set_of(keys, shapes), fold.astype(np.float32)
