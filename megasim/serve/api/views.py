"""The four public views as tables: filtered, in a stable order, page by page or whole."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from inspect import Parameter, Signature, signature
from typing import Annotated, Any
from urllib.parse import urlencode

from fastapi import APIRouter, Depends, Query, Request, Response

from megasim.serve.api.descriptions import problems, tables
from megasim.serve.dependencies import ReadStore
from megasim.serve.formats import Format, format_of, table_response
from megasim.serve.guarded_queries import Rows
from megasim.serve.service import service_of
from megasim.serve.view_queries import VIEWS, row_mark, row_place, view_query
from megasim.workspace import Workspace

_TYPES = {int: "int64", float: "double"}

router = APIRouter(prefix="/api/v1", tags=["views"])

_JSON_ROWS = 1_000
_MOST_JSON_ROWS = 100_000
_PURPOSES = {
    "models": "One row for each model",
    "layers": "One row for each model and key",
    "layer_distances": "One row for each compared pair and key",
    "component_distances": "One row for each pair and component",
}
_PAIR = {"model_a": "sd14", "model_b": "sd15", "component": "unet"}
_ROWS: dict[str, dict[str, Any]] = {
    "models": {"name": "sd14", "family": "SD1", "keys": 1131, "unread": 0},
    "layers": {"model": "sd14", "key": "first_stage_model.quant_conv.bias", "l2": 0.81},
    "layer_distances": {**_PAIR, "canonical_key": "out.2.weight", "status": "changed", "l2": 1.5},
    "component_distances": {**_PAIR, "keys_compared": 686, "changed": 686, "l2": 133.5},
}
_EXAMPLES: dict[str, dict[str, Any]] = {
    view: {
        "columns": [
            {"name": name, "type": _TYPES.get(type(v), "string")} for name, v in row.items()
        ],
        "sql": view_query(view, {}, limit=1),
        "next": None,
        "rows": [row],
    }
    for view, row in _ROWS.items()
}


class Paging:
    """How many rows are asked for, and after which."""

    def __init__(
        self,
        limit: Annotated[
            int | None,
            Query(
                ge=1,
                le=_MOST_JSON_ROWS,
                description=f"The most rows; {_JSON_ROWS:,} in JSON, all in other formats.",
            ),
        ] = None,
        after: Annotated[
            str, Query(description="The mark of the row before the first, as `next` has it.")
        ] = "",
    ) -> None:
        self.limit, self.after = limit, after


Page = Annotated[Paging, Depends()]


def view_response(
    request: Request,
    store: Workspace,
    view: str,
    filters: Mapping[str, Sequence[str]],
    paging: Paging,
    ending: str = "",
) -> Response:
    """Return rows of a view in the format that is asked for."""
    form = format_of(request, ending)
    settings = service_of(request).settings
    after = row_place(view, paging.after) if paging.after else []
    if form == "json":
        return _page(request, store, view, filters, after, paging.limit or _JSON_ROWS)
    sql = view_query(view, filters, limit=paging.limit, after=after)
    rows = Rows(store.store.connection, sql, settings.sql_memory, settings.sql_seconds)
    return table_response(rows.batches(), rows.schema, form, name=view)


def _page(
    request: Request,
    store: Workspace,
    view: str,
    filters: Mapping[str, Sequence[str]],
    after: Sequence[str],
    limit: int,
) -> Response:
    """Return a page of rows as JSON, which ends with the address of the next one."""
    sql = view_query(view, filters, limit=limit + 1, after=after)
    settings = service_of(request).settings
    rows = Rows(store.store.connection, sql, settings.sql_memory, settings.sql_seconds)
    import pyarrow as pa  # at the first rows, and not when the service starts

    found = pa.Table.from_batches(list(rows.batches()), rows.schema)
    following = None
    if found.num_rows > limit:
        (last,) = found.slice(limit - 1, 1).to_pylist()
        kept = [(k, v) for k, v in request.query_params.multi_items() if k != "after"]
        asked = urlencode([*kept, ("after", row_mark(view, last))])
        following = f"{request.scope['path']}?{asked}"
    batches = found.slice(0, limit).to_batches()
    shown = view_query(view, filters, limit=limit, after=after)
    beside = {"sql": shown, "next": following}
    return table_response(batches, rows.schema, "json", name=view, beside=beside)


def _handler(view: str) -> Callable[..., Response]:
    """Return the function that answers for a view, with one parameter for each of its filters."""

    def answer(
        request: Request, store: ReadStore, page: Page, ending: str = "", **given: Any
    ) -> Response:
        filters = {name: [v] if isinstance(v, str) and v else v for name, v in given.items()}
        return view_response(request, store, view, filters, page, ending)

    filters = [_parameter(name) for name in VIEWS[view].filters]
    fixed = [
        Parameter("request", Parameter.KEYWORD_ONLY, annotation=Request),
        Parameter("store", Parameter.KEYWORD_ONLY, annotation=ReadStore),
        Parameter("page", Parameter.KEYWORD_ONLY, annotation=Page),
    ]
    # what FastAPI makes the parameters of the request out of
    answer.__signature__ = Signature([*fixed, *filters])  # type: ignore[attr-defined]
    return answer


def _with_ending(answer: Callable[..., Response]) -> Callable[..., Response]:
    def answer_as(ending: Format, **given: Any) -> Response:
        return answer(ending=ending, **given)

    ending = Parameter("ending", Parameter.KEYWORD_ONLY, annotation=Format)
    others = signature(answer).parameters.values()
    answer_as.__signature__ = Signature([ending, *others])  # type: ignore[attr-defined]
    return answer_as


def _parameter(name: str) -> Parameter:
    meaning = "Only rows with this value; several mean any of them."
    kind: Any = list[str]
    default: Any = []
    if name == "q":
        meaning, kind, default = "A part of the text, in whatever case.", str, ""
    elif name == "model":
        meaning = "This model; of a pair, either of the two. Several mean any of them."
    annotation = Annotated[kind, Query(description=meaning)]
    return Parameter(name, Parameter.KEYWORD_ONLY, default=default, annotation=annotation)


for _view, _example in _EXAMPLES.items():
    _responses = tables(_PURPOSES[_view], _example) | problems(304, 400, 404, 406, 408, 413, 503)
    _answer = _handler(_view)
    for _path, _call in ((f"/{_view}", _answer), (f"/{_view}.{{ending}}", _with_ending(_answer))):
        router.get(_path, responses=_responses, summary=_PURPOSES[_view], response_class=Response)(
            _call
        )
