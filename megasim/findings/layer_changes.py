"""Where in the network one model differs from others, layer by layer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from megasim.errors import UsageError, printable
from megasim.findings.reference_model import reference_model
from megasim.matrix.distance_matrix import DistanceMatrix
from megasim.store.matrices import member_names
from megasim.store.rows import Store
from megasim.store.runnable_queries import run_query

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class LayerChanges:
    """How each layer of a model differs from the same layer of others, the nearest model first.

    Attributes:
        model: its name.
        component: whose layers they are.
        rows: a row for each layer and other model, as `layer_rows` returns them.
    """

    model: str
    component: str
    rows: pd.DataFrame


def layer_changes(
    store: Store,
    matrix: DistanceMatrix,
    against: str | None = None,
    *,
    models: Sequence[str] | None = None,
) -> LayerChanges:
    """Return how the layers of one model differ from those of the others.

    Args:
        matrix: the distances of the component, which put the others in order.
        against: that model; the best to compare the others with when None.
        models: names of the others; all of the store when None.

    Raises:
        UsageError: no model of that name holds the component.
        NoAnswerError: none of its layers is known.
    """
    model = reference_model(matrix) if against is None else against
    if model not in matrix.models:
        raise UsageError(
            f"{printable(model)!r} has no component {printable(matrix.component)}",
            "see `megasim models`",
        )
    members = member_names(store, matrix.component)
    found = run_query(store, "report_layers", models=models, model=model, components=members)
    return LayerChanges(model, matrix.component, layer_rows(found.frame, model, matrix))


def layer_rows(frame: pd.DataFrame, model: str, matrix: DistanceMatrix) -> pd.DataFrame:
    """Return the result of `report_layers` or `report_layer_sums` as `plots.layer_grid` takes it.

    Added are `pair` (the other model), `layer`, `keys` and `apart` (its distance over the whole
    component); the nearest model comes first.
    """
    rows = frame.copy()
    rows["pair"] = np.where(rows["model_a"] == model, rows["model_b"], rows["model_a"])
    if "canonical_key" in rows:
        rows["layer"], rows["keys"] = rows["canonical_key"], 1
    else:
        rows["layer"] = rows["block"].fillna("") + " " + rows["role"].fillna("")
    at = matrix.models.index(model)
    apart = dict(zip(matrix.models, matrix.values[at].tolist(), strict=True))
    rows["apart"] = rows["pair"].map(apart)
    return rows.sort_values(["apart", "pair", "layer"], kind="stable")
