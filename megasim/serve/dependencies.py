"""What pages and the API are handed: a store to read, and answers that are kept."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator
from typing import Annotated, TypeVar

from fastapi import Depends, Request, Response

from megasim.errors import printable
from megasim.serve.answers_apart import asked_of
from megasim.serve.refusals import NotModified, Refusal
from megasim.serve.service import answering_of
from megasim.workspace import Workspace

T = TypeVar("T")


def _read_store(request: Request, response: Response) -> Iterator[Workspace]:
    service = answering_of(request)
    with service.reading_at() as (workspace, revision):
        request.state.revision = revision
        scope = request.scope
        asked = asked_of(scope["path"], scope["query_string"], request.headers.get("accept", ""))
        etag = service.etag(workspace, revision, *asked)
        if request.method in ("GET", "HEAD"):
            # weak in comparison: what lies between may have compressed the answer
            held = request.headers.get("if-none-match", "").replace("W/", "")
            if etag in (one.strip() for one in held.split(",")):
                raise NotModified(etag)
            request.state.etag = etag
        yield workspace


def only_described(request: Request) -> None:
    """Refuse parameters that the description of the API does not name: a slip is no filter.

    Raises:
        Refusal: a parameter is unknown; the remedy names those that there are.
    """
    path = getattr(request.scope.get("route"), "path", "")
    described = request.app.openapi()["paths"].get(path, {}).get(request.method.lower())
    if described is None:
        return
    known = {p["name"] for p in described.get("parameters", ()) if p["in"] == "query"}
    unknown = [printable(name, 80) for name in request.query_params if name not in known]
    if unknown:
        what = f"no parameter is called {', '.join(map(repr, unknown[:5]))}"
        remedy = f"there are: {', '.join(sorted(known))}" if known else "leave it out"
        raise Refusal(422, what, remedy)


# A `Workspace` that reads the store as it is now. The answer gets the ETag of that state.
ReadStore = Annotated[Workspace, Depends(_read_store)]


def kept(request: Request, key: Hashable, compute: Callable[[], T]) -> T:
    """Return an answer, computed once for a state of the store. See `Service.kept`.

    It belongs in a request that has a `ReadStore`, which `compute` reads. What it returns is shared
    by threads: it must not be changed.
    """
    return answering_of(request).kept(key, request.state.revision, compute)
