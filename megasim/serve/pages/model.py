"""The page of a model: what it holds, what is odd about it, who is near, who holds the same."""

from __future__ import annotations

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse

from megasim.findings.component_groups import group_sentences
from megasim.findings.health import metadata_claims, model_health
from megasim.serve.dependencies import ReadStore, kept
from megasim.serve.pages.addresses import model_address, pair_address
from megasim.serve.pages.choices import chosen_component, stored_components
from megasim.serve.pages.shown_tables import shown_table
from megasim.serve.rendering import page
from megasim.store.runnable_queries import run_query

router = APIRouter()


@router.get("/model", response_class=HTMLResponse)
def model_page(request: Request, store: ReadStore, name: str) -> HTMLResponse:
    """Return what is known of one model."""
    name = store.store.model_names([name])[0]
    (facts,) = run_query(store.store, "report_models", models=[name]).frame.to_dict("records")
    components = run_query(store.store, "page_model_components", model=name)
    main = stored_components(store, chosen_component(store, ""))
    near = run_query(store.store, "page_model_pairs", model=name, components=main)
    groups = kept(request, "shared groups", store.shared_components)
    return page(
        request,
        "model.html.j2",
        name=name,
        facts=facts,
        health=[note.text for note in model_health(store.store, [name])],
        claims=[(claim.key, claim.value) for claim in metadata_claims(store.store, [name])],
        shared=group_sentences([g for g in groups if name in g.models]),
        components=shown_table(
            components.frame, "What it holds, component by component", sql=components.sql
        ),
        near=shown_table(
            near.frame,
            "The other models, the nearest first",
            sql=near.sql,
            to={
                "other": lambda row: model_address(row["other"]),
                "l2": lambda row: pair_address(name, row["other"]),
            },
        ),
    )
