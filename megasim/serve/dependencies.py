"""What pages and the API are handed: a store to read, and answers that are kept."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator
from typing import Annotated, TypeVar

from fastapi import Depends, Request, Response

from megasim.serve.refusals import NotModified
from megasim.serve.service import service_of
from megasim.workspace import Workspace

T = TypeVar("T")


def _read_store(request: Request, response: Response) -> Iterator[Workspace]:
    service = service_of(request)
    with service.reading_at() as (workspace, revision):
        request.state.revision = revision
        accept = request.headers.get("accept", "")
        etag = service.etag(workspace, revision, request.scope["path"], request.url.query, accept)
        if request.method in ("GET", "HEAD"):
            # weak in comparison: what lies between may have compressed the answer
            asked = request.headers.get("if-none-match", "").replace("W/", "")
            if etag in (one.strip() for one in asked.split(",")):
                raise NotModified(etag)
            request.state.etag = etag
        yield workspace


# A `Workspace` that reads the store as it is now. The answer gets the ETag of that state.
ReadStore = Annotated[Workspace, Depends(_read_store)]


def kept(request: Request, key: Hashable, compute: Callable[[], T]) -> T:
    """Return an answer, computed once for a state of the store. See `Service.kept`.

    It belongs in a request that has a `ReadStore`, which `compute` reads. What it returns is shared
    by threads: it must not be changed. Where it is of an earlier state, because a job is saving,
    the response gets no ETag, and a page says so.
    """
    found, age = service_of(request).kept(key, request.state.revision, compute)
    if age is not None:
        request.state.etag = None
        request.state.age = max(age, getattr(request.state, "age", 0.0))
    return found
