"""The page of a map: any two axes, a path, and the verdict of the plane test beside it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated
from urllib.parse import urlencode

from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import HTMLResponse

from megasim.serve.dependencies import ReadStore, kept
from megasim.serve.pages.addresses import model_address, pair_address
from megasim.serve.pages.choices import (
    Models,
    figure_response,
    own_query,
    shown_alike,
)
from megasim.serve.pages.pictures import item_response
from megasim.serve.pages.shown_tables import shown_table
from megasim.serve.rendering import page
from megasim.words import Metric
from megasim.workspace import Workspace

if TYPE_CHECKING:  # at the first map, and not when the service starts
    from megasim.answers.maps import MapView

router = APIRouter()

AXES = ("1,2", "1,3", "2,3")
Axes = Annotated[str, Query(pattern="^[123],[123]$")]
Path = Annotated[list[str], Query(description="Models in their order; or names on lines of text.")]


def path_names(path: list[str]) -> list[str]:
    """Return the models of a path: a parameter may hold several, one on each line."""
    return [line.strip() for text in path for line in text.splitlines() if line.strip()]


def _map(
    request: Request,
    store: Workspace,
    component: str,
    metric: Metric,
    models: list[str],
    path: list[str],
) -> MapView:
    return kept(
        request,
        ("map", component, metric, tuple(models), tuple(path)),
        lambda: store.map(component or None, metric, models=models or None, path=path),
    )


@router.get("/map", response_class=HTMLResponse)
def map_page(
    request: Request,
    store: ReadStore,
    component: str = "",
    metric: Metric = Metric.L2,
    axes: Axes = "1,2",
    models: Models = [],  # noqa: B006 - FastAPI copies it
    path: Path = [],  # noqa: B006
) -> HTMLResponse:
    """Return where the models lie, and whether that is a plane."""
    names = path_names(path)
    view = _map(request, store, component, metric, models, names)
    alike = shown_alike(request, store, component, metric, models, view.models)
    steps = shown_table(
        view.steps(),
        "Steps of the path" if names else "Steps of the spanning tree",
        to={
            "from": lambda row: model_address(row["from"]),
            "to": lambda row: model_address(row["to"]),
            "length": lambda row: pair_address(row["from"], row["to"]),
        },
    )
    # the API takes a parameter for each model of the path
    asked = "&".join(filter(None, [own_query(request, path=""), urlencode({"path": names}, True)]))
    without_axes = "&".join(part for part in asked.split("&") if not part.startswith("axes="))
    data = [
        ("Permanent link", f"/map?{own_query(request)}"),
        ("JSON", f"/api/v1/map?{without_axes}"),
        *alike.pop("queries"),
    ]
    return page(
        request,
        "map.html.j2",
        **alike,
        view=view,
        steps=steps,
        axes=axes,
        all_axes=AXES,
        path=names,
        source=f"/map/picture.json?{asked}",
        data=[*data, ("SVG", f"/map/figure.svg?{without_axes}")],
    )


@router.get("/map/picture.json")
def map_item(
    request: Request,
    store: ReadStore,
    component: str = "",
    metric: Metric = Metric.L2,
    axes: Axes = "1,2",
    models: Models = [],  # noqa: B006
    path: Path = [],  # noqa: B006
) -> Response:
    """Return the picture for the script that draws it."""
    names = path_names(path)
    view = _map(request, store, component, metric, models, names)
    first, second = (int(number) for number in axes.split(","))
    key = ("map picture", component, metric, axes, tuple(models), tuple(names))
    from megasim.plots.interactive_map import map_picture

    return item_response(kept(request, key, lambda: map_picture(view, axes=(first, second))))


@router.get("/map/figure.svg")
def map_figure(
    request: Request,
    store: ReadStore,
    component: str = "",
    metric: Metric = Metric.L2,
    models: Models = [],  # noqa: B006
    path: Path = [],  # noqa: B006
) -> Response:
    """Return the static figure, for slides and papers."""
    names = path_names(path)
    view = _map(request, store, component, metric, models, names)
    return figure_response(request, ("map", component, metric, *models, "", *names), view.plot)
