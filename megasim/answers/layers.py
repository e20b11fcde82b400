"""Layer by layer: the distances of a pair, and where one model differs from the others."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from megasim.errors import NoAnswerError, UsageError, printable
from megasim.findings.layer_changes import LayerChanges, layer_changes
from megasim.store.matrices import load_matrix, member_names
from megasim.store.rows import Store
from megasim.words import Status

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

    from megasim.plots.style import Style

_COLUMNS = ("model", "other", "canonical_key", "block", "role", "numel", "l2")
_PAIR_COLUMNS = (
    *("canonical_key", "component", "block", "role", "nature", "status", "numel"),
    *("l0", "l1", "l2", "linf", "cossim", "share", "relative", "norm", "key_a", "key_b", "source"),
)


def pair_layers(
    store: Store, a: str, b: str, component: str | None = None, *, top: int | None = None
) -> pd.DataFrame:
    """Return how each layer changed from a to b, the most changed first.

    Columns: canonical_key, component, block, role, nature, status, numel, l0, l1, l2, linf, cossim;
    share, of the squared L2 of its component; relative, the L2 over norm, that of the layer in a;
    key_a, key_b, source; is_measured, whether it enters the distance of its component. NULL where
    there is no distance; share also where a key is not measured (counters, indices, masks, …).

    Args:
        a, b: in either order; what is missing in one is named after that order.
        component: only its layers.
        top: only so many, the most changed.

    Raises:
        UsageError: an unknown model, or twice the same.
        NoAnswerError: the pair was not compared by layer, or has no layer of the component.
    """
    ids = store.model_ids([a, b])
    if len(ids) < 2:
        raise UsageError(f"{printable(a)} is the same as itself", "name two models")
    first, second = sorted(ids.values())
    frame = store.frame("pair_layers", a=first, b=second)
    if frame.empty:
        raise NoAnswerError(
            f"the layers of {printable(a)} and {printable(b)} are not known",
            "run `megasim compare`",
        )
    if ids[a] != first:
        sides = {f"{what}_{x}": f"{what}_{y}" for what in ("key", "norm") for x, y in ("ab", "ba")}
        frame = frame.rename(columns=sides)
        frame["status"] = [str(Status(status).other_side) for status in frame["status"]]
    if component is not None:
        frame = _of_component(store, frame, component, a, b)
    frame["share"] = shares(frame)
    frame["norm"] = frame["norm_a"]
    frame["relative"] = frame["l2"] / frame["norm"].where(frame["norm"] > 0)
    frame = frame.sort_values(
        ["l2", "canonical_key"], ascending=[False, True], na_position="last", kind="stable"
    )
    shown = frame[[*_PAIR_COLUMNS, "is_measured"]].reset_index(drop=True)
    return shown if top is None else shown.head(top)


def shares(layers: pd.DataFrame) -> pd.Series[float]:
    """Return the share of each layer in the squared L2 of its component; NaN where it has none."""
    squared = layers["l2"].where(layers["is_measured"].astype(bool)) ** 2
    of_component = squared.groupby(layers["component"]).transform("sum")
    return squared / of_component.where(of_component > 0)


def _of_component(
    store: Store, layers: pd.DataFrame, component: str, a: str, b: str
) -> pd.DataFrame:
    some = layers[layers["component"].isin(member_names(store, component))]
    if some.empty:
        raise NoAnswerError(
            f"no layer of {printable(component)} is in {printable(a)} or {printable(b)}",
            "there are: " + ", ".join(sorted(map(printable, set(layers["component"])))),
        )
    return some.copy()


def histogram(
    store: Store, a: str, b: str, component: str | None = None, *, style: Style | None = None
) -> Figure:
    """Return how the layer distances of a pair are distributed.

    Args:
        component: a panel for attn1, attn2 and others of it; one for each component when None.

    Raises:
        NoAnswerError: no layer of the pair is known, or none of the component.
    """
    from megasim.plots.histogram import component_histogram, role_histogram

    layers = pair_layers(store, a, b, component)
    if component is None:
        return component_histogram(layers, a, b, style=style)
    return role_histogram(layers, a, b, component=component, style=style)


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
    style: Style | None = None,
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
    return layers_figure(grid, title=title, component=found.component, style=style)


def _changes(
    store: Store, component: str, against: str | None, models: Sequence[str] | None
) -> LayerChanges:
    whole = load_matrix(store, component)
    names = set(store.model_ids(models))
    matrix = whole.subset([name for name in whole.models if name in names])
    return layer_changes(store, matrix, against, models=models)
