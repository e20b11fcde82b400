"""The scripts of interactive pictures, out of megasim's and Bokeh's own packages."""

from __future__ import annotations

import json
import threading
from importlib import import_module

from fastapi import APIRouter, Response

from megasim.plots.figure_files import figure_variables
from megasim.plots.interactive import InteractivePicture, bokeh_script, picture_script

router = APIRouter(prefix="/pictures")

_SCRIPT = "text/javascript; charset=utf-8"


@router.get("/bokeh.js")
def bokeh() -> Response:
    """Return BokehJS."""
    return Response(bokeh_script(), media_type=_SCRIPT)


@router.get("/interactive.js")
def interactive() -> Response:
    """Return the script that makes pictures answer."""
    return Response(picture_script(), media_type=_SCRIPT)


@router.get("/figures.css")
def figures() -> Response:
    """Return the colours of static figures, light and dark."""
    light, dark = figure_variables(dark=False), figure_variables(dark=True)
    text = f":root {{ {light} }}\n@media (prefers-color-scheme: dark) {{ :root {{ {dark} }} }}\n"
    return Response(text, media_type="text/css; charset=utf-8")


def warm_up() -> None:
    """Import beside the service what the first picture would wait for a second for."""
    threading.Thread(target=import_module, args=("bokeh.plotting",), daemon=True).start()


def item_response(picture: InteractivePicture) -> Response:
    """Return what a picture holds, for the script to draw."""
    return Response(picture.item, media_type="application/json")


def set_attribute(links: list[tuple[str, str]]) -> str:
    """Return the pages that take over a set of models, as the script reads them."""
    return json.dumps(links)
