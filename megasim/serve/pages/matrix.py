"""The page of a distance matrix: zoomed, ordered, each pair told, a set of models selected."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import HTMLResponse

from megasim.answers.matrices import MatrixView
from megasim.matrix.distance_matrix import coverage_note
from megasim.plots.interactive_matrix import ORDERS, matrix_picture
from megasim.serve.dependencies import ReadStore, kept
from megasim.serve.pages.choices import (
    Models,
    figure_response,
    own_query,
    shown_alike,
)
from megasim.serve.pages.pictures import item_response
from megasim.serve.rendering import page
from megasim.words import Metric
from megasim.workspace import Workspace

router = APIRouter()
Order = Annotated[str, Query(pattern="^(cluster|name|date)$")]


def _matrix(
    request: Request, store: Workspace, component: str, metric: Metric, models: list[str]
) -> MatrixView:
    return kept(
        request,
        ("matrix", component, metric, tuple(models), False),
        lambda: store.matrix(component or None, metric, models=models or None),
    ).require(2)


@router.get("/matrix", response_class=HTMLResponse)
def matrix_page(
    request: Request,
    store: ReadStore,
    component: str = "",
    metric: Metric = Metric.L2,
    order: Order = "cluster",
    models: Models = [],  # noqa: B006 - FastAPI copies it
) -> HTMLResponse:
    """Return all pairs of models at once, as one picture."""
    view = _matrix(request, store, component, metric, models)
    alike = shown_alike(request, store, component, metric, models, view.models)
    asked = own_query(request)
    data = [
        ("Permanent link", f"/matrix?{asked}"),
        ("JSON", f"/api/v1/matrix?{own_query(request, order='')}"),
        *alike.pop("queries"),
    ]
    if len(view.models) <= 300:
        data.append(("SVG", f"/matrix/figure.svg?{asked}"))
    return page(
        request,
        "matrix.html.j2",
        **alike,
        view=view,
        note=coverage_note(view),
        order=order,
        orders=ORDERS,
        source=f"/matrix/picture.json?{asked}",
        data=data,
    )


@router.get("/matrix/picture.json")
def matrix_item(
    request: Request,
    store: ReadStore,
    component: str = "",
    metric: Metric = Metric.L2,
    order: Order = "cluster",
    models: Models = [],  # noqa: B006
) -> Response:
    """Return the picture for the script that draws it."""
    view = _matrix(request, store, component, metric, models)

    def drawn():  # type: ignore[no-untyped-def]
        dates = None
        if order == "date":
            names = {number: name for name, number in store.store.model_ids().items()}
            dates = {names[i]: at for i, at in store.store.rows("ingest_times") if i in names}
        return matrix_picture(view, order=order, dates=dates)  # type: ignore[arg-type]

    return item_response(
        kept(request, ("matrix picture", component, metric, order, tuple(models)), drawn)
    )


@router.get("/matrix/figure.svg")
def matrix_figure(
    request: Request,
    store: ReadStore,
    component: str = "",
    metric: Metric = Metric.L2,
    models: Models = [],  # noqa: B006
) -> Response:
    """Return the static figure, for slides and papers."""
    view = _matrix(request, store, component, metric, models)
    return figure_response(request, ("matrix", component, metric, *models), view.heatmap)
