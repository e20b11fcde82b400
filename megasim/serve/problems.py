"""What went wrong, as programs and people are told: RFC 9457, with the remedy."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

import duckdb
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from megasim.errors import (
    CheckpointError,
    MegasimError,
    NoAnswerError,
    StoreLockedError,
    UsageError,
    printable,
)
from megasim.serve.rendering import page
from megasim.store.connection import explained

MEDIA_TYPE = "application/problem+json"


class Refusal(MegasimError):
    """A request that the service does not do, with the status that says so."""

    def __init__(
        self, status: int, message: str, remedy: str = "", *, headers: dict[str, str] | None = None
    ) -> None:
        super().__init__(message, remedy)
        self.status = status
        self.headers = headers or {}


class NotModified(Exception):
    """What the client has is what it would get."""

    def __init__(self, etag: str) -> None:
        super().__init__(etag)
        self.etag = etag


def status_of(error: MegasimError) -> int:
    """Return the HTTP status that says what kind of error it is.

    >>> status_of(UsageError("no such model")), status_of(NoAnswerError("a matrix of one model"))
    (400, 404)
    """
    if isinstance(error, Refusal):
        return error.status
    if isinstance(error, UsageError | CheckpointError):
        return 400
    if isinstance(error, NoAnswerError):
        return 404
    return 503 if isinstance(error, StoreLockedError) else 500


def as_megasim_error(error: Exception) -> MegasimError:
    """Return an error of the database or of ours as one that names a remedy."""
    if isinstance(error, MegasimError):
        return error
    if isinstance(error, duckdb.InterruptException):
        return Refusal(503, "the query was stopped", "ask for less, or try again later")
    if isinstance(error, duckdb.OutOfMemoryException):
        return Refusal(503, "the answer needs more memory than there is", "ask for less")
    assert isinstance(error, duckdb.Error)
    return explained(error)


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
