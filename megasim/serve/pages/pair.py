"""The page of a pair: what became of each component, and of each layer by block and role."""

from __future__ import annotations

from typing import Annotated
from urllib.parse import urlencode

import pandas as pd
from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import HTMLResponse

from megasim.anatomy.classification import component_title
from megasim.answers.changes import By, changes_of
from megasim.answers.layers import pair_layers
from megasim.errors import NoAnswerError
from megasim.findings.overview import FindingsReport
from megasim.plots.figure_files import figure_bytes, inline_svg
from megasim.serve.dependencies import ReadStore, kept
from megasim.serve.pages.addresses import pair_address, query_links
from megasim.serve.pages.choices import own_query
from megasim.serve.pages.shown_tables import ShownTable, shown_table
from megasim.serve.rendering import page
from megasim.store.runnable_queries import filled_query, run_query
from megasim.workspace import Workspace

router = APIRouter()

SORTS = ("l2", "share", "relative", "l1", "l0", "numel", "canonical_key", "block", "role", "status")
GROUPS: tuple[By, ...] = ("block", "role")
_ROWS = 100
_KEYS = ("key_a", "key_b")
_LAYER_COLUMNS = [
    *("canonical_key", "block", "role", "status", "numel", "l0", "l1", "l2", "share", "relative"),
    *_KEYS,
]
_SIDES = {"canonical_key": "layer", "key_a": "key in a", "key_b": "key in b"}
Sort = Annotated[str, Query(pattern=f"^({'|'.join(SORTS)})$")]


@router.get("/pair", response_class=HTMLResponse)
def pair_page(
    request: Request,
    store: ReadStore,
    a: str = "",
    b: str = "",
    component: str = "",
    sort: Sort = "l2",
    descending: bool = True,
    q: str = "",
    start: Annotated[int, Query(ge=0)] = 0,
    why: bool = False,
) -> HTMLResponse:
    """Return two models: the verdicts, the components, and the layers that changed most."""
    names = list(store.store.model_ids())
    if not (a and b):
        return page(request, "pair_choice.html.j2", names=names, a=a, b=b)
    a, b = store.store.model_names([a])[0], store.store.model_names([b])[0]
    report: FindingsReport = kept(request, ("findings", a, b, ""), lambda: store.findings(a, b))
    components = run_query(store.store, "page_pair_components", path=[a, b])
    rows = components.frame
    layers = _layers_of(request, store, a, b)
    layered = _changed_first(layers)
    chosen = component if component in layered else (layered[0] if layered else "")
    of_component = layers[layers["component"] == chosen]
    sentences = kept(request, ("why", a, b), lambda: store.why(a, b)) if why else None
    return page(
        request,
        "pair.html.j2",
        names=names,
        a=a,
        b=b,
        report=report.pairs[0] if report.pairs else None,
        relations=[relation.text for relation in report.relations],
        why=sentences.sentences if sentences else (),
        components=shown_table(
            rows.drop(columns=["l2_error"]) if not rows["l2_error"].any() else rows,
            "What was compared, component by component",
            sql=components.sql,
            to={
                "component": lambda row: (
                    f"{pair_address(a, b)}&{urlencode({'component': row['component']})}#layers"
                )
            },
        ),
        layered=[(name, component_title(name)) for name in layered],
        component=chosen,
        groups=[_groups(of_component, a, b, chosen, by) for by in GROUPS] if chosen else [],
        layers=_shown_layers(of_component, a, b, chosen, sort, descending, q, start)
        if chosen
        else None,
        sort=sort,
        descending=descending,
        q=q,
        start=start,
        rows=_ROWS,
        sorts=[
            (name, _SIDES.get(name, name), _sort_address(request, name, sort, descending))
            for name in SORTS
        ],
        pages=(
            f"/pair?{own_query(request, start=str(max(start - _ROWS, 0)))}#layers",
            f"/pair?{own_query(request, start=str(start + _ROWS))}#layers",
        ),
        asked=urlencode({"a": a, "b": b}),
        why_address=f"/pair?{own_query(request, why='true')}",
    )


