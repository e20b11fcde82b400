"""The pages that people explore with. How one is added: see `megasim.serve`."""

from __future__ import annotations

from fastapi import APIRouter

from megasim.serve.pages import (
    identify,
    jobs,
    lineage,
    map,
    matrix,
    model,
    models,
    pair,
    pictures,
    sql,
)

# (path, title in the navigation, router), in the order of the navigation; those without a title
# are not in it.
PAGES: tuple[tuple[str, str, APIRouter], ...] = (
    ("/models", "Models", models.router),
    ("/matrix", "Matrix", matrix.router),
    ("/map", "Map", map.router),
    ("/lineage", "Lineage", lineage.router),
    ("/pair", "Pair", pair.router),
    ("/identify", "Identify", identify.router),
    ("/sql", "SQL", sql.router),
    ("/jobs", "Jobs", jobs.router),
    ("/model", "", model.router),
    ("/pictures", "", pictures.router),
)
