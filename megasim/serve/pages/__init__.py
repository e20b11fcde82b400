"""The pages that people explore with. How one is added: see `megasim.serve`."""

from __future__ import annotations

from fastapi import APIRouter

from megasim.serve.pages import models

# (path, title in the navigation, router), in the order of the navigation.
PAGES: tuple[tuple[str, str, APIRouter], ...] = (("/models", "Models", models.router),)
