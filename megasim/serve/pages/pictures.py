"""The scripts of interactive pictures, out of megasim's and Bokeh's own packages."""

from __future__ import annotations

import json
from hashlib import blake2b

from fastapi import APIRouter, Request, Response

from megasim.plots.figure_files import figure_variables
from megasim.plots.interactive import (
    InteractivePicture,
    bokeh_script,
    picture_script,
)
from megasim.serve.service import answering_of

router = APIRouter(prefix="/pictures")

_SCRIPT = "text/javascript; charset=utf-8"


def _file(request: Request, content: bytes | str, media_type: str) -> Response:
    """Return a file that does not depend on the store, and is not sent twice."""
    response = Response(content, media_type=media_type)
    held = blake2b(response.body, digest_size=16).hexdigest()
    request.state.etag = answering_of(request).code_etag(request.scope["path"], held)
    return response


@router.get("/bokeh.js")
def bokeh(request: Request) -> Response:
    """Return BokehJS."""
    return _file(request, bokeh_script(), _SCRIPT)


@router.get("/interactive.js")
def interactive(request: Request) -> Response:
    """Return the script that makes pictures answer."""
    return _file(request, picture_script(), _SCRIPT)


@router.get("/figures.css")
def figures(request: Request) -> Response:
    """Return the colours of static figures, light and dark."""
    light, dark = figure_variables(dark=False), figure_variables(dark=True)
    text = f":root {{ {light} }}\n@media (prefers-color-scheme: dark) {{ :root {{ {dark} }} }}\n"
    return _file(request, text, "text/css; charset=utf-8")


def item_response(picture: InteractivePicture) -> Response:
    """Return what a picture holds, for the script to draw."""
    return Response(picture.item, media_type="application/json")


def set_attribute(links: list[tuple[str, str]]) -> str:
    """Return the pages that take over a set of models, as the script reads them."""
    return json.dumps(links)
