"""Questions over the public views, written as SQL that anybody can run again."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from megasim.serve.refusals import Refusal
from megasim.store.runnable_queries import literal


@dataclass(frozen=True)
class View:
    """A view, and how it is asked.

    Attributes:
        key: expressions that order its rows, each row by other values: what pages stand on.
        filters: name of a parameter to the condition it means, `{}` being the values asked for.
    """

    name: str
    key: tuple[str, ...]
    filters: Mapping[str, str]


def _columns(*names: str) -> dict[str, str]:
    return {name: f"{name} in ({{}})" for name in names}


_EITHER = "(model_a in ({0}) or model_b in ({0}))"
VIEWS = {
    view.name: view
    for view in (
        View(
            "models",
            ("name",),
            _columns("name", "source", "family", "format", "part_role")
            | {"component": "list_has_any(components, [{}])", "dtype": "list_has_any(dtypes, [{}])"}
            | {"q": "contains(lower(concat_ws(' ', name, family, variant, format)), lower({}))"},
        ),
        View(
            "layers",
            ("model", "key"),
            _columns("model", "component", "block", "role", "nature", "dtype", "canonical_key")
            | {"q": "contains(lower(key), lower({}))"},
        ),
        View(
            "layer_distances",
            ("model_a", "model_b", "canonical_key", "coalesce(key_a, '')", "coalesce(key_b, '')"),
            _columns("model_a", "model_b", "component", "block", "role", "nature", "status")
            | _columns("source", "canonical_key")
            | {"model": _EITHER, "q": "contains(lower(canonical_key), lower({}))"},
        ),
        View(
            "component_distances",
            ("model_a", "model_b", "component"),
            _columns("model_a", "model_b", "component", "source") | {"model": _EITHER},
        ),
    )
}


def view_query(
    view: str,
    filters: Mapping[str, Sequence[str]],
    *,
    limit: int | None = None,
    after: Sequence[str] = (),
) -> str:
    """Return the query for the rows of a view, in an order that does not change.

    Args:
        filters: parameter to the values that it may have; a parameter without values is no filter.
        limit: the most rows.
        after: the key of the row before the first.

    >>> print(view_query("models", {"family": ["it's"]}, limit=2))
    select * from models
    where family in ('it''s')
    order by name
    limit 2;
    """
    asked = VIEWS[view]
    conditions = [
        condition.format(literal(values[0]) if name == "q" else ", ".join(map(literal, values)))
        for name, condition in asked.filters.items()
        if (values := filters.get(name))
    ]
    if after:
        conditions.append(f"({', '.join(asked.key)}) > ({', '.join(map(literal, after))})")
    lines = [f"select * from {asked.name}"]
    if conditions:
        lines.append("where " + "\n    and ".join(conditions))
    lines.append(f"order by {', '.join(asked.key)}")
    if limit is not None:
        lines.append(f"limit {limit}")
    return "\n".join(lines) + ";"


def row_mark(view: str, row: Mapping[str, Any]) -> str:
    """Return what names the place of a row, so that the next page begins after it.

    >>> row_place("models", row_mark("models", {"name": "a"}))
    ['a']
    """
    names = (key.removeprefix("coalesce(").partition(",")[0] for key in VIEWS[view].key)
    place = json.dumps([row[name] or "" for name in names], separators=(",", ":"))
    return base64.urlsafe_b64encode(place.encode()).decode().rstrip("=")


def row_place(view: str, mark: str) -> list[str]:
    """Return the key of the row that a mark names.

    Raises:
        Refusal: it was not made by `row_mark` for this view.
    """
    try:
        place = json.loads(base64.urlsafe_b64decode(mark + "=" * (-len(mark) % 4)))
    except ValueError:
        place = None
    if (
        not isinstance(place, list)
        or len(place) != len(VIEWS[view].key)
        or not all(isinstance(part, str) for part in place)
    ):
        raise Refusal(400, "`after` is not the mark of a row", "follow `next` of an answer")
    return place
