"""The command that computes the distances of pairs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from megasim.commands import options
from megasim.commands.completion import complete_components
from megasim.commands.console import (
    ConsoleProgress,
    byte_text,
    say,
    show,
    show_failures,
    show_json,
    tell_of_compiling,
)
from megasim.errors import NoAnswerError, UsageError, printable

if TYPE_CHECKING:
    from megasim.compare.result import CompareResult


@click.command("compare")
@click.argument(
    "model_map", required=False, type=click.Path(exists=True, dir_okay=False, path_type=Path)
)
@click.option(
    "--metric",
    "metrics",
    multiple=True,
    type=click.Choice(["linf", "cossim"]),
    help="Also compute this, besides l0, l1 and l2; may be given twice.",
)
@options.models
@click.option(
    "--group",
    "groups",
    multiple=True,
    help="Only the pairs of this group; may be given several times.",
)
@click.option(
    "--nearest",
    type=click.IntRange(1),
    metavar="K",
    help="Only pairs of each model with its K nearest.",
)
@click.option(
    "-c",
    "--component",
    default="all",
    show_default=True,
    shell_complete=complete_components,
    help="The component that --nearest uses.",
)
@click.option(
    "--estimate",
    is_flag=True,
    help="Read no file: estimate what is not known from the sketches, and keep it, marked.",
)
@click.option(
    "--device",
    help="What does the arithmetic: auto (a GPU where it pays; the default), cpu, cuda or cuda:N.",
)
@options.shard
@options.shard_file
@options.cluster
@options.workers
@options.memory
@options.as_json
@click.pass_context
def compare_command(
    ctx: click.Context,
    model_map: Path | None,
    metrics: tuple[str, ...],
    models: list[str] | None,
    groups: tuple[str, ...],
    nearest: int | None,
    component: str,
    estimate: bool,
    device: str | None,
    shard: str | None,
    output: Path | None,
    cluster: str | None,
    workers: int | None,
    memory: int,
    as_json: bool,
) -> int:
    """Compute the exact distances that are still missing, of all pairs or those of MODEL_MAP.

    Each tensor is read once. You can stop it at any time: finished work is kept.
    """
    options.check_shard_file(shard, output)
    if shard is not None and output is not None:
        from megasim.workspace.shards import compare_shard

        if nearest or estimate or model_map:
            raise UsageError(
                "--shard is of all pairs, those of --models or those of --group",
                "leave --nearest, --estimate and MODEL_MAP out",
            )
        root = ctx.find_root()
        tell_of_compiling("add_halves", "add_singles", "add_doubles")
        result = compare_shard(
            output,
            shard,
            root.obj,
            models=models,
            groups=groups or None,
            metrics=metrics,
            memory=memory,
            device=device,
            workers=workers,
            cluster=cluster,
            wait=root.params["wait"],
            progress=ConsoleProgress(),
        )
        return _show_compare(result, as_json, output)
    workspace = options.open_workspace(ctx, "update", memory=memory)
    if not workspace.store.models():
        raise NoAnswerError("the store is empty", "start with `megasim ingest PATH…`")
    if estimate and (models or groups or model_map or metrics or nearest):
        raise UsageError("--estimate is of all pairs", "leave the other options out")
    if not estimate:
        tell_of_compiling("add_halves", "add_singles", "add_doubles")
    result = workspace.compare(
        models=models,
        groups=groups or None,
        model_map=model_map,
        metrics=metrics,
        nearest=nearest,
        component=component,
        estimate=estimate,
        device=device,
        workers=workers,
        cluster=cluster,
        progress=ConsoleProgress(),
    )
    return _show_compare(result, as_json, estimated=estimate)


def _show_compare(
    result: CompareResult, as_json: bool, output: Path | None = None, estimated: bool = False
) -> int:
    """Print what a comparison did, in the store or for the file of a shard."""
    read = (
        f"{result.tensor_pairs_computed:,} distances, {byte_text(result.bytes_read)} read from "
        f"{result.files_read} models"
    )
    if as_json:
        show_json(result.to_json())
    elif output is not None:
        show(f"{read}, for {result.pairs_asked - result.pairs_known} pairs")
        say(f"wrote {printable(output)}; `megasim import` takes it into the store")
    elif estimated:
        show(f"{result.estimated:,} distances of components estimated; no file was read")
    else:
        show(
            f"{result.pairs_done} of {result.pairs_asked} pairs compared, "
            f"{result.pairs_known} already known; {read}"
        )
    return show_failures(result.failed)
