"""Commands that draw directions: the map, trajectories and histograms."""

from __future__ import annotations

from pathlib import Path

import click

from megasim.commands import options
from megasim.commands.completion import complete_components, complete_models
from megasim.commands.console import show, show_json, table_text
from megasim.errors import printable

_MOST_STEPS = 40  # of a map, printed


@click.command("map")
@options.component
@options.metric
@options.path
@options.models
@options.top
@options.weights_only
@click.option("--complete", is_flag=True, help="Fill gaps in the matrix, and say so.")
@options.look
@options.output(False, "Figure: .png, .svg or .pdf; or coordinates and steps: .csv.")
@options.as_json
@click.pass_context
def map_command(
    ctx: click.Context,
    component: str | None,
    metric: str,
    path: list[str] | None,
    models: list[str] | None,
    top: int | None,
    weights_only: bool,
    complete: bool,
    look: options.Look,
    output: Path | None,
    as_json: bool,
) -> None:
    """Draw the models as points, and test whether the plane they lie in means anything.

    Steps between models follow --path, or else the minimum spanning tree.
    """
    if output is not None:
        options.check_ending(output, (*options.FIGURE_ENDINGS, ".csv"))
    style = look.style(output)
    result = options.open_workspace(ctx).map(
        component,
        metric,
        path=path or (),
        models=models,
        top=top,
        complete=complete,
        weights_only=weights_only,
    )
    # the file before the words: a pager that ends early does not cost it
    if output is not None and output.suffix.lower() == ".csv":
        options.write_table(result.to_frame().reset_index(), output)
    elif output is not None:
        options.write_figure(result.plot(style), output)
    if as_json:
        show_json(result.to_json())
    else:
        show(f"{printable(result.matrix.component)}: {result.verdict}")
        for sentence in result.evidence:
            show(f"  {sentence}")
        steps = result.steps()
        show("")
        if len(steps) <= _MOST_STEPS:
            show(table_text(steps))
        else:
            show(f"Length and turn of the {len(steps)} steps: -o map.csv, or --json")


@click.command("trajectory")
@click.argument("models", nargs=-1, required=True, metavar="A B C…", shell_complete=complete_models)
@click.option(
    "-c",
    "--component",
    "components",
    multiple=True,
    shell_complete=complete_components,
    help="unet, text_encoder, vae, …; may be given several times. Default: unet, else transformer, "
    "or all if no model has either.",
)
@options.metric
@click.option(
    "--by",
    default="role",
    show_default=True,
    type=click.Choice(["role", "block", "attention"]),
    help="How to group layers; attention means attn1, attn2 and others.",
)
@click.option(
    "--only", type=options.ModelNames(), help="Only these groups, e.g. attn1,ff or IN01,M00."
)
@options.look
@options.output(False, "Figure: .png, .svg or .pdf; or a table of the steps: .csv.")
@options.as_json
@click.pass_context
def trajectory_command(
    ctx: click.Context,
    models: tuple[str, ...],
    components: tuple[str, ...],
    metric: str,
    by: str,
    only: list[str] | None,
    look: options.Look,
    output: Path | None,
    as_json: bool,
) -> None:
    """Follow a chain of epochs or versions: steps, distance from the start, turns.

    Each component as a whole comes first, then its layers, grouped by role or block.
    """
    from megasim.geometry.trajectory import to_json

    if output is not None:
        options.check_ending(output, (*options.FIGURE_ENDINGS, ".csv"))
    style = look.style(output)
    found = options.open_workspace(ctx).trajectory(
        models, components or None, metric, by=by, only=only or ()
    )
    if output is not None and output.suffix.lower() == ".csv":
        options.write_table(found.to_frame(), output)
    elif output is not None:
        options.write_figure(found.plot(style=style), output)
    if as_json:
        show_json(to_json(found))
    else:
        show(table_text(found.to_frame()))
        show("")
        show(table_text(found.summary().reset_index()))


@click.command("histogram")
@click.argument("a", metavar="A", shell_complete=complete_models)
@click.argument("b", metavar="B", shell_complete=complete_models)
@click.option(
    "-c",
    "--component",
    shell_complete=complete_components,
    help="A panel per role of this component. Default: a panel per component.",
)
@options.look
@options.output(True, "Figure: .png, .svg or .pdf.")
@click.pass_context
def histogram_command(
    ctx: click.Context, a: str, b: str, component: str | None, look: options.Look, output: Path
) -> None:
    """Draw the distribution of the layer distances of a pair: attn1, attn2 and others."""
    options.check_ending(output, options.FIGURE_ENDINGS)
    style = look.style(output)
    figure = options.open_workspace(ctx).histogram(a, b, component, style=style)
    options.write_figure(figure, output)
