"""The sections of a report about distances: heatmaps, and where in the network the change is."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from megasim.anatomy.classification import component_title
from megasim.errors import NoAnswerError, printable
from megasim.findings.layer_changes import layer_rows
from megasim.findings.reference_model import known_by_layer, reference_model
from megasim.matrix.distance_matrix import DistanceMatrix, coverage_note
from megasim.plots.heatmap import heatmap_figure
from megasim.plots.interactive_matrix import MOST, matrix_picture
from megasim.plots.layers import RMS, layer_grid, layers_figure
from megasim.report.parts import (
    Block,
    Section,
    answer_file,
    cell_text,
    file_name,
    note,
    picture,
    say,
)
from megasim.report.source import ReportSource
from megasim.wording.sentences import counted, joined

# Rows of layers × pairs up to which every key has its own; beyond, keys of a block and role are
# summed up, so that the file stays small.
_MOST_KEYS = 15_000
# The coverage from which on a distance counts as one of the whole component.
_NEARLY_ALL = 0.95


def heatmap_section(source: ReportSource) -> Section:
    """Return the distance matrix of each component as a heatmap."""
    blocks: list[Block] = []
    equal: list[str] = []
    for component in source.components:
        if _all_equal(source.matrix(component)):
            equal.append(printable(component_title(component)))
        else:
            blocks += _heatmap(source, component)
    if equal:
        blocks.append(note(f"No figure where all models that hold it are equal: {joined(equal)}."))
    none = (note("No component is known."),)
    return Section("distances", "Distances", tuple(blocks) or none, _distances_lead(source))


def _all_equal(matrix: DistanceMatrix) -> bool:
    """Return whether all models, two or more, are at distance 0 from each other."""
    return len(matrix.models) > 1 and not matrix.condensed().any()


def _distances_lead(source: ReportSource) -> tuple[str, ...]:
    """Name the nearest and the farthest pair of the first component."""
    if not source.components:
        return ()
    matrix = source.matrix(source.components[0])
    apart = np.triu(matrix.values, 1) > 0
    # what few keys cover is no superlative; a coverage that is not known is NaN
    covered = apart & ~(matrix.coverage < _NEARLY_ALL)
    whole = bool(covered.sum() > 1)
    pairs = np.argwhere(covered if whole else apart)
    if len(pairs) < 2:
        return ()
    pairs = pairs[np.argsort(matrix.values[pairs[:, 0], pairs[:, 1]], kind="stable")]

    def described(pair: npt.NDArray[np.intp]) -> str:
        a, b = (printable(matrix.models[i], 60) for i in pair)
        value, coverage = matrix.values[tuple(pair)], matrix.coverage[tuple(pair)]
        over = f", over {100 * coverage:.3g} % of the keys" if coverage < _NEARLY_ALL else ""
        return f"{a} and {b} (L2 {cell_text(float(value))}{over})"

    left = whole and not np.array_equal(covered, apart)
    of = (
        f"Of pairs that share at least {100 * _NEARLY_ALL:.0f} % of the keys, the"
        if left
        else "The"
    )
    title = printable(component_title(matrix.component))
    return (
        f"{of} nearest two that differ in the {title} are {described(pairs[0])}, "
        f"the farthest {described(pairs[-1])}.",
    )


def _heatmap(source: ReportSource, component: str) -> list[Block]:
    title = printable(component_title(component))
    matrix = source.matrix(component)
    n = len(matrix.models)
    known = matrix.condensed()[~np.isnan(matrix.condensed())]
    if n < 2:
        holders = "No model has it" if n == 0 else f"Only {printable(matrix.models[0], 80)} has it"
        return [
            note(f"{title}: {holders[0].lower()}{holders[1:]}, so there is nothing to compare.")
        ]
    if not known.size:
        return [note(f"{title}: none of the pairs of {n} models was compared.")]
    answer = source.ask("report_distances", components=source.members(component))
    name = file_name("distances", component)
    caption = (
        f"{title}, L2 distance of {counted(n, 'model')}; {coverage_note(matrix)}. "
        "Similar models stand side by side"
    )
    caption += ", as the tree at the left joins them." if n > 2 else "."
    return [
        picture(
            heatmap_figure(matrix),
            name,
            alt=f"Heatmap of the {title} distances of {n} models",
            caption=caption,
            files=[answer_file(name, answer)],
            item=matrix_picture(matrix).item if source.interactive and n <= MOST else "",
        )
    ]


def where_section(source: ReportSource) -> Section:
    """Return layers × pairs: one model against the others, and where they differ."""
    blocks: list[Block] = []
    for component in source.components:
        if _all_equal(source.matrix(component)):
            continue
        try:
            blocks += _where(source, component)
        except NoAnswerError:
            title = printable(component_title(component))
            blocks.append(note(f"{title}: no two models have a known distance layer by layer."))
    return Section("where", "Where the change is", tuple(blocks) or (note("Nothing is changed."),))


def _where(source: ReportSource, component: str) -> list[Block]:
    matrix = source.matrix(component)
    model = source.center
    if model not in matrix.models or not known_by_layer(matrix)[matrix.models.index(model)].any():
        model = reference_model(matrix)
    members = source.members(component)
    others = int(known_by_layer(matrix)[matrix.models.index(model)].sum())
    keys = int(matrix.keys_compared.max(initial=0))
    summed = keys * others > _MOST_KEYS
    query = "report_layer_sums" if summed else "report_layers"
    answer = source.ask(query, model=model, components=members)
    rows = layer_rows(answer.frame, model, matrix)
    title = printable(component_title(component))
    if rows.empty:
        raise NoAnswerError(f"no layers of {title} are known", "run `megasim compare`")
    if not (rows["l2"] != 0).any():
        return [say(f"{title}: every layer of {printable(model, 80)} is as in the others.")]
    grid = layer_grid(rows)
    name = file_name("layers", component)
    columns = len(grid.pairs)
    what = "the keys of one role in one block" if summed else "one key"
    unit = "the root mean square of its change" if grid.scale == RMS else "its L2 distance"
    return [
        picture(
            layers_figure(
                grid,
                title=f"{printable(model, 40)} against {counted(columns, 'other')}",
                component=component,
            ),
            name,
            alt=f"Where {title} of {printable(model, 80)} differs from {counted(columns, 'other')}",
            caption=f"{title} of {printable(model, 80)} against {counted(columns, 'other')}, the "
            f"nearest first. A row is {what}, its colour {unit}; rows follow the network from "
            "input to output.",
            files=[answer_file(name, answer)],
        )
    ]
