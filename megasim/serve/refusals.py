"""What the service does not do, and the HTTP status that says so."""

from __future__ import annotations

import duckdb

from megasim.errors import (
    CheckpointError,
    MegasimError,
    NoAnswerError,
    StoreLockedError,
    UsageError,
)
from megasim.store.connection import explained


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
