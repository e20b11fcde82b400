"""What is unchanged, at a glance: pairs × components, and models × components.

Nothing here saves or queries.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
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
from megasim.plots.labels import component_label, short_label, text_extent, widest
from megasim.plots.sheet import Sheet, heading_height, write
from megasim.plots.style import SMALLEST, Style, Theme, ink_on
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
    Verdict.SAME_IN_SAMPLE: ("#ece6f2", "same in all sampled elements"),
    Verdict.CONTAINED: ("#d9ecd9", "equal where both have keys"),
    Verdict.PARTLY_CHANGED: ("#fbd9a5", "partly changed"),
    Verdict.CHANGED: ("#e69138", "changed"),
    Verdict.DISJOINT: ("#b5651d", "no key in common"),
    Verdict.OTHER_ARCHITECTURE: ("#8c3a0f", "another architecture"),
    Verdict.NOT_READ: ("#b8b8b8", "not read"),
}
# The same without colours: paper is equal, and the darker the more is changed.
_GREY_TIERS = (
    *("#ffffff", "#f7f7f7", "#f0f0f0", "#e8e8e8", "#dfdfdf", "#d8d8d8", "#d4d4d4"),
    *("#d0d0d0", "#b4b4b4", "#8a8a8a", "#5e5e5e", "#333333", "#c4c4c4"),
)
_ONE_SIDED = {Verdict.ABSENT_A, Verdict.ABSENT_B}
# Nearly Okabe and Ito's colours, the strongest first: none is one that a theme has, since letters
# are inked for these whatever the theme. Further groups have a letter alone.
_GROUP_COLOURS = (
    *("#0072b1", "#e69f00", "#009e72", "#cc79a6", "#56b4e8", "#d55e01", "#f0e442"),
    "#999999",
)
_FURTHER = "#dddddd"
_WIDEST = 13.0  # inches that the cells of a row take at most: those of more are narrower
_TIER_CELL = 0.9  # inches
_SHARED_CELL = 0.62
_LEAST_FONT = 5.0  # typographic points of the text of a cell; smaller, it is left out


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


def sharing_figure(grid: SharingGrid, style: Style | None = None) -> Figure:
    """Return models × components: one letter and colour in a column is one shared component.

    Raises:
        NoAnswerError: no model has a component.
    """
    if not grid.components:
        raise NoAnswerError("no component of any model is known", "run `megasim ingest`")
    n, style = len(grid.models), style or Style()
    theme = style.theme

    def look(row: int, column: int) -> _Cell:
        group = int(grid.groups[row, column])
        if group == ABSENT:
            return _Cell(None)
        if group == OWN:
            return _Cell(theme.paper, "·", theme.quiet)
        colour = _GROUP_COLOURS[group - 1] if group <= len(_GROUP_COLOURS) else _FURTHER
        letter = group_letter(group) + ("≈" if grid.rounded[row, column] else "")
        return _Cell(_FURTHER if theme.grey else colour, letter)

    heads = [component_label(c) for c in grid.components]
    handles = []
    if (grid.groups == OWN).any():
        handles.append(
            Patch(fc="none", ec=theme.edge, label="·  no other is known to hold it"),
        )
    if (grid.groups == ABSENT).any():
        handles.append(Patch(label="does not have it", **_hatch(theme)))
    note = f"{n} models · the same letter in a column: the very same component"
    if grid.rounded.any():
        note += " (≈ once rounded)"
    table = _Table("Who shares which component", note, heads, grid.models, look, handles)
    return _table_figure(table, style, cell=_SHARED_CELL)


def tier_figure(
    findings: Sequence[Finding], title: str = "What is unchanged", style: Style | None = None
) -> Figure:
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
    style = style or Style()
    theme = style.theme
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
    colours = _tier_colours(theme)

    def look(row: int, column: int) -> _Cell:
        finding = cells[pairs[row]].get(components[column])
        if finding is None or finding.verdict not in {*_TIERS, *_ONE_SIDED}:
            return _Cell(None)
        if finding.verdict in _ONE_SIDED:
            return _Cell(theme.paper, "only in one", theme.quiet)
        return _Cell(colours[finding.verdict], _cell_text(finding))

    handles: list[Patch] = [
        Patch(facecolor=colours[verdict], edgecolor=theme.edge, lw=0.4, label=label)
        for verdict, (_, label) in _TIERS.items()
        if verdict in used
    ]
    if any(look(r, c).colour is None for r in range(len(pairs)) for c in range(len(components))):
        handles.append(Patch(label="not compared, or in neither", **_hatch(theme)))
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
    table = _Table(title, note, heads, labels, look, handles)
    return _table_figure(table, style, cell=_TIER_CELL)


def _tier_colours(theme: Theme) -> dict[str, str]:
    if not theme.grey:
        return {verdict: colour for verdict, (colour, _) in _TIERS.items()}
    return dict(zip(_TIERS, _GREY_TIERS, strict=True))


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


@dataclass(frozen=True)
class _Table:
    """A table of coloured cells: `look` gives the cell of a row and column."""

    title: str
    note: str
    heads: Sequence[str]
    labels: Sequence[str]
    look: Callable[[int, int], _Cell]
    handles: Sequence[Patch]


def _table_figure(table: _Table, style: Style, *, cell: float) -> Figure:
    """Return a table of coloured cells with a legend below its heading.

    Args:
        cell: inches of the width of a cell; less, and without longer texts, where they are many.
    """
    rows, columns = len(table.labels), len(table.heads)
    k = style.scale(8.0, 5.0)
    shown = [short_label(label, 56 if style.size is None else 30) for label in table.labels]
    heads = [short_label(head, 22) for head in table.heads]
    crowded = cell * columns > _WIDEST
    cell = min(cell, max(_WIDEST / columns, 0.2))
    legend_columns = min(3, max(len(table.handles), 1))
    legend = 0.19 * -(-len(table.handles) // legend_columns) + (0.14 if table.handles else 0.05)
    font, flat = SMALLEST, False
    # what heads take upright or at 40 degrees: height, and width beyond the last column
    along = widest(heads, 8.8 * k)
    over = 0.15 * k + along * (1.0 if crowded else 0.68)
    beyond = 0.0 if crowded else max(0.8 * widest(heads[-1:], 8.8 * k) - cell * 0.4, 0.0)
    if style.size is None:
        high = float(np.clip(9.0 / rows, 0.16, 0.26))
        left = 0.25 + widest(shown, font)
        width = max(left + cell * columns + beyond + 0.2, 6.6)
        head = heading_height(style, width, table.title, table.note)
        height = head + legend + over + high * rows + 0.15
    else:
        width, height = style.size
        head = heading_height(style, width, table.title, table.note, k)
        for font in (10.0, SMALLEST):
            left = 0.2 + widest(shown, font * k)
            lying = ["\n".join(head.rsplit(" ", 1)) for head in heads]
            cell = max(width - left - 0.2, 0.5) / columns
            flat = widest("\n".join(lying).split("\n"), 8.8 * k) < 0.97 * cell
            if flat:
                heads, beyond, over = lying, 0.0, 0.4 * k
            cell = max(width - left - beyond - 0.2, 0.5) / columns
            high = max(height - head - legend * k - over - 0.12, 0.3) / rows
            if 72 * 0.82 * high >= font * k:
                break
        else:
            font = float(np.clip(72 * 0.82 * high / k, 5.5, SMALLEST))
    every = int(np.ceil(font * k / (72 * 0.85 * high) - 1e-9))
    sheet = Sheet(width, height, style, k)
    with style.applied():
        sheet.heading(table.title, table.note)
        axes = sheet.axes(left, head + legend * k + over, cell * columns, high * rows)
        axes.set(xlim=(0, columns), ylim=(rows, 0), facecolor="none")
        _draw_table(axes, table, (cell, high), min(font * k, 72 * 0.8 * high), style.theme)
        named = np.arange(0, rows, max(every, 1))
        axes.set_yticks(named + 0.5, [shown[i] for i in named], fontsize=font * k)
        axes.xaxis.tick_top()
        turned: dict[str, Any] = {"rotation": 40, "ha": "left"}
        if flat or crowded:
            turned = {"rotation": 0 if flat else 90}
        axes.set_xticks(np.arange(columns) + 0.5, heads, fontsize=8.8 * k, **turned)
        for label in axes.get_xticklabels():
            label.set_rotation_mode("default" if flat or crowded else "anchor")
        axes.tick_params(length=0, pad=4)
        for spine in axes.spines.values():
            spine.set_visible(False)
        if table.handles:
            sheet.figure.legend(
                handles=list(table.handles),
                loc="upper left",
                bbox_to_anchor=(0.06 / width, 1 - (head - 0.06 * k) / height),
                ncols=legend_columns,
                fontsize=SMALLEST * k,
                handlelength=1.3,
                handleheight=0.9,
                columnspacing=1.2,
            )
    return sheet.done()


def _draw_table(
    axes: Axes, table: _Table, cell: tuple[float, float], size: float, theme: Theme
) -> None:
    """Draw the cells, each text as large as all of its column leave room for.

    Args:
        cell: inches of its width and height. size: of text at most, in typographic points.
    """
    rows = range(len(table.labels))
    for column in range(len(table.heads)):
        cells = [table.look(row, column) for row in rows]
        longest = max((text_extent(c.text, 1.0)[0] for c in cells if c.text), default=1.0)
        fits = min(size, 0.94 * 72 * cell[0] / longest)
        for row, drawn in enumerate(cells):
            _draw_cell(axes, row, column, drawn, fits, theme, thick=len(rows) <= 60)


def _draw_cell(
    axes: Axes, row: int, column: int, cell: _Cell, size: float, theme: Theme, *, thick: bool
) -> None:
    gap = 0.02
    look = _hatch(theme)
    if cell.colour is not None:
        look = {"facecolor": cell.colour, "edgecolor": theme.paper}
    width = 0.0 if cell.colour is None else 1.0 if thick else 0.3
    axes.add_patch(
        Rectangle((column + gap, row), 1 - 2 * gap, 1, **look, linewidth=width, zorder=1)
    )
    if cell.text and size >= _LEAST_FONT:
        ink = cell.ink or ink_on(cell.colour or theme.missing)
        write(axes, (column + 0.5, row + 0.53), cell.text, size, color=ink, zorder=2)


def _hatch(theme: Theme) -> dict[str, Any]:
    return {"facecolor": theme.missing, "hatch": "////", "edgecolor": theme.hatch}
