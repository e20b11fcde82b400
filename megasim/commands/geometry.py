"""Commands that draw directions: the map, trajectories and histograms."""

from __future__ import annotations

from pathlib import Path

import click

from megasim.commands import options
from megasim.commands.console import say, show, show_json, table_text


@click.command("map")
@options.component
@options.metric
@options.path
@options.models
@click.option("--complete", is_flag=True, help="Fill the gaps of the matrix, and say so.")
@options.output(False, "The figure: .png, .svg or .pdf.")
@options.as_json
@click.pass_context
def map_command(
    ctx: click.Context,
    component: str,
    metric: str,
    path: list[str] | None,
    models: list[str] | None,
    complete: bool,
    output: Path | None,
    as_json: bool,
) -> None:
    """Draw the models as points, and test whether the plane they lie in means anything.

    The steps between models go along --path, or along the minimum spanning tree.
    """
    if output is not None:
        options.check_ending(output, options.FIGURE_ENDINGS)
    result = options.open_workspace(ctx).map(
        component, metric, path=path or (), models=models, complete=complete
    )
    if as_json:
        show_json(result.to_json())
    else:
        show(f"{component}: {result.verdict}")
        for sentence in result.evidence:
            show(f"  {sentence}")
    if output is not None:
        options.write_figure(result.plot(), output)


@click.command("trajectory")
@click.argument("models", nargs=-1, required=True, metavar="A B C…")
@options.component
@options.metric
@click.option(
    "--by",
    default="role",
    show_default=True,
    type=click.Choice(["role", "block", "attention"]),
    help="How layers are grouped; attention is attn1, attn2 and the others.",
)
@options.output(False, "The figure: .png, .svg or .pdf.")
@options.as_json
@click.pass_context
def trajectory_command(
    ctx: click.Context,
    models: tuple[str, ...],
    component: str,
    metric: str,
    by: str,
    output: Path | None,
    as_json: bool,
) -> None:
    """Follow a chain of epochs or versions: steps, distance from the start, turns."""
    from megasim.geometry.trajectory import step_table, summary_table, to_json
    from megasim.plots.trajectory import trajectory_figure

    if output is not None:
        options.check_ending(output, options.FIGURE_ENDINGS)
    found = options.open_workspace(ctx).trajectories(models, component, metric, by=by)
    if as_json:
        show_json(to_json(found))
    else:
        show(table_text(step_table(found)))
        show("")
        show(table_text(summary_table(found).reset_index()))
    if output is not None:
        options.write_figure(trajectory_figure(found), output)


@click.command("histogram")
@click.argument("a", metavar="A")
@click.argument("b", metavar="B")
@click.option("-c", "--component", help="Its roles; all components beside each other if not given.")
@options.output(True, "The figure: .png, .svg or .pdf.")
@click.pass_context
def histogram_command(
    ctx: click.Context, a: str, b: str, component: str | None, output: Path
) -> None:
    """Draw how the layer distances of a pair are distributed: attn1, attn2 and the others."""
    from megasim.matrix_loading import member_names
    from megasim.plots.histogram import component_histogram, role_histogram

    options.check_ending(output, options.FIGURE_ENDINGS)
    workspace = options.open_workspace(ctx)
    layers = workspace.pair_layers(a, b)
    if component is None:
        figure = component_histogram(layers, a, b)
    else:
        members = member_names(workspace.store, component)
        figure = role_histogram(
            layers[layers["component"].isin(members)], a, b, component=component
        )
    options.write_figure(figure, output)
    say(f"{len(layers)} layers of {a} and {b}")