def _layers_of(request: Request, store: Workspace, a: str, b: str) -> pd.DataFrame:
    """Return the layers of a pair; no row where they are not known."""

    def found() -> pd.DataFrame:
        try:
            return pair_layers(store.store, a, b)
        except NoAnswerError:
            return pd.DataFrame({"component": [], "l2": []})

    return kept(request, ("pair layers", a, b), found)


def _changed_first(layers: pd.DataFrame) -> list[str]:
    """Return the components of which layers are known, those that changed most first."""
    most = layers.groupby("component")["l2"].max().fillna(0.0)
    return [str(name) for name in most.sort_values(ascending=False, kind="stable").index]


def _groups(
    layers: pd.DataFrame, a: str, b: str, component: str, by: By
) -> tuple[ShownTable, list[float]]:
    """Return the change by block or role, and how long the bar of each row is, 0 to 1."""
    frame = changes_of(layers, a, b, by).to_frame().drop(columns=["component"])
    largest = frame["share"].max() or 1.0
    asked = urlencode({"a": a, "b": b, "by": by, "component": component})
    table = shown_table(frame, f"Change by {by}", links=[("JSON", f"/api/v1/changes?{asked}")])
    return table, [float(s / largest) if s > 0 else 0.0 for s in frame["share"]]


def _shown_layers(
    frame: pd.DataFrame,
    a: str,
    b: str,
    component: str,
    sort: str,
    descending: bool,
    q: str,
    start: int,
) -> ShownTable:
    if q:
        text = frame[["canonical_key", "block", "role", "status"]].fillna("").agg(" ".join, axis=1)
        frame = frame[text.str.lower().str.contains(q.lower(), regex=False)]
    frame = frame.sort_values(
        [sort, "canonical_key"], ascending=[not descending, True], na_position="last"
    )
    total = len(frame)
    shown = frame.iloc[start : start + _ROWS][_LAYER_COLUMNS]
    # a key is told again only where a file has it under another name
    if all((shown[key].isna() | (shown[key] == shown["canonical_key"])).all() for key in _KEYS):
        shown = shown.drop(columns=list(_KEYS))
    sql = filled_query("page_pair_layers", path=[a, b], components=[component])
    table = shown_table(shown, f"Layers of {component_title(component)}", titles=_SIDES)
    return ShownTable(table.caption, table.columns, table.rows, total, sql, tuple(query_links(sql)))


def _sort_address(request: Request, name: str, sort: str, descending: bool) -> str:
    """Return the page sorted by a column; once more, the other way round."""
    down = not descending if name == sort else name not in ("canonical_key", "block", "role")
    asked = own_query(request, sort=name, descending=str(down).lower(), start="")
    return f"/pair?{asked}#layers"


@router.get("/pair/histogram.svg")
def pair_histogram(
    request: Request, store: ReadStore, a: str, b: str, component: str = ""
) -> Response:
    """Return the static figure, for slides and papers."""
    drawn = kept(
        request,
        ("histogram file", a, b, component),
        lambda: figure_bytes(store.histogram(a, b, component or None), "svg"),
    )
    return Response(drawn, media_type="image/svg+xml")


@router.get("/pair/histogram", response_class=HTMLResponse)
def inline_histogram(
    request: Request, store: ReadStore, a: str, b: str, component: str = ""
) -> HTMLResponse:
    """Return the same within the page, in its colours; the page asks once it is looked at."""

    def drawn() -> str:
        try:
            figure = store.histogram(a, b, component or None)
        except NoAnswerError:
            return ""
        label = f"How the distances of the layers of {component} spread"
        return inline_svg(figure_bytes(figure, "svg"), label)

    return HTMLResponse(kept(request, ("histogram", a, b, component), drawn))
