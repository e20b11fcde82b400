"""Layer by layer: the distances of a pair, and where one model differs from the others."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from megasim.errors import NoAnswerError, printable
from megasim.findings.layer_changes import LayerChanges, layer_changes
from megasim.store.matrices import load_matrix, member_names
from megasim.store.rows import Store

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

_COLUMNS = ("model", "other", "canonical_key", "block", "role", "numel", "l2")


def pair_layers(store: Store, a: str, b: str) -> pd.DataFrame:
    """Return the layer distances of one pair: canonical_key, component, block, role, l2, …

    Raises:
        UsageError: an unknown model.
        NoAnswerError: the pair was not compared by layer.
    """
    ids = sorted(store.model_ids([a, b]).values())
    frame = store.frame("pair_layers", a=ids[0], b=ids[-1])
    if frame.empty:
        raise NoAnswerError(
            f"the layers of {printable(a)} and {printable(b)} are not known",
            "run `megasim compare`",
        )
    return frame


def histogram(store: Store, a: str, b: str, component: str | None = None) -> Figure:
    """Return how the layer distances of a pair are distributed.

    Args:
        component: a panel for attn1, attn2 and others of it; one for each component when None.

    Raises:
        NoAnswerError: no layer of the pair is known, or none of the component.
    """
    from megasim.plots.histogram import component_histogram, role_histogram

    layers = pair_layers(store, a, b)
    if component is None:
        return component_histogram(layers, a, b)
    some = layers[layers["component"].isin(member_names(store, component))]
    if some.empty:
        raise NoAnswerError(
            f"no layer of {printable(component)} is in {printable(a)} or {printable(b)}",
            "there are: " + ", ".join(sorted(map(printable, set(layers["component"])))),
        )
    return role_histogram(some, a, b, component=component)


def layer_change_table(
    store: Store,
    component: str,
    against: str | None = None,
    *,
    models: Sequence[str] | None = None,
) -> pd.DataFrame:
    """Return a row for each layer and other model, the nearest model first.

    Columns: model, other, canonical_key, block, role, numel, l2 (NULL where not known).
    """
    found = _changes(store, component, against, models)
    rows = found.rows.assign(model=found.model).rename(columns={"pair": "other"})
    return rows[list(_COLUMNS)].reset_index(drop=True)


def layer_heatmap(
    store: Store,
    component: str,
    against: str | None = None,
    *,
    models: Sequence[str] | None = None,
) -> Figure:
    """Return layers × pairs: where in the network one model differs from the others.

    Args:
        against: the one model; the one nearest to all others when None.
    """
    from megasim.plots.layers import layer_grid, layers_figure

    found = _changes(store, component, against, models)
    grid = layer_grid(found.rows)
    others = f"{len(grid.pairs):,} other" + ("" if len(grid.pairs) == 1 else "s")
    title = f"{printable(found.model, 40)} against {others}"
    return layers_figure(grid, title=title, component=found.component)


def _changes(
    store: Store, component: str, against: str | None, models: Sequence[str] | None
) -> LayerChanges:
    whole = load_matrix(store, component)
    names = set(store.model_ids(models))
    matrix = whole.subset([name for name in whole.models if name in names])
    return layer_changes(store, matrix, against, models=models)
