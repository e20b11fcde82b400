"""The family tree as files: a page, figures, and graphs for other programs."""

from __future__ import annotations

import json
from pathlib import Path

import networkx as nx
from markupsafe import Markup

from megasim.errors import UsageError, printable
from megasim.lineage.result import Lineage
from megasim.output_files import write_file
from megasim.plots.figure_files import figure_bytes, figure_variables, inline_svg
from megasim.plots.lineage import KINDS, lineage_figure
from megasim.plots.style import LIGHT, Style
from megasim.resources import render_template

LINEAGE_ENDINGS = (".html", ".png", ".svg", ".pdf", ".dot", ".graphml", ".json")


def lineage_dot(lineage: Lineage) -> str:
    """Return the tree in Graphviz' language, names quoted."""

    def quoted(text: str) -> str:
        return json.dumps(printable(text, 400), ensure_ascii=False)

    lines = ["digraph lineage {", "  rankdir=LR;", "  node [shape=box];"]
    for number, family in enumerate(lineage.families):
        lines.append(f"  subgraph cluster_{number} {{")
        lines += [
            f"    {quoted(m)}{' [style=bold]' if m == family.root else ''};" for m in family.models
        ]
        lines.append("  }")
    for edge in lineage.edges:
        name, dashes = KINDS[edge.kind]
        colour = getattr(LIGHT, name)
        label = edge.kind if edge.weight != edge.weight else f"{edge.kind} {edge.weight:.3g}"
        head = "" if edge.decided else ", dir=none"
        dash = {"-": "solid", "--": "dashed", ":": "dotted"}[dashes]
        lines.append(
            f'  {quoted(edge.parent)} -> {quoted(edge.child)} [label="{label}", '
            f'color="{colour}", style={dash}{head}];'
        )
    return "\n".join([*lines, "}", ""])


def lineage_html(lineage: Lineage, style: Style | None = None) -> str:
    """Return one self-contained page: the drawing, and every edge with its evidence.

    Args:
        style: of the drawing; the page swaps the colours of the light theme for its own.
    """
    models = sum(len(f.models) for f in lineage.families)
    svg = figure_bytes(lineage_figure(lineage, style), "svg")
    return render_template(
        "plots/lineage.html.j2",
        component=printable(lineage.component),
        models=models,
        families=len(lineage.families),
        light=figure_variables(dark=False),
        dark=figure_variables(dark=True),
        drawing=Markup(inline_svg(svg, f"Family tree of {models} models")),
        edges=lineage.edges,
        recipes=[r.sentence() for r in lineage.recipes],
        notes=[*lineage.notes],
        printable=printable,
    )


def save_lineage(lineage: Lineage, path: Path, style: Style | None = None) -> None:
    """Write the lineage in the form that the ending of `path` names.

    Raises:
        UsageError: an ending that is none of `LINEAGE_ENDINGS`.
    """
    ending = path.suffix.lower()
    if ending == ".html":
        write_file(path, lineage_html(lineage, style))
    elif ending == ".dot":
        write_file(path, lineage_dot(lineage))
    elif ending == ".json":
        text = json.dumps(lineage.to_json(), indent=2, allow_nan=False, ensure_ascii=False)
        write_file(path, text + "\n")
    elif ending == ".graphml":
        named: nx.DiGraph[str] = nx.relabel_nodes(lineage.to_graph(), lambda n: printable(n, 400))
        write_file(path, "\n".join(nx.generate_graphml(named)) + "\n")
    elif ending in LINEAGE_ENDINGS:
        figure = lineage_figure(lineage, style)
        write_file(path, figure_bytes(figure, ending.removeprefix(".")))
    else:
        raise UsageError(
            f"cannot write a lineage as {printable(path.name)}",
            f"end the name in one of {' '.join(LINEAGE_ENDINGS)}",
        )
