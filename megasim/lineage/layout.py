"""Where each model of a lineage is drawn: time flows to the right, families stand below another."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from megasim.lineage.result import Edge, Lineage

FAMILY_GAP = 1.6


@dataclass(frozen=True)
class TreeLayout:
    """Places in columns and rows.

    Attributes:
        places: model → (column, row); column 0 holds the bases, rows grow downwards.
        headings: for each family its title and row.
        trunk: for each model that is not a base, the edge that it hangs on in the drawing.
        columns: number of columns.
        rows: height in rows.
    """

    places: dict[str, tuple[int, float]]
    headings: tuple[tuple[str, float], ...]
    trunk: dict[str, Edge]
    columns: int
    rows: float


def lay_out(lineage: Lineage, *, outline: bool = False) -> TreeLayout:
    """Return a tidy tree of each family, models in the column after their last parent.

    Each model stands beside the edge that says most of it: its only one, or that of the
    heaviest parent. A parent stands in the middle of what hangs on it; or, as an outline, in a
    row of its own above it, so that columns may be narrower than what is written in them.
    """
    into: dict[str, list[Edge]] = {}
    for edge in lineage.edges:
        into.setdefault(edge.child, []).append(edge)
    trunk = {
        child: max(edges, key=lambda e: (-1.0 if e.weight != e.weight else e.weight, e.parent))
        for child, edges in into.items()
    }
    column: dict[str, int] = {}

    def column_of(model: str) -> int:
        # Depth by a stack: a line of hundreds of epochs is deeper than Python's recursion.
        stack = [model]
        while stack:
            top = stack[-1]
            parents = [e.parent for e in into.get(top, ())]
            waiting = [p for p in parents if p not in column]
            if waiting and len(stack) <= len(into) + 1:
                stack.extend(waiting)
                continue
            column[top] = 1 + max((column.get(p, -1) for p in parents), default=-1)
            stack.pop()
        return column[model]

    hanging: dict[str, list[str]] = {}
    for child, edge in trunk.items():
        hanging.setdefault(edge.parent, []).append(child)
    places: dict[str, tuple[int, float]] = {}
    headings: list[tuple[str, float]] = []
    row = 0.0
    for number, family in enumerate(f for f in lineage.families if len(f.models) > 1):
        headings.append((f"family {number + 1}: {len(family.models)} models", row))
        row += 1.0
        tops = [m for m in family.models if m not in trunk]
        tops.sort(key=lambda m: (m != family.root, m))
        for top in tops:
            row = _place(top, hanging, places, row, column_of, outline)
        row += FAMILY_GAP - 1
    for heading, alone in (
        ("related to no other", lineage.unrelated),
        ("compared with no other", lineage.uncompared),
    ):
        if alone:
            headings.append((f"{heading}: {len(alone)}", row))
            for model in alone:
                row += 1.0
                places[model] = (0, row)
            row += FAMILY_GAP
    columns = 1 + max((c for c, _ in places.values()), default=0)
    return TreeLayout(places, tuple(headings), trunk, columns, row)


def _place(
    top: str,
    hanging: dict[str, list[str]],
    places: dict[str, tuple[int, float]],
    row: float,
    column_of: Callable[[str], int],
    outline: bool,
) -> float:
    """Give rows to a model and all that hangs on it; return the next free row."""
    order: list[str] = []
    stack = [top]
    while stack:
        model = stack.pop()
        order.append(model)
        stack.extend(sorted(hanging.get(model, ()), reverse=True))
    rows: dict[str, float] = {}
    for model in order:
        if outline or model not in hanging:
            rows[model] = row
            row += 1
    for model in reversed(order):
        below = [rows[m] for m in hanging.get(model, ())]
        if below and not outline:
            rows[model] = (min(below) + max(below)) / 2
    for model in order:
        places[model] = (column_of(model), rows[model])
    return row
