"""Sessions: how `megasim.connect` reads a store, statement by statement, as of one moment."""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import APIRouter, Request, Response
from fastapi import Path as PathParameter
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, Field

from megasim.errors import UsageError
from megasim.serve.api.descriptions import problems
from megasim.serve.formats import MEDIA_TYPES, arrow_parts, json_text
from megasim.serve.guarded_queries import Rows
from megasim.serve.refusals import Refusal
from megasim.serve.service import service_of
from megasim.serve.sessions import ReadingSession
from megasim.store.connection import migrations

if TYPE_CHECKING:
    import pyarrow as pa

router = APIRouter(prefix="/api/v1/sessions", tags=["sessions"])

_OPENED = {"session": "0123456789abcdef0123456789abcdef", "version": "0.1.0", "schema": 2}
Name = Annotated[str, PathParameter(pattern="^[0-9a-f]{32}$")]


class Statement(BaseModel):
    """A query with its values, and tables that stand for names in it."""

    sql: Annotated[str, Field(examples=["select name from models where name = $name"])]
    values: Annotated[dict[str, Any], Field(max_length=100, examples=[{"name": "sd14"}])] = {}
    tables: Annotated[
        dict[Annotated[str, Field(pattern="^[a-z_]{1,40}$")], str],
        Field(max_length=20, description="Name to an Arrow stream in base64.", examples=[{}]),
    ] = {}


@router.post(
    "",
    status_code=201,
    summary="Begin to read the store as it is now",
    responses={
        201: {"description": "Its name", "content": {"application/json": {"example": _OPENED}}},
        **problems(503),
    },
    response_class=Response,
)
def begin(request: Request) -> Response:
    """Begin a session; it ends by itself when it is not used for two minutes."""
    service = service_of(request)
    name, session = service.sessions.begin(is_owner=bool(request.state.is_owner))
    told = {
        "session": name,
        "version": service.version,
        "schema": migrations()[-1][0],
        "left_out": list(session.store.left_out),
    }
    return Response(json_text(told), 201, media_type="application/json")


@router.delete(
    "/{name}",
    status_code=204,
    summary="End a session",
    responses={204: {"description": "It has ended"}, **problems()},
    response_class=Response,
)
def end(request: Request, name: Name) -> Response:
    """End a session, whether it is there or not."""
    service_of(request).sessions.end(name)
    return Response(status_code=204)


@router.post(
    "/{name}/query",
    summary="The rows of a query, as an Arrow stream that keeps all types",
    responses={
        200: {
            "description": "The rows",
            "content": {MEDIA_TYPES["arrow"]: {"schema": {"type": "string", "format": "binary"}}},
        },
        **problems(400, 404, 408, 409, 413, 503),
    },
    response_class=Response,
)
def query(request: Request, name: Name, body: Statement) -> Response:
    """Run one query that reads, under the same rules as `/api/v1/sql`."""
    session = service_of(request).sessions.session(name)
    tables = {table: _table(text) for table, text in body.tables.items()}
    _begin_asking(session)
    try:
        rows = session.rows(body.sql, body.values, tables)
    except BaseException:
        session.lock.release()
        raise
    parts = _parts(session, rows, tables)
    return StreamingResponse(parts, media_type=MEDIA_TYPES["arrow"])


@router.put(
    "/{name}/unsaved",
    status_code=204,
    summary="Let estimates be added, for this session alone",
    responses={204: {"description": "They can be"}, **problems(404, 409)},
    response_class=Response,
)
def begin_unsaved(request: Request, name: Name) -> Response:
    """From here on estimates can be added for the answers of this session; nothing is kept."""
    return _done(request, name, ReadingSession.begin_unsaved)


@router.delete(
    "/{name}/unsaved",
    status_code=204,
    summary="Take back what was added",
    responses={204: {"description": "It is taken back"}, **problems(404, 409)},
    response_class=Response,
)
def end_unsaved(request: Request, name: Name) -> Response:
    """Take back the estimates that were added."""
    return _done(request, name, ReadingSession.end_unsaved)


def _done(request: Request, name: str, work: Callable[[ReadingSession], None]) -> Response:
    session = service_of(request).sessions.session(name)
    _begin_asking(session)
    try:
        work(session)
    finally:
        session.lock.release()
    return Response(status_code=204)


def _begin_asking(session: ReadingSession) -> None:
    if not session.lock.acquire(blocking=False):
        raise Refusal(409, "this session is being asked something", "ask one thing at a time")


def _parts(session: ReadingSession, rows: Rows, tables: Mapping[str, pa.Table]) -> Iterator[bytes]:
    try:
        yield from arrow_parts(rows.batches(), rows.schema)
    finally:
        session.ended(tables)
        session.lock.release()


def _table(text: str) -> pa.Table:
    import pyarrow as pa

    try:
        return pa.ipc.open_stream(base64.b64decode(text, validate=True)).read_all()
    except (ValueError, OSError, pa.ArrowException):
        raise UsageError("a table is no Arrow stream in base64", "see megasim.connect") from None
