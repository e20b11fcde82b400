"""SQL of users over the views."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Request, Response
from pydantic import BaseModel, Field

from megasim.serve.api.descriptions import problems, tables
from megasim.serve.dependencies import ReadStore
from megasim.serve.formats import Format, format_of, table_response
from megasim.serve.guarded_queries import user_rows
from megasim.serve.service import service_of
from megasim.workspace import Workspace

router = APIRouter(prefix="/api/v1", tags=["sql"])

_QUERY = "select name, family from models order by name limit 1"
_SUMMARY = "The result of one query that reads"
_EXAMPLE = {
    "columns": [{"name": "name", "type": "string"}, {"name": "family", "type": "string"}],
    "sql": _QUERY,
    "rows": [{"name": "sd14", "family": "SD1"}],
    "truncated": False,
}
_RESPONSES = tables(_SUMMARY, _EXAMPLE) | problems(304, 400, 404, 406, 408, 413, 503)


class SqlQuery(BaseModel):
    """A query over the views models, layers, layer_distances and component_distances."""

    query: Annotated[str, Field(examples=[_QUERY])]


_Query = Annotated[str, Query(examples=[_QUERY])]


@router.post("/sql", responses=_RESPONSES, summary=_SUMMARY, response_class=Response)
def post_sql(request: Request, store: ReadStore, body: SqlQuery) -> Response:
    """Run one query in the format that `Accept` asks for.

    It reads the store and nothing else: no file, no extension, no setting. Time and memory are
    limited. JSON holds a limited number of rows, and says so; other formats hold all.
    """
    return _answer(request, store, body.query)


@router.post("/sql.{ending}", responses=_RESPONSES, summary=_SUMMARY, response_class=Response)
def post_sql_as(request: Request, store: ReadStore, body: SqlQuery, ending: Format) -> Response:
    """Run one query in the format of the ending."""
    return _answer(request, store, body.query, ending)


@router.get("/sql", responses=_RESPONSES, summary=_SUMMARY, response_class=Response)
def get_sql(request: Request, store: ReadStore, query: _Query) -> Response:
    """Run one query: a permanent link to its result."""
    return _answer(request, store, query)


@router.get("/sql.{ending}", responses=_RESPONSES, summary=_SUMMARY, response_class=Response)
def get_sql_as(request: Request, store: ReadStore, query: _Query, ending: Format) -> Response:
    """Run one query: a permanent link to its result, in the format of the ending."""
    return _answer(request, store, query, ending)


def _answer(request: Request, store: Workspace, query: str, ending: str = "") -> Response:
    form = format_of(request, ending)
    settings = service_of(request).settings
    rows = user_rows(store.store, query, settings)
    if form != "json":
        return table_response(rows.batches(), rows.schema, form, name="query")
    # one row more than is shown tells whether there are more
    found = list(rows.batches(settings.sql_rows + 1))
    total = sum(batch.num_rows for batch in found)
    if total > settings.sql_rows:
        found[-1] = found[-1].slice(0, found[-1].num_rows - 1)
    beside = {"sql": query, "truncated": total > settings.sql_rows}
    return table_response(found, rows.schema, "json", name="query", beside=beside)
