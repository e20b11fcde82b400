"""The page of SQL: an editor, the cookbook, the columns of the views, and the result."""

from __future__ import annotations

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse
from starlette.exceptions import HTTPException

from megasim.answers.tables import example_table, sql_examples
from megasim.errors import MegasimError
from megasim.serve.dependencies import ReadStore, kept
from megasim.serve.guarded_queries import user_rows
from megasim.serve.pages.addresses import query_links
from megasim.serve.refusals import status_of
from megasim.serve.rendering import page
from megasim.serve.service import service_of
from megasim.store.statements import purpose_of

router = APIRouter()


@router.get("/sql", response_class=HTMLResponse)
def sql_page(
    request: Request, store: ReadStore, query: str = "", example: str = ""
) -> HTMLResponse:
    """Return the first rows of a query that reads; its address is a permanent link."""
    # at the first table, and not when the service starts
    from megasim.serve.pages.shown_tables import MOST_ROWS, shown_table

    cookbook = {name: (purpose_of(sql), _without_comment(sql)) for name, sql in _examples().items()}
    if example:
        if example not in cookbook:
            raise HTTPException(404)
        query = cookbook[example][1]
    columns = kept(request, "columns of views", lambda: example_table(store.store, "columns"))
    table, error = None, None
    if query.strip():
        try:
            rows = user_rows(store.store, query, service_of(request).settings)
            # one more than is shown tells whether there are more
            batches = list(rows.batches(MOST_ROWS + 1))
            frame = rows.schema.empty_table().to_pandas()
            if batches:
                import pyarrow as pa

                frame = pa.Table.from_batches(batches, rows.schema).to_pandas()
            table = shown_table(frame, "Result", links=query_links(query)[:-1])
        except MegasimError as failed:
            error = failed
    return page(
        request,
        "sql.html.j2",
        status_code=200 if error is None else status_of(error),
        asked=query,
        cookbook=cookbook,
        views=[
            (view, rows[["column", "type", "comment"]].to_dict("records"))
            for view, rows in columns.groupby("view", sort=False)
        ],
        table=table,
        more=table is not None and table.total > MOST_ROWS,
        error=error,
    )


def _examples() -> dict[str, str]:
    return sql_examples()


def _without_comment(sql: str) -> str:
    return "\n".join(line for line in sql.splitlines() if not line.startswith("--"))
