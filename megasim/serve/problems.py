"""What went wrong, as programs and people are told: RFC 9457, with the remedy."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from megasim.errors import MegasimError, printable
from megasim.serve.refusals import Refusal, status_of
from megasim.serve.rendering import page

MEDIA_TYPE = "application/problem+json"


def problem(request: Request, error: MegasimError) -> Response:
    """Return an error as a page to a browser that asked for one, else as problem+json."""
    status = status_of(error)
    headers = dict(error.headers) if isinstance(error, Refusal) else {}
    title = HTTPStatus(status).phrase
    if wants_page(request):
        return page(
            request,
            "problem.html.j2",
            status_code=status,
            headers=headers,
            status=status,
            title=title,
            message=error.message,
            remedy=error.remedy,
        )
    body: dict[str, Any] = {
        "type": "about:blank",
        "title": title,
        "status": status,
        "detail": printable(error.message, 2000),
    }
    if error.remedy:
        body["remedy"] = printable(error.remedy, 2000)
    return JSONResponse(body, status, headers, MEDIA_TYPE)


def wants_page(request: Request) -> bool:
    """Whether a person waits for the answer of a request, and not a program."""
    if request.scope["path"].startswith("/api/"):
        return False
    return "text/html" in request.headers.get("accept", "")
