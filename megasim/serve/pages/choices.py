"""What pages about several models ask alike: a component, a metric, a set of models."""

from __future__ import annotations

from typing import Annotated
from urllib.parse import urlencode

from fastapi import Query, Request

from megasim.anatomy.classification import component_title
from megasim.serve.dependencies import kept
from megasim.store.matrices import component_names, main_component, member_names
from megasim.workspace import Workspace

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


def own_query(request: Request, **changed: str) -> str:
    """Return the query of this page's address with some of it changed; "" leaves one out."""
    kept_ = [(k, v) for k, v in request.query_params.multi_items() if k not in changed]
    return urlencode([*kept_, *((k, v) for k, v in changed.items() if v)])
