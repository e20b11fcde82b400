"""Where a model changed: its layers summed up by block or role, with bars for a terminal."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd

from megasim.anatomy.block_order import block_place
from megasim.anatomy.classification import component_title
from megasim.answers.layers import pair_layers
from megasim.errors import UsageError, printable
from megasim.findings.verdicts import component_order
from megasim.store.rows import Store
from megasim.wording.html import html_lines, html_table
from megasim.wording.sentences import counted, four_digits
from megasim.words import MISSING, TIERS, Status

By = Literal["block", "role", "layer"]
GROUPINGS: tuple[By, ...] = ("block", "role", "layer")

_BAR = 24  # characters of the longest bar
_EIGHTHS = " ▏▎▍▌▋▊▉"
_OTHERS = "others"  # what a layer without a block or role counts among
_NO_DISTANCE = (*MISSING, Status.SHAPE_MISMATCH, Status.NON_FINITE)


@dataclass(frozen=True)
class Changes:
    """How much of the change from one model to another is where.

    Attributes:
        model_a, model_b: in the order they were named.
        by: "block", "role" or "layer".
        table: a row for each component and group: component; the group, called after `by`; keys
            (that either model has), changed (not equal in any tier), without_distance (missing in
            one, of another shape, or with NaN or inf); l2; share, of the squared L2 of the
            component; relative, the L2 over the norm of the group in a. NULL where there is none.
    """

    model_a: str
    model_b: str
    by: By
    table: pd.DataFrame

    def __repr__(self) -> str:
        names = f"{printable(self.model_a, 80)} → {printable(self.model_b, 80)}"
        return f"<changes by {self.by}, {names}: {len(self.table)} rows>"

    def _repr_html_(self) -> str:
        tables = [
            html_table(table, headline) if len(table) else html_lines([headline])
            for headline, table in self.sections()
        ]
        return "".join([html_lines([repr(self)[1:-1]]), *tables])

    def to_frame(self) -> pd.DataFrame:
        """Return the table."""
        return self.table

    def to_json(self) -> dict[str, Any]:
        """Return plain data; what is missing is None."""
        rows = self.table.astype(object).where(self.table.notna(), None)
        return {
            "model_a": self.model_a,
            "model_b": self.model_b,
            "by": self.by,
            "rows": rows.to_dict(orient="records"),
        }

    def sections(self) -> list[tuple[str, pd.DataFrame]]:
        """Return for each component a headline, and a table with bars where something changed.

        A table has no rows where the component is equal in all its keys.
        """
        return [
            (_headline(str(component), rows), _with_bars(rows, self.by))
            for component, rows in self.table.groupby("component", sort=False)
        ]


def load_changes(
    store: Store, a: str, b: str, by: By = "block", component: str | None = None
) -> Changes:
    """Return how much of the change from a to b is in which block, role or layer.

    Blocks stand in the order of the network, roles and layers by their share.

    Raises:
        UsageError, NoAnswerError: see `pair_layers`; or no such grouping.
    """
    if by not in GROUPINGS:
        raise UsageError(f"no such grouping: {printable(by)!r}", f"choose {', '.join(GROUPINGS)}")
    return changes_of(pair_layers(store, a, b, component), a, b, by)


def changes_of(layers: pd.DataFrame, a: str, b: str, by: By) -> Changes:
    """Return the same of layers that are known already, as `pair_layers` returns them."""
    layers = layers.copy()
    column = layers["canonical_key" if by == "layer" else by]
    layers[by] = column.replace("", None).fillna(_OTHERS)
    counted_in = layers["is_measured"].astype(bool) & layers["l2"].notna()
    layers["squared"] = (layers["l2"] ** 2).where(counted_in)
    layers["squared_norm"] = (layers["norm"] ** 2).where(counted_in)
    layers["has_none"] = layers["status"].isin(_NO_DISTANCE)
    layers["is_changed"] = ~layers["status"].isin(TIERS) & ~layers["has_none"]
    found = layers.groupby(["component", by], sort=False)
    sums = found[["squared", "squared_norm", "share"]].sum(min_count=1)
    l2, norm = np.sqrt(sums["squared"]), np.sqrt(sums["squared_norm"])
    table = pd.DataFrame(
        {
            "keys": found.size(),
            "changed": found["is_changed"].sum(),
            "without_distance": found["has_none"].sum(),
            "l2": l2,
            "share": sums["share"],
            "relative": l2 / norm.where(norm > 0),
        }
    ).reset_index()
    return Changes(a, b, by, _in_order(table, by))


def _in_order(table: pd.DataFrame, by: By) -> pd.DataFrame:
    """Return the rows by component; blocks along the network, roles and layers by their share."""
    order = component_order()

    def place(row: Any) -> tuple[Any, ...]:
        component, group = row["component"], row[by]
        l2 = -1.0 if np.isnan(row["l2"]) else row["l2"]
        inside = (group == _OTHERS, block_place(group)) if by == "block" else (-l2, group)
        return order.get(component, -1), component, inside

    places = sorted(range(len(table)), key=lambda i: place(table.iloc[i]))
    return table.iloc[places].reset_index(drop=True)


def _headline(component: str, rows: pd.DataFrame) -> str:
    """Return what is said of a component before its table."""
    title, keys, changed = component_title(component), rows["keys"].sum(), rows["changed"].sum()
    without = int(rows["without_distance"].sum())
    compared = counted(int(keys) - without, "key")
    beside = f"; {counted(without, 'key')} without a distance" if without else ""
    if not changed:
        return f"{title}: no key changed, of {compared}{beside}"
    l2 = float(np.sqrt((rows["l2"] ** 2).sum()))
    return f"{title}: L2 {four_digits(l2)}, {int(changed):,} of {compared} changed{beside}"


def _with_bars(rows: pd.DataFrame, by: By) -> pd.DataFrame:
    """Return the rows of a component for a terminal; none where nothing changed."""
    if not rows["changed"].sum():
        return rows.iloc[:0]
    largest = rows["share"].max()
    shown = pd.DataFrame(
        {
            by: rows[by],
            "changed": [f"{c} of {n}" for c, n in zip(rows["changed"], rows["keys"], strict=True)],
            "l2": rows["l2"],
            "relative": rows["relative"],
            "share": [None if np.isnan(s) else f"{100 * s:.1f} %" for s in rows["share"]],
            "": [bar(s / largest) if s > 0 else "" for s in rows["share"]],
        }
    )
    # the last column of a table has room for whole keys
    return shown[["l2", "relative", "share", "", by]] if by == "layer" else shown


def bar(length: float) -> str:
    """Return a bar of block characters; `length` from 0 to 1.

    >>> bar(1.0) == "█" * 24, bar(0.5) == "█" * 12, bar(0.02)
    (True, True, '▌')
    """
    eighths = max(round(8 * _BAR * length), 1)
    return "█" * (eighths // 8) + _EIGHTHS[eighths % 8].strip()
