"""What pages about several models ask alike: a component, a metric, a set of models."""

from __future__ import annotations

import json
from collections.abc import Callable, Hashable, Sequence
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import urlencode

from fastapi import Query, Request, Response

from megasim.anatomy.classification import component_title
from megasim.plots.figure_files import figure_bytes
from megasim.serve.dependencies import kept
from megasim.serve.pages.addresses import query_links
from megasim.store.matrices import component_names, main_component, member_names
from megasim.store.runnable_queries import filled_query
from megasim.words import Metric, PartRole
from megasim.workspace import Workspace

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Models = Annotated[list[str], Query(description="Only these models; all when there is none.")]
SETS = (("Matrix", "/matrix"), ("Map", "/map"), ("Lineage", "/lineage"), ("Models", "/models"))


def component_choices(request: Request, store: Workspace) -> list[tuple[str, str]]:
    """Return (name, title) of the components that can be asked for, the commonest first."""

    def found() -> list[tuple[str, str]]:
        names = component_names(store.store)
        parts = {"vae_encoder", "vae_decoder", "vae_quant"}
        offered = [*names, *(["vae"] if parts & set(names) else []), *(["all"] if names else [])]
        return [(name, component_title(name)) for name in dict.fromkeys(offered)]

    return kept(request, "component choices", found)


def chosen_component(store: Workspace, component: str) -> str:
    """Return the component that is meant: the one named, else the main one."""
    return component or main_component(store.store)


def stored_components(store: Workspace, component: str) -> list[str]:
    """Return the components of the views that a name stands for."""
    return member_names(store.store, component)


def set_links(component: str) -> list[tuple[str, str]]:
    """Return (title, address) of the pages that take over a set of models."""
    return [
        (title, path if path == "/models" else f"{path}?{urlencode({'component': component})}")
        for title, path in SETS
    ]


def shown_alike(
    request: Request,
    store: Workspace,
    component: str,
    metric: Metric,
    models: list[str],
    shown: Sequence[str],
) -> dict[str, Any]:
    """Return what the pages of the matrix and of the map show alike, for their templates.

    Args:
        models: those that were asked for; none for all.
        shown: those that are in the picture.
    """
    component = chosen_component(store, component)
    sql = filled_query(
        "report_distances",
        models=list(shown) if models else None,
        components=stored_components(store, component),
    )
    changes = [] if models else kept(request, "adapters", lambda: _adapters(store))
    return {
        "component": component,
        "components": component_choices(request, store),
        "metric": str(metric),
        "metrics": [str(m) for m in Metric],
        "models": models,
        "sets": json.dumps(set_links(component)),
        "queries": query_links(sql)[1:],
        "sql": sql if metric == Metric.L2 else "",
        "adapters": [name for name in changes if name not in shown],
    }


def _adapters(store: Workspace) -> list[str]:
    """Return the models that hold changes of weights, and no weights."""
    return [m.name for m in store.store.models() if m.part_role == PartRole.ADAPTER]


def figure_response(
    request: Request, key: tuple[Hashable, ...], draw: Callable[[], Figure]
) -> Response:
    """Return the static figure of a page, for slides and papers."""
    drawn = kept(request, ("figure", *key), lambda: figure_bytes(draw(), "svg"))
    return Response(drawn, media_type="image/svg+xml")


def own_query(request: Request, **changed: str) -> str:
    """Return the query of this page's address with some of it changed; "" leaves one out."""
    kept_ = [(k, v) for k, v in request.query_params.multi_items() if k not in changed]
    return urlencode([*kept_, *((k, v) for k, v in changed.items() if v)])
