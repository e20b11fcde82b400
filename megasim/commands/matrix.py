"""Commands that answer with distances: matrices, heatmaps, nearest models."""

from __future__ import annotations

from math import isnan
from pathlib import Path
from typing import TYPE_CHECKING

import click

from megasim.commands import options
from megasim.commands.completion import complete_components, complete_models
from megasim.commands.console import ConsoleProgress, records, say, show, show_json, table_text
from megasim.errors import printable
from megasim.wording.sentences import counted

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import pandas as pd


@click.command("matrix")
@options.component
@options.metric
@options.models
@click.option("--estimate", is_flag=True, help="Estimate the pairs that were not compared.")
@options.weights_only
@click.option("--long", is_flag=True, help="One row per pair, with what each value covers.")
@options.output(False, "File: .csv, .parquet, .json or .npz. Default: a table on stdout.")
@options.as_json
@click.pass_context
def matrix_command(
    ctx: click.Context,
    component: str | None,
    metric: str,
    models: list[str] | None,
    estimate: bool,
    weights_only: bool,
    long: bool,
    output: Path | None,
    as_json: bool,
) -> None:
    """Write the distance matrix of a component.

    A pair that was not compared is empty, never 0. If any value is not exact, .csv and .parquet
    have one row per pair, with its source and standard error. In a table, ~ marks an estimate and
    ? a published 0 that may mean "not compared".
    """
    from megasim.matrix.distance_matrix import coverage_note
    from megasim.matrix.files import (
        MATRIX_ENDINGS,
        matrix_to_json,
        matrix_to_long,
        matrix_to_square,
        write_matrix,
    )

    if output is not None:
        options.check_ending(output, MATRIX_ENDINGS)
    workspace = options.open_workspace(ctx, "update" if estimate else "read")
    matrix = workspace.matrix(
        component,
        metric,
        models=models,
        estimate=estimate,
        weights_only=weights_only,
        progress=ConsoleProgress(),
    )
    matrix.require(min(2, len(matrix.models)))
    name = printable(matrix.component)
    of = " of weights" if weights_only else ""
    say(f"{name}, {metric}{of}: {len(matrix.models)} models, {coverage_note(matrix)}")
    if output is not None:
        in_long_form = write_matrix(matrix, output, long=long)
        form = ", one row per pair" if in_long_form and not long else ""
        say(f"wrote {printable(output)}{form}")
    elif as_json:
        show_json(matrix_to_json(matrix))
    elif long:
        show(table_text(matrix_to_long(matrix)))
    else:
        show(table_text(_marked(matrix_to_square(matrix), matrix.sources)))


def _marked(square: pd.DataFrame, sources: npt.NDArray[np.str_]) -> pd.DataFrame:
    """Mark the values of a table that are not exact: ~ estimated, ? a 0 that proves nothing."""
    forms = {"estimated": "~{:.6g}", "unproven": "{:.6g}?"}
    for j, column in enumerate(sources.T.tolist(), 1):
        if forms.keys() & set(column):
            values = square.iloc[:, j].tolist()
            cells = [forms.get(s, "{:.6g}").format(v) for v, s in zip(values, column, strict=True)]
            square.isetitem(j, [c if v == v else None for c, v in zip(cells, values, strict=True)])
    return square


@click.command("nearest")
@click.argument("model", metavar="MODEL|PATH", shell_complete=complete_models)
@click.option(
    "-k",
    default=5,
    show_default=True,
    type=click.IntRange(1),
    help="Number of models per component.",
)
@click.option(
    "-c",
    "--component",
    "components",
    multiple=True,
    shell_complete=complete_components,
    help="Only this component; may be given several times.",
)
@options.as_json
@click.pass_context
def nearest_command(
    ctx: click.Context, model: str, k: int, components: tuple[str, ...], as_json: bool
) -> None:
    """List the models nearest to MODEL for each component, from the store alone.

    MODEL can also be a file that is not in the store: it is read, but not saved.
    """
    workspace = options.open_workspace(ctx, "update")
    frame = workspace.nearest(model, components or None, k=k, progress=ConsoleProgress())
    if as_json:
        show_json(records(frame))
    else:
        shown = frame if frame["quantised"].any() else frame.drop(columns="quantised")
        show(table_text(shown))
    if frame.empty and not components and not frame.attrs.get("passed_over"):
        say(f"note: no other model of the store has keys in common with {printable(model)}")
    for component, count in frame.attrs.get("passed_over", {}).items():
        say(
            f"note: not looked at: {counted(count, 'model')} that hold {printable(component)} "
            "under other keys or in other shapes"
        )


