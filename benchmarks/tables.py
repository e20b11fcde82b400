"""Rows of measurements as Markdown tables."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

from benchmarks.measure import Row


def show_rows(rows: Sequence[Row]) -> None:
    """Print the rows of each kind as a table."""
    for what, group in groupby(rows, key=lambda row: row["what"]):
        found = [{k: _text(v) for k, v in row.items() if k != "what"} for row in group]
        print(f"\n{what}\n")
        print("| " + " | ".join(found[0]) + " |")
        print("|" + "---|" * len(found[0]))
        for row in found:
            print("| " + " | ".join(row.values()) + " |", flush=True)


def _text(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.4g}" if abs(value) < 1000 else f"{value:,.0f}"
    return f"{value:,}" if isinstance(value, int) else str(value)
