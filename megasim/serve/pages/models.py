"""The page of all models: search, sizes, what could not be read."""

from __future__ import annotations

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse

from megasim.serve.dependencies import ReadStore
from megasim.serve.rendering import page

router = APIRouter()


@router.get("/models", response_class=HTMLResponse)
def models_page(request: Request, store: ReadStore, q: str = "") -> HTMLResponse:
    """Return the models whose name, family or format holds a text."""
    found = store.store.frame("service_models", search=q)
    return page(request, "models.html.j2", models=found.to_dict("records"), q=q)
