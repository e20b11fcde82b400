"""The pages that people explore with. How one is added: see `megasim.serve`."""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module
from typing import NamedTuple

from fastapi import APIRouter

from megasim.serve.answers_apart import is_made_apart


class Page(NamedTuple):
    """A page: its path, and its title in the navigation or ""."""

    path: str
    title: str

    def router(self) -> APIRouter:
        """Return its routes, out of the file of its name: imported where they are needed."""
        found = import_module(f"{__name__}.{self.path[1:]}").router
        assert isinstance(found, APIRouter)
        return found


# In the order of the navigation.
PAGES = (
    Page("/models", "Models"),
    Page("/matrix", "Matrix"),
    Page("/map", "Map"),
    Page("/lineage", "Lineage"),
    Page("/pair", "Pair"),
    Page("/identify", "Identify"),
    Page("/sql", "SQL"),
    Page("/jobs", "Jobs"),
    Page("/model", ""),
    Page("/pictures", ""),
)


def routers(*, apart: bool | None = None) -> Iterator[APIRouter]:
    """Yield the routes of the pages; of those made apart, or of the others, or of all."""
    for page in PAGES:
        if apart is None or is_made_apart(page.path) == apart:
            yield page.router()
