"""What is unchanged, at a glance: pairs × components, and models × components.

Nothing here saves or queries.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle

from megasim.anatomy.block_order import natural
from megasim.errors import NoAnswerError
from megasim.findings.component_groups import Equalities, ModelComponent, used_components
from megasim.findings.verdicts import Finding, component_order
from megasim.plots.heatmap import MISSING, component_label, short_label
from megasim.words import Verdict

ABSENT = -1
OWN = 0  # held by no other model

# From equal to changed: blue to orange, both readable without colour vision, and by lightness.
_TIERS: dict[str, tuple[str, str]] = {
    Verdict.IDENTICAL: ("#1f4e8c", "identical"),
    Verdict.SAME_VALUES: ("#4479b8", "same values, other dtype"),
    Verdict.SAME_AT_FP16: ("#7aa6d8", "same at fp16"),
    Verdict.SAME_AT_BF16: ("#a3c4e8", "same at bf16"),
    Verdict.SAME_WHERE_USED: ("#cfe0f2", "same where used"),
    Verdict.SAME_AS_READ: ("#dfe6ee", "same as far as read"),
    Verdict.CONTAINED: ("#d9ecd9", "equal where both have keys"),
    Verdict.PARTLY_CHANGED: ("#fbd9a5", "partly changed"),
    Verdict.CHANGED: ("#e69138", "changed"),
    Verdict.DISJOINT: ("#b5651d", "no key in common"),
    Verdict.OTHER_ARCHITECTURE: ("#8c3a0f", "another architecture"),
    Verdict.NOT_READ: ("#b8b8b8", "not read"),
}
_ONE_SIDED = {Verdict.ABSENT_A, Verdict.ABSENT_B}
# Okabe and Ito's colours, the strongest first; further groups have a letter alone.
_GROUP_COLOURS = (
    *("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#f0e442"),
    "#999999",
)
_FURTHER = "#dddddd"
_OWN = "#ffffff"
_HATCH: dict[str, Any] = {"facecolor": MISSING, "hatch": "////", "edgecolor": "#b5b5b5"}


# Inches that the cells of a row take at most: those of more components are narrower.
_WIDEST = 13.0
_TIER_CELL = 0.82


@dataclass(frozen=True)
class SharingGrid:
    """Which models hold the same component.

    Attributes:
        models: N names, those that share alike side by side.
        components: C names, in the order people list them.
        groups: (N, C) int: `ABSENT`; `OWN`; else the number of the group within its component,
            1 for the largest. Models of one group hold the same component, at least once rounded.
        rounded: (N, C) bool: whether it has other bytes than most of its group.
    """

    models: tuple[str, ...]
    components: tuple[str, ...]
    groups: npt.NDArray[np.int64]
    rounded: npt.NDArray[np.bool_]


def sharing_grid(equalities: Equalities, models: Sequence[str] | None = None) -> SharingGrid:
    """Return which of all models, or of some, hold the same component.

    Components that are never used are left out.
    """
    names = {model.id: model.name for model in equalities.reader.models.values()}
    ids = [i for i in sorted(equalities.components_of) if models is None or names[i] in set(models)]
    used = {i: used_components(equalities.components_of[i]) for i in ids}
    place = component_order()
    components = sorted(
        {c for components in used.values() for c in components}, key=lambda c: (place.get(c, 99), c)
    )
    groups = np.full((len(ids), len(components)), ABSENT, dtype=np.int64)
    rounded = np.zeros(groups.shape, dtype=np.bool_)
    for column, component in enumerate(components):
        holders = [row for row, i in enumerate(ids) if component in used[i]]
        of = {row: equalities.class_of(ids[row], component) for row in holders}
        numbers = _numbers(Counter(of.values()))
        exact = {row: (of[row], equalities.bytes_of(ids[row], component)) for row in holders}
        usual: dict[ModelComponent, ModelComponent] = {}
        for (group, content), _ in sorted(
            Counter(exact.values()).items(), key=lambda item: (-item[1], item[0])
        ):
            usual.setdefault(group, content)
        for row in holders:
            groups[row, column] = numbers[of[row]]
            rounded[row, column] = usual[of[row]] != exact[row][1]
    order = _alike_together(groups, [natural(names[i]) for i in ids])
    return SharingGrid(
        models=tuple(names[ids[row]] for row in order),
        components=tuple(components),
        groups=groups[order],
        rounded=rounded[order],
    )


def _numbers(sizes: Mapping[ModelComponent, int]) -> dict[ModelComponent, int]:
    """Return class → number: the largest is 1, classes of one model are `OWN`."""
    ranked = sorted(sizes, key=lambda group: (-sizes[group], group))
    return {group: OWN if sizes[group] == 1 else n for n, group in enumerate(ranked, 1)}


def _alike_together(groups: npt.NDArray[np.int64], names: Sequence[Any]) -> list[int]:
    """Return the rows in an order that puts equal ones together, most shared components first."""
    shared = (groups > OWN).sum(axis=0)
    columns = np.argsort(-shared, kind="stable")
    last = groups.max(initial=0) + 1
    # what is a model's own, and what it lacks, comes after the groups
    ranks = np.where(groups == OWN, last, np.where(groups == ABSENT, last + 1, groups))
    return sorted(range(len(groups)), key=lambda row: (tuple(ranks[row, columns]), names[row]))


def group_letter(number: int) -> str:
    """Return what a figure calls a group.

    >>> [group_letter(n) for n in (1, 2, 26, 27)]
    ['A', 'B', 'Z', 'AA']
    """
    letters = ""
    while number > 0:
        number, rest = divmod(number - 1, 26)
        letters = chr(ord("A") + rest) + letters
    return letters


def sharing_figure(grid: SharingGrid) -> Figure:
    """Return models × components: one letter and colour in a column is one shared component.

    Raises:
        NoAnswerError: no model has a component.
    """
    if not grid.components:
        raise NoAnswerError("no component of any model is known", "run `megasim ingest`")
    n = len(grid.models)

    def style(row: int, column: int) -> _Cell:
        group = int(grid.groups[row, column])
        if group == ABSENT:
            return _Cell(None)
        if group == OWN:
            return _Cell(_OWN, "·")
        colour = _GROUP_COLOURS[group - 1] if group <= len(_GROUP_COLOURS) else _FURTHER
        return _Cell(colour, group_letter(group) + ("≈" if grid.rounded[row, column] else ""))

    heads = [component_label(c) for c in grid.components]
    handles = []
    if (grid.groups == OWN).any():
        handles.append(
            Patch(facecolor=_OWN, edgecolor="#999999", label="·  not known to be shared")
        )
    if (grid.groups == ABSENT).any():
        handles.append(Patch(label="does not have it", **_HATCH))
    note = f"{n} models · the same letter in a column means the same component"
    if grid.rounded.any():
        note += " (≈ once rounded)"
    return _table_figure(
        "Who shares which component", note, heads, grid.models, style, handles, cell=0.62
    )


def tier_figure(findings: Sequence[Finding], title: str = "What is unchanged") -> Figure:
    """Return pairs × components, coloured by the verdict; pairs of one pattern side by side.

    Cells tell how many of how many keys changed where some did, and the L2 distance where most
    did. A verdict from a published 0 that may mean "not compared" is marked "?".

    Args:
        findings: of some pairs; the figure is readable up to some 120 of them.

    Raises:
        NoAnswerError: no findings.
    """
    if not findings:
        raise NoAnswerError("no pair was compared", "run `megasim compare`")
    place = component_order()
    present = {f.component for f in findings if f.verdict != Verdict.ABSENT}
    components = sorted(present, key=lambda c: (place.get(c, 99), c))
    cells: dict[tuple[str, str], dict[str, Finding]] = {}
    for finding in findings:
        pair = cells.setdefault((finding.model_a, finding.model_b), {})
        pair[finding.component] = finding

    def pattern(pair: tuple[str, str]) -> tuple[Any, ...]:
        of_pair = [cells[pair].get(c) for c in components]
        ranks = tuple(99 if f is None else f.verdict.rank for f in of_pair)
        return ranks, natural(pair[0]), natural(pair[1])

    pairs = sorted(cells, key=pattern)
    used = {f.verdict for f in findings}

    def style(row: int, column: int) -> _Cell:
        finding = cells[pairs[row]].get(components[column])
        if finding is None or finding.verdict not in {*_TIERS, *_ONE_SIDED}:
            return _Cell(None)
        if finding.verdict in _ONE_SIDED:
            return _Cell("#f4f4f4", "only in one", "#555555")
        return _Cell(_TIERS[finding.verdict][0], _cell_text(finding))

    handles: list[Patch] = [
        Patch(facecolor=colour, label=label)
        for verdict, (colour, label) in _TIERS.items()
        if verdict in used
    ]
    if any(style(r, c).colour is None for r in range(len(pairs)) for c in range(len(components))):
        handles.append(Patch(label="not compared, or in neither", **_HATCH))
    common = set(pairs[0]).intersection(*pairs[1:])
    if len(pairs) > 1 and common:  # one model against others: only these need naming
        labels = [next(name for name in pair if name not in common) for pair in pairs]
    else:
        labels = [f"{short_label(a, 26)} – {short_label(b, 26)}" for a, b in pairs]
    note = f"{len(pairs)} pair{'s'[: len(pairs) != 1]}"
    if _TIER_CELL * len(components) <= _WIDEST:
        note += " · keys changed of keys compared, or L2"
    if any(f.equal and f.keys_compared is None for f in findings):
        note += " · ?: a published 0, which may mean that it was not compared"
    heads = [component_label(c) for c in components]
    return _table_figure(title, note, heads, labels, style, handles, cell=_TIER_CELL)


def _cell_text(finding: Finding) -> str:
    compared, changed = finding.keys_compared, finding.keys_changed
    if finding.equal:
        return "0 ?" if compared is None else f"{compared:,} key{'s'[: compared != 1]}"
    if finding.verdict == Verdict.PARTLY_CHANGED and compared and changed:
        return f"{changed:,} of {compared:,}"
    if finding.l2:
        return "L2 " + (f"{finding.l2:,.0f}" if finding.l2 >= 1000 else f"{finding.l2:.3g}")
    odd = ((finding.non_finite, "NaN or inf"), (finding.shape_mismatch, "reshaped"))
    lacking = (finding.missing_a or 0) + (finding.missing_b or 0)
    return next((f"{n:,} {what}" for n, what in (*odd, (lacking, "in one")) if n), "")


@dataclass(frozen=True)
class _Cell:
    """How a cell looks: no colour is hatched grey."""

    colour: str | None
    text: str = ""
    ink: str = ""


def _table_figure(
    title: str,
    note: str,
    heads: Sequence[str],
    labels: Sequence[str],
    style: Callable[[int, int], _Cell],
    handles: Sequence[Patch],
    *,
    cell: float,
) -> Figure:
    """Return a table of coloured cells with a legend below its heading.

    Args:
        cell: inches of the width of a cell; less, and without longer texts, where they are many.
    """
    rows, columns = len(labels), len(heads)
    high = float(np.clip(9.0 / rows, 0.15, 0.26))
    size = float(np.clip(high * 40, 6.0, 8.5))
    shown = [short_label(label, 56) for label in labels]
    left = 0.3 + max(map(len, shown)) * size * 0.0092
    heads = [short_label(head, 22) for head in heads]
    crowded = cell * columns > _WIDEST
    cell = min(cell, max(_WIDEST / columns, 0.2))
    # inches of height and of width that a character takes, upright or at 40 degrees
    up, along = (0.075, 0.0) if crowded else (0.04, 0.053)
    over = 0.15 + max(map(len, heads)) * up
    beyond = max(len(head) * along - cell * (columns - i - 0.5) for i, head in enumerate(heads))
    legend_columns = min(3, max(len(handles), 1))
    legend = 0.19 * -(-len(handles) // legend_columns) + (0.12 if handles else 0)
    width = max(left + cell * columns + max(beyond, 0.0) + 0.2, 6.2)
    height = 0.75 + legend + over + high * rows + 0.15
    figure = Figure(figsize=(width, height))
    axes = figure.add_axes(
        (left / width, 0.15 / height, cell * columns / width, high * rows / height)
    )
    axes.set(xlim=(0, columns), ylim=(rows, 0), facecolor="white")
    for row in range(rows):
        for column in range(columns):
            drawn = style(row, column)
            if crowded and len(drawn.text) > 2:
                drawn = replace(drawn, text="")
            _draw_cell(axes, row, column, drawn, size, thick=rows <= 60)
    axes.set_yticks(np.arange(rows) + 0.5, shown, fontsize=size)
    axes.xaxis.tick_top()
    turned: dict[str, Any] = {"rotation": 90} if crowded else {"rotation": 40, "ha": "left"}
    axes.set_xticks(np.arange(columns) + 0.5, heads, fontsize=8.5, **turned)
    for label in axes.get_xticklabels():
        label.set_rotation_mode("default" if crowded else "anchor")
    axes.tick_params(length=0, pad=4)
    for spine in axes.spines.values():
        spine.set_visible(False)
    heading = short_label(title, 120)
    figure.text(0.12 / width, 1 - 0.1 / height, heading, va="top", fontsize=12, weight="bold")
    figure.text(0.12 / width, 1 - 0.36 / height, note, va="top", fontsize=8)
    if handles:
        figure.legend(
            handles=list(handles),
            loc="upper left",
            bbox_to_anchor=(0.04 / width, 1 - 0.52 / height),
            ncols=legend_columns,
            frameon=False,
            fontsize=8,
            handlelength=1.3,
            handleheight=0.9,
            columnspacing=1.2,
        )
    return figure


def _draw_cell(axes: Axes, row: int, column: int, cell: _Cell, size: float, *, thick: bool) -> None:
    gap = 0.02
    look = _HATCH if cell.colour is None else {"facecolor": cell.colour, "edgecolor": "white"}
    width = 0.0 if cell.colour is None else 1.0 if thick else 0.3
    axes.add_patch(
        Rectangle((column + gap, row), 1 - 2 * gap, 1, **look, linewidth=width, zorder=1)
    )
    if cell.text:
        axes.text(
            column + 0.5,
            row + 0.53,
            cell.text,
            ha="center",
            va="center",
            fontsize=size * 0.88,
            color=cell.ink or _ink(cell.colour or MISSING),
            zorder=2,
        )


def _ink(colour: str) -> str:
    """Return black or white, whichever reads better on a colour.

    Relative luminance as WCAG 2.1 defines it; the two contrasts are equal at 0.179.

    >>> _ink("#ffffff"), _ink("#1f4e8c")
    ('#111111', '#ffffff')
    """
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    luminance = float(np.dot((0.2126, 0.7152, 0.0722), linear))
    return "#111111" if luminance > 0.179 else "#ffffff"
