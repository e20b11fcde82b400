"""The page of all models: search, facets, health, what was not read, what sharing saves."""

from __future__ import annotations

from collections import Counter
from typing import Annotated, Any

import pandas as pd
from fastapi import APIRouter, Query, Request
from fastapi.responses import HTMLResponse

from megasim.anatomy.classification import component_title
from megasim.findings.health import model_health
from megasim.serve.dependencies import ReadStore, kept
from megasim.serve.pages.addresses import model_address
from megasim.serve.pages.choices import Models, own_query
from megasim.serve.pages.shown_tables import shown_table
from megasim.serve.rendering import page
from megasim.store.runnable_queries import run_query
from megasim.workspace import Workspace

router = APIRouter()

Values = Annotated[list[str], Query()]
_FACETS = ("family", "dtype", "part_role", "component", "health")
_TITLES = {"part_role": "part", "dtype": "stored as"}


@router.get("/models", response_class=HTMLResponse)
def models_page(
    request: Request,
    store: ReadStore,
    q: str = "",
    family: Values = [],  # noqa: B006 - FastAPI copies it
    dtype: Values = [],  # noqa: B006
    part_role: Values = [],  # noqa: B006
    component: Values = [],  # noqa: B006
    health: Values = [],  # noqa: B006
    models: Models = [],  # noqa: B006
) -> HTMLResponse:
    """Return the models that are searched for, and what they take on disk."""
    wanted = {
        "family": family, "dtype": dtype, "part_role": part_role, "component": component,
        "health": health,
    }  # fmt: skip
    rows = kept(request, "models page", lambda: _rows(store))
    found = [
        row
        for row in rows
        if q.lower() in row["text"]
        and (not models or row["name"] in set(models))
        and all(not values or set(values) & row[facet] for facet, values in wanted.items())
    ]
    names = [row["name"] for row in found]
    everything = len(found) == len(rows)
    answer = run_query(store.store, "report_models", models=None if everything else names)
    table = shown_table(
        _frame(found), "Models", sql=answer.sql, to={"name": lambda r: model_address(r["name"])}
    )
    return page(
        request,
        "models.html.j2",
        table=table,
        names=names,
        facets=[
            (name, _TITLES.get(name, name), _counts(rows, name), set(wanted[name]))
            for name in _FACETS
        ],
        q=q,
        models=models,
        total=len(rows),
        sums=_sums(found),
        whole=everything,
        without_models=own_query(request, models=""),
    )


def _rows(store: Workspace) -> list[dict[str, Any]]:
    """Return a row for each model, with what it can be found by."""
    answer = run_query(store.store, "page_sizes").frame
    sizes = {str(row[0]): row[1:] for row in answer.to_numpy(dtype=object).tolist()}
    stored = run_query(store.store, "page_stored_as").frame
    stored_as = dict(zip(stored["model"], map(set, stored["stored_as"]), strict=True))
    odd: dict[str, Counter[str]] = {}
    for note in model_health(store.store):
        odd.setdefault(note.model, Counter())[str(note.kind)] += 1
    rows = []
    for model in store.store.frame("service_models", search="").to_dict("records"):
        name = str(model["name"])
        notes = odd.get(name, Counter())
        health = {kind.replace("_", " ") for kind in notes}
        if model["unread"]:
            health.add("not all was read")
        if model["tier"] in ("header", "sample"):
            health.add(f"read as a {model['tier']}")
        listed = {
            kind: list(model[kind]) if model[kind] is not None else []
            for kind in ("components", "dtypes")
        }
        tensors, shared, distinct = sizes.get(name, (None, None, None))
        texts = (name, model["family"], model["variant"], model["format"])
        rows.append(
            {
                **{str(column): value for column, value in model.items()},
                "text": " ".join(str(text) for text in texts if text).lower(),
                "family": {str(model["family"] or "unknown")},
                "part_role": {str(model["part_role"])},
                "component": {component_title(c) for c in listed["components"]},
                # what is decoded has values of a dtype that the file does not
                "dtype": stored_as.get(name, set(listed["dtypes"])),
                "health": health or {"nothing odd"},
                "tensor_bytes": tensors,
                "shared_bytes": shared,
                "distinct_bytes": distinct,
            }
        )
    return rows


def _frame(rows: list[dict[str, Any]]) -> pd.DataFrame:
    def megabytes(value: int | None) -> float | None:
        return None if value is None or value != value else value / 1e6

    return pd.DataFrame(
        [
            {
                "name": row["name"],
                "family": ", ".join(sorted(row["family"])),
                "format": row["format"],
                "part": ", ".join(sorted(row["part_role"])),
                "stored as": ", ".join(sorted(row["dtype"])),
                "keys": _whole(row["keys"]),
                "parameters": _whole(row["parameters"]),
                "MB on disk": megabytes(row["bytes"]),
                "MB others hold too": megabytes(row["shared_bytes"]),
                "not read": _whole(row["unread"]),
                "health": ", ".join(sorted(row["health"])),
            }
            for row in rows
        ],
        dtype=object,
    )


def _whole(value: Any) -> int | None:
    return None if value is None or value != value or value is pd.NA else int(value)


def _counts(rows: list[dict[str, Any]], facet: str) -> list[tuple[str, int]]:
    counts = Counter(value for row in rows for value in row[facet])
    return sorted(counts.items(), key=lambda item: (-item[1], item[0]))


def _sums(rows: list[dict[str, Any]]) -> dict[str, float]:
    """Return bytes of tensors that are stored plainly, and how many are copies of others."""
    held = [row for row in rows if row["tensor_bytes"] is not None]
    tensors = float(sum(row["tensor_bytes"] for row in held))
    distinct = float(sum(row["distinct_bytes"] for row in held))
    return {"models": len(held), "tensors": tensors, "saved": tensors - distinct}