@click.command("kinship")
@click.argument("model", metavar="MODEL", shell_complete=complete_models)
@click.argument("others", metavar="[OTHER]...", nargs=-1, shell_complete=complete_models)
@click.option(
    "-c",
    "--component",
    "components",
    multiple=True,
    shell_complete=complete_components,
    help="Only this component; may be given several times.  [default: the whole model]",
)
@options.as_json
@click.pass_context
def kinship_command(
    ctx: click.Context,
    model: str,
    others: tuple[str, ...],
    components: tuple[str, ...],
    as_json: bool,
) -> None:
    """Test whether MODEL and others have a common origin, with p-values.

    The test compares the order of the hidden units: training keeps it, and models that were
    trained independently have different orders. It also finds copies whose units were permuted,
    the same matrices in another layout, and layers under other numbers. Without OTHER, all models
    are tested. No file is read, but for models that were ingested as samples: of these the
    matrices that the test needs.
    """
    frame = options.open_workspace(ctx).kinship(
        model, others or None, components or None, progress=ConsoleProgress()
    )
    if "read" in frame.attrs:
        count, size = frame.attrs["read"]
        say(
            f"note: of {counted(count, 'model')} read as a sample, the matrices that the test "
            f"needs were read whole: {size / 1e6:,.1f} MB"
        )
    if as_json:
        show_json(records(frame))
        return
    frame["p_value"] = frame["p_value"].astype("float64").map(_p_value_text)
    frame["correlation"] = frame["correlation"].astype("float64").round(3)
    show(table_text(frame.drop(columns=["model", "log10_p"])))


def _p_value_text(p_value: float) -> str:
    """Return a p-value to two digits; smaller ones than have been checked are not told apart.

    >>> _p_value_text(0.0321), _p_value_text(4.2e-9), _p_value_text(0.0)
    ('0.032', '4.2e-09', '< 1e-12')
    """
    if isnan(p_value):
        return "–"
    return f"{p_value:.2g}" if p_value >= 1e-12 else "< 1e-12"


@click.command("heatmap")
@options.component
@options.metric
@options.models
@options.top
@options.weights_only
@click.option(
    "--layers", is_flag=True, help="Draw layers × pairs: where one model differs from the others."
)
@click.option("--tiers", is_flag=True, help="Draw components × pairs: what is unchanged, and how.")
@click.option(
    "--against",
    metavar="MODEL",
    shell_complete=complete_models,
    help="The model that --layers or --tiers compares with the others.",
)
@options.look
@options.output(True, "Figure: .png, .svg or .pdf.")
@click.pass_context
def heatmap_command(
    ctx: click.Context,
    component: str | None,
    metric: str,
    models: list[str] | None,
    top: int | None,
    weights_only: bool,
    layers: bool,
    tiers: bool,
    against: str | None,
    look: options.Look,
    output: Path,
) -> None:
    """Draw the distance matrix of a component, similar models side by side.

    With --layers: where in the network a model differs from the others. With --tiers: which
    components are unchanged.
    """
    options.check_ending(output, options.FIGURE_ENDINGS)
    style = look.style(output)
    figure = options.open_workspace(ctx).heatmap(
        component,
        metric,
        models=models,
        top=top,
        layers=layers,
        tiers=tiers,
        against=against,
        weights_only=weights_only,
        style=style,
    )
    options.write_figure(figure, output)
