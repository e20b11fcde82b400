"""The page of descent: the tree, the evidence of each step, recipes by block, claims checked."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd
from fastapi import APIRouter, Request, Response
from fastapi.responses import HTMLResponse

from megasim.serve.dependencies import ReadStore, kept
from megasim.serve.pages.addresses import model_address, pair_address
from megasim.serve.pages.choices import (
    Models,
    chosen_component,
    component_choices,
    figure_response,
    own_query,
    set_links,
)
from megasim.serve.pages.pictures import item_response, set_attribute
from megasim.serve.pages.shown_tables import ShownTable, shown_table
from megasim.serve.rendering import page
from megasim.workspace import Workspace

if TYPE_CHECKING:  # at the first tree, and not when the service starts
    from megasim.answers.lineages import LineageView
    from megasim.lineage.claims import CheckedClaim
    from megasim.lineage.recipe_result import Recipe

router = APIRouter()


def _lineage(
    request: Request, store: Workspace, component: str, models: list[str]
) -> tuple[LineageView, list[CheckedClaim]]:
    return kept(
        request,
        ("lineage", component, tuple(models), True),
        lambda: store.lineage_and_claims(component or None, models=models or None),
    )


@router.get("/lineage", response_class=HTMLResponse)
def lineage_page(
    request: Request,
    store: ReadStore,
    component: str = "",
    models: Models = [],  # noqa: B006 - FastAPI copies it
) -> HTMLResponse:
    """Return who came from whom, how sure that is, and what speaks for it."""
    tree, claims = _lineage(request, store, component, models)
    component = chosen_component(store, component)
    asked = own_query(request)
    return page(
        request,
        "lineage.html.j2",
        tree=tree,
        claims=_claims(claims),
        edges=_edges(tree),
        recipes=[(recipe, _blocks(recipe)) for recipe in tree.recipes if recipe.claimed],
        component=component,
        components=component_choices(request, store),
        models=models,
        source=f"/lineage/picture.json?{asked}",
        sets=set_attribute(set_links(component)),
        data=[
            ("Permanent link", f"/lineage?{asked}"),
            ("JSON", f"/api/v1/lineage?{asked}"),
            ("SVG", f"/lineage/figure.svg?{asked}"),
        ],
    )


def _edges(tree: LineageView) -> ShownTable:
    rows = [
        (
            *(edge.parent, edge.child, str(edge.kind), edge.length, edge.weight, edge.confidence),
            *("yes" if edge.decided else "no", edge.edge_confidence),
            "; ".join(rival.sentence() for rival in edge.rivals),
            "; ".join(f"{e.name}: {e.text}" for e in edge.evidence),
        )
        for edge in tree.edges
    ]
    columns = ["from", "to", "kind", "length", "weight", "confidence", "decided"]
    columns += ["edge confidence", "rivals", "evidence"]
    return shown_table(
        pd.DataFrame(rows, columns=columns),
        "Steps and their evidence",
        to={
            "from": lambda row: model_address(row["from"]),
            "to": lambda row: model_address(row["to"]),
            "length": lambda row: pair_address(row["from"], row["to"]),
        },
    )


def _blocks(recipe: Recipe) -> ShownTable | None:
    if not recipe.blocks:
        return None
    frame = pd.DataFrame(
        [(b.block or "others", *b.weights, b.unexplained) for b in recipe.blocks],
        columns=["block", *(p.model for p in recipe.parents), "unexplained"],
    )
    return shown_table(frame, f"Weights by block of {recipe.model}")


def _claims(claims: list[CheckedClaim]) -> ShownTable | None:
    if not claims:
        return None
    order = {"contradicted": 0, "confirmed": 1}
    some = sorted(claims, key=lambda c: order.get(str(c.verdict), 2))
    rows = [(c.claim.model, c.claim.sentence(), str(c.verdict), c.reason) for c in some]
    return shown_table(
        pd.DataFrame(rows, columns=["model", "claim", "verdict", "reason"]),
        "What the metadata claims, checked against the weights",
        to={"model": lambda row: model_address(row["model"])},
    )


@router.get("/lineage/picture.json")
def lineage_item(
    request: Request,
    store: ReadStore,
    component: str = "",
    models: Models = [],  # noqa: B006
) -> Response:
    """Return the picture for the script that draws it."""
    tree, _ = _lineage(request, store, component, models)
    key = ("lineage picture", component, tuple(models))
    from megasim.plots.interactive_lineage import lineage_picture

    return item_response(kept(request, key, lambda: lineage_picture(tree)))


@router.get("/lineage/figure.svg")
def lineage_figure(
    request: Request,
    store: ReadStore,
    component: str = "",
    models: Models = [],  # noqa: B006
) -> Response:
    """Return the static figure, for slides and papers."""
    tree, _ = _lineage(request, store, component, models)
    return figure_response(request, ("lineage", component, *models), tree.plot)
