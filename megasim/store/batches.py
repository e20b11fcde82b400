"""Tables that a statement takes for one call: pairs, rows, fingerprints as columns."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import numpy.typing as npt

from megasim.fingerprint.folded import FOLD_VERSION, fold_sketches
from megasim.words import Nature

if TYPE_CHECKING:
    import pandas as pd

    from megasim.fingerprint.tensor import Fingerprint
    from megasim.store.held import ModelTensor

# What the macro is_measured says.
_MEASURED = (None, Nature.WEIGHT, Nature.STATISTIC)

# Column → its values, or a frame. Pandas is imported only by who asks for a frame.
Table: TypeAlias = "Mapping[str, Any] | pd.DataFrame"


def pair_table(pairs: Iterable[tuple[int, int]]) -> dict[str, npt.NDArray[np.int32]]:
    """Return pairs as the table that statements call `batch`."""
    array = np.array(sorted(pairs), dtype=np.int32).reshape(-1, 2)
    return {"model_a": array[:, 0].copy(), "model_b": array[:, 1].copy()}


def table_of(columns: Sequence[str], rows: Sequence[tuple[Any, ...]]) -> Table:
    """Return rows as a table.

    >>> table_of(["key", "numel"], [("a", 1), ("b", 2)])
    {'key': ['a', 'b'], 'numel': [1, 2]}
    """
    return {name: [row[i] for row in rows] for i, name in enumerate(columns)}


def duckdb_columns(table: Table) -> Table:
    """Return a table as DuckDB takes it: a list as an array of its objects, where None is NULL."""
    if not isinstance(table, dict):
        return table
    return {
        name: values
        if isinstance(values, np.ndarray)
        else np.fromiter(values, dtype=object, count=len(values))
        for name, values in table.items()
    }


def tensor_table(prints: Sequence[Fingerprint], ids: Mapping[str, int]) -> Table:
    """Return fingerprints as rows of the table `tensor`; `ids` are those of their contents."""
    columns = ["content_hash", "value_hash", "fp16_hash", "bf16_hash", "dtype", "numel"]
    columns += ["l1", "l2", "linf", "mean", "std", "kurtosis", "zeros", "nans", "infs"]
    columns += ["is_constant"]
    data: dict[str, Any] = {c: [getattr(p, c) for p in prints] for c in columns}
    data["id"] = [ids[p.content_hash] for p in prints]
    data["sketch"] = [np.asarray(p.sketch, dtype=np.float32) for p in prints]
    return data


def profile_table(
    prints: Iterable[Fingerprint],
    ids: Mapping[str, int],
    known: Iterable[tuple[int, int | None, int | None]],
) -> Table:
    """Return profiles as rows of the table `profile`, those not among the known ones.

    A content that stands under several shapes has a profile for each pair of lengths.

    Args:
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


def fold_table(model_id: int, tensors: Iterable[ModelTensor]) -> Table:
    """Return the folded sketches of the components of a model, as rows of their table."""
    data: dict[str, list[Any]] = {"model_id": [], "component": [], "keys": [], "sketch": []}
    data["sketch_version"] = []
    folded: dict[str, list[ModelTensor]] = {}
    for tensor in sorted(tensors, key=lambda t: t.canonical_key):
        if tensor.nature in _MEASURED and len(tensor.fingerprint.sketch):
            folded.setdefault(tensor.component, []).append(tensor)
    for component, held in folded.items():
        fold = fold_sketches(
            [t.canonical_key for t in held],
            ["x".join(map(str, t.canonical_shape)) for t in held],
            [t.fingerprint.sketch for t in held],
        )
        data["model_id"].append(model_id)
        data["component"].append(component)
        data["keys"].append(len(held))
        data["sketch"].append(fold.astype(np.float32))
        data["sketch_version"].append(FOLD_VERSION)
    return data
