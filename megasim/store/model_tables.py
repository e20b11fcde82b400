"""Models and what they hold → tables, each of all models that are saved together."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from megasim.fingerprint.folded import FOLD_VERSION, fold_sketches
from megasim.store.batches import Table, table_of
from megasim.words import Nature

if TYPE_CHECKING:
    from megasim.fingerprint.tensor import Fingerprint
    from megasim.store.held import HeldModel, ModelTensor

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
    columns += ["file_model_id"]
    data: dict[str, Any] = {c: [getattr(held.model, c) for _, held in models] for c in columns}
    data["id"] = [model_id for model_id, _ in models]
    for name in ("metadata", "skipped"):
        texts = [json.dumps(getattr(held.model, name), sort_keys=True) for _, held in models]
        data[name] = texts
    return data


def tensor_table(prints: Sequence[tuple[int, Fingerprint, int | None]]) -> Table:
    """Return fingerprints as rows of the table `tensor`, each under its id, with its version."""
    columns = ["content_hash", "value_hash", "fp16_hash", "bf16_hash", "dtype", "numel"]
    columns += ["l1", "l2", "linf", "mean", "std", "kurtosis", "zeros", "nans", "infs"]
    columns += ["is_constant"]
    data: dict[str, Any] = {c: [getattr(p, c) for _, p, _ in prints] for c in columns}
    data["id"] = [tensor_id for tensor_id, _, _ in prints]
    data["version"] = [version for _, _, version in prints]
    data["sketch"] = [np.asarray(p.sketch, dtype=np.float32) for _, p, _ in prints]
    return data


def profile_table(
    prints: Iterable[Fingerprint],
    ids: Mapping[str, int],
    known: Iterable[tuple[int, int | None, int | None]],
) -> Table:
    """Return profiles as rows of the table `profile`, those not among the known ones.

    A content that stands under several shapes has a profile for each pair of lengths.

    Args:
        ids: of the contents, by their hashes.
        known: content, rows and columns of profiles that the store has.
    """
    seen = set(known)
    data: dict[str, list[Any]] = {"tensor_id": [], "rows": [], "columns": []}
    for p in prints:
        rows, columns = len(p.row_norms) or None, len(p.column_norms) or None
        place = (ids[p.content_hash], rows, columns)
        if (rows or columns) and place not in seen:
            seen.add(place)
            data["tensor_id"].append(place[0])
            data["rows"].append(p.row_norms.tobytes() if rows else None)
            data["columns"].append(p.column_norms.tobytes() if columns else None)
    return data


def model_tensor_table(models: Saved, ids: Mapping[str, int]) -> Table:
    """Return what models hold as rows of the table `model_tensor`; `ids` are of the contents."""
    columns = ["transposed", "canonical_key", "component", "block", "role", "nature"]
    columns += ["representation"]
    held = [(model_id, tensor) for model_id, model in models for tensor in model.tensors]
    tensors = [tensor for _, tensor in held]
    data: dict[str, Any] = {c: [getattr(t, c) for t in tensors] for c in columns}
    data["model_id"] = [model_id for model_id, _ in held]
    data["tensor_id"] = [ids[t.fingerprint.content_hash] for t in tensors]
    data["key"] = [" + ".join(t.sources) for t in tensors]
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
    columns = ["model_id", "component", "keys", "sketch", "sketch_version"]
    rows = [
        (model_id, component, len(held), _fold(held), FOLD_VERSION)
        for model_id, model in models
        for component, held in _by_component(model.tensors).items()
    ]
    return table_of(columns, rows)


def _by_component(tensors: Iterable[ModelTensor]) -> dict[str, list[ModelTensor]]:
    """Return the tensors that are folded together, in the order of their canonical keys."""
    found: dict[str, list[ModelTensor]] = {}
    for tensor in sorted(tensors, key=lambda t: t.canonical_key):
        if tensor.nature in _MEASURED and len(tensor.fingerprint.sketch):
            found.setdefault(tensor.component, []).append(tensor)
    return found


def _fold(tensors: Sequence[ModelTensor]) -> Any:
    fold = fold_sketches(
        [t.canonical_key for t in tensors],
        [shape_text(t.canonical_shape) for t in tensors],
        [t.fingerprint.sketch for t in tensors],
    )
    return fold.astype(np.float32)
