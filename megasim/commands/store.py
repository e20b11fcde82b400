"""Commands that fill the store, and SQL over it."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import click

from megasim.commands import options
from megasim.commands.completion import complete_components
from megasim.commands.console import (
    ConsoleProgress,
    byte_text,
    csv_text,
    records,
    say,
    show,
    show_csv,
    show_failures,
    show_json,
    table_text,
)
from megasim.errors import NoAnswerError, UsageError, printable

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pandas as pd

    from megasim.compare.result import CompareResult
    from megasim.errors import CheckpointError
    from megasim.ingest.result import IngestResult
    from megasim.store.connection import Mode
    from megasim.workspace import Workspace

_EACH = 3  # files of one kind that are passed over, each with a line of its own
_ROWS = 200  # rows of a table that a terminal is shown


@click.command("ingest")
@click.argument("paths", nargs=-1, type=click.Path(path_type=Path), metavar="PATH…")
@click.option(
    "--name",
    "names",
    multiple=True,
    metavar="NAME=PATH",
    help="Ingest PATH and give its model this name.",
)
@click.option(
    "--anatomy",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Your own rules for key names, as CSV; see docs/anatomy.md.",
)
@click.option(
    "--sketch",
    default=256,
    show_default=True,
    type=click.IntRange(16, 65536),
    help="Numbers per sketch; more give better estimates and a larger store.",
)
@click.option(
    "--reread",
    is_flag=True,
    help="Read files again even if they are known. Without PATH: those of all models that an older "
    "version of megasim read.",
)
@options.shard
@options.shard_file
@options.cluster
@options.workers
@options.memory
@options.as_json
@click.pass_context
def ingest_command(
    ctx: click.Context,
    paths: tuple[Path, ...],
    names: tuple[str, ...],
    anatomy: Path | None,
    sketch: int,
    reread: bool,
    shard: str | None,
    output: Path | None,
    cluster: str | None,
    workers: int | None,
    memory: int,
    as_json: bool,
) -> int:
    """Fingerprint checkpoints: files, folders, diffusers folders, or a model_map.json.

    Reads .safetensors, .ckpt, .pt, .pth, .bin, TorchScript, sharded and diffusers folders.
    Nothing in a file is ever executed. Known files are skipped; in folders, files that are
    clearly not checkpoints are skipped too.
    """
    from megasim.ingest.paths import require_some

    named = dict(_named_path(text) for text in names)
    if not (paths or named or reread):
        raise UsageError("no path given", "write `megasim ingest PATH…`")
    if paths or named:
        require_some([*paths, *named.values()])  # before a store is made for it
    options.check_shard_file(shard, output)
    if shard is not None and output is not None:
        from megasim.workspace.shards import ingest_shard

        if reread:
            raise UsageError("--reread needs a store", "a shard reads all of its files")
        _tell_of_compiling("walk_halves", "walk_bfloat16s", "walk_singles", "walk_doubles")
        result = ingest_shard(
            output,
            shard,
            *paths,
            names=named,
            anatomy=anatomy,
            sketch_size=sketch,
            workers=workers,
            cluster=cluster,
            progress=ConsoleProgress(),
        )
        return _show_ingest(result, [], as_json, output)
    mode: Mode = "write" if paths or named else "update"
    workspace = options.open_workspace(ctx, mode, memory=memory)
    _tell_of_compiling("walk_halves", "walk_bfloat16s", "walk_singles", "walk_doubles")
    result = workspace.ingest(
        *paths,
        names=named,
        anatomy=anatomy,
        sketch_size=sketch,
        reread=reread,
        workers=workers,
        cluster=cluster,
        progress=ConsoleProgress(),
    )
    return _show_ingest(result, [] if as_json else _missing_lines(workspace), as_json)


def _show_ingest(
    result: IngestResult, notes: Sequence[str], as_json: bool, output: Path | None = None
) -> int:
    """Print what became of an ingest into a store, or into the file of a shard."""
    if as_json:
        show_json(result.to_json())
    else:
        for verb, found in (
            ("added", result.added),
            ("replaced", result.replaced),
            ("moved", result.moved),
            ("copied", result.copied),
        ):
            for name in found:
                show(f"{verb} {printable(name)}")
        for line in _passed_over(result.passed_over):
            say(f"skipped {line}")
        note = f"; {len(result.known)} already known" if result.known else ""
        for line in notes:
            say(f"note: {line}")
        if output is not None:
            say(f"wrote {printable(output)}; `megasim import` takes it into a store")
        say(f"read {byte_text(result.bytes_read)} of {_count(result, 'added', 'replaced')}{note}")
    return show_failures(result.failed)


def _passed_over(errors: Sequence[CheckpointError]) -> list[str]:
    """Return a line for each file that was passed over, and one for many of a kind."""
    kinds: dict[tuple[str, str], list[CheckpointError]] = {}
    for error in errors:
        kinds.setdefault((error.problem, error.path.suffix), []).append(error)
    lines = []
    for (problem, suffix), alike in kinds.items():
        if len(alike) <= _EACH:
            lines += [error.message for error in alike]
            continue
        what = f"files ending in {printable(suffix, 20)}" if suffix else "files without an ending"
        first = printable(alike[0].path, 200)
        lines.append(f"{len(alike):,} {what}: each is {problem}; the first is {first}")
    return lines


def _tell_of_compiling(*names: str) -> None:
    """Say that the first run takes longer, and why.

    Of the loops of a pass, one for each dtype, only those of the files at hand are ever compiled.
    """
    from megasim.kernels import loops
    from megasim.kernels.machine_code import compile_note

    notes = [compile_note(getattr(loops, name)) for name in names]
    if notes[0] is not None and all(notes):
        say(notes[0])


def _count(result: object, *kinds: str) -> str:
    count = sum(len(getattr(result, kind)) for kind in kinds)
    return f"{count} model{'' if count == 1 else 's'}"


def _missing_lines(workspace: Workspace) -> list[str]:
    """Say which models of the store have lost their files."""
    from megasim.wording.sentences import listed

    missing = workspace.missing_files()
    lines = []
    if missing.gone:
        lines.append(
            f"the files of {listed(missing.gone, 5)} are gone; their answers stay, and "
            "`megasim forget --missing` forgets them"
        )
    if missing.unreachable:
        lines.append(f"the folders of {listed(missing.unreachable, 5)} are not there now")
    return lines


def _named_path(text: str) -> tuple[str, Path]:
    name, sign, path = text.partition("=")
    if not (name and sign and path):
        raise UsageError(f"{printable(text)!r} is not a name and a path", "write --name NAME=PATH")
    return name, Path(path)


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
@click.option("--device", help="Torch device for the arithmetic, e.g. cuda; needs torch.")
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
        _tell_of_compiling("add_halves", "add_singles", "add_doubles")
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
        _tell_of_compiling("add_halves", "add_singles", "add_doubles")
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


@click.command("models")
@options.as_json
@click.pass_context
def models_command(ctx: click.Context, as_json: bool) -> None:
    """List the models in the store."""
    workspace = options.open_workspace(ctx)
    frame = workspace.models()
    missing = workspace.missing_files()
    frame["file_gone"] = [name in missing for name in frame["name"]]
    workspace.store.release()  # who reads what is printed may take his time
    if as_json:
        show_json(records(frame))
        return
    known = frame["bytes"].notna()
    sizes = [
        byte_text(int(size)) if ok else None for size, ok in zip(frame["bytes"], known, strict=True)
    ]
    frame["size"] = sizes
    frame["ingested"] = frame["ingested_at"].dt.strftime("%Y-%m-%d")
    columns = ["name", "family", "variant", "format", "keys", "parameters", "dtypes"]
    frame["part"] = frame["part_role"]
    if (frame["part"].fillna("weights") != "weights").any():
        columns.insert(1, "part")
    if frame["unread"].any():
        columns.insert(columns.index("keys") + 1, "unread")
    if frame["file_gone"].any():
        frame["file"] = ["gone" if gone else "" for gone in frame["file_gone"]]
        columns.append("file")
    show(table_text(frame[[*columns, "size", "ingested", "path"]]))
    for line in _left_out(frame):
        show(line)


def _left_out(frame: pd.DataFrame) -> list[str]:
    """Return what a table of models does not show: what was not read, and what stands beside."""
    from megasim.fingerprint.tensor import FINGERPRINT_VERSION

    lines = []
    for row in records(frame[["name", "keys", "unread", "beside"]]):
        name = printable(row["name"], 80)
        if row["unread"]:
            of = row["unread"] + (row["keys"] or 0)
            lines.append(f"{name}: {row['unread']} of {of} tensors could not be read")
        if row["beside"]:
            lines.append(f"{name}: not compared: {printable(', '.join(row['beside']), 200)}")
    old = frame["fingerprint_version"].notna() & (
        frame["fingerprint_version"] != FINGERPRINT_VERSION
    )
    if old.any():
        count = int(old.sum())
        lines.append(
            f"{count} {'model was' if count == 1 else 'models were'} read by an older version, "
            "which did not know parts and natures: run `megasim ingest --reread`"
        )
    return [("\n" if i == 0 else "") + line for i, line in enumerate(lines)]


@click.command("sql")
@click.argument("query", required=False)
@click.option("--example", metavar="NAME", help="Run a query of the SQL cookbook.")
@click.option("--examples", is_flag=True, help="List the queries of the SQL cookbook.")
@click.option("--csv", "as_csv", is_flag=True, help="Print the result as CSV.")
@options.as_json
@click.pass_context
def sql_command(
    ctx: click.Context,
    query: str | None,
    example: str | None,
    examples: bool,
    as_csv: bool,
    as_json: bool,
) -> None:
    """Query the views models, layers, layer_distances and component_distances with SQL.

    \b
    megasim sql "describe layer_distances"
    megasim sql "select * from layer_distances where model_a = 'sd14' order by l2 desc limit 10"
    megasim sql --example shared_vae
    """
    if examples:
        from megasim.store.statements import purpose_of
        from megasim.workspace import Workspace

        listed = Workspace.sql_examples()
        width = max(map(len, listed))
        for name, text in listed.items():
            show(f"{name:<{width}}  {purpose_of(text)}")
        return
    if (query is None) == (example is None):
        raise UsageError(
            "no query given" if query is None else "two queries given",
            'write megasim sql "select …", or --example NAME',
        )
    from megasim.answers.tables import QueryNote

    workspace = options.open_workspace(ctx)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", QueryNote)
        frame = workspace.sql(query) if query is not None else workspace.sql_example(str(example))
    for warning in caught:
        say(f"note: {warning.message}")
    workspace.store.release()  # who reads what is printed may take his time
    if as_json:
        show_json(records(frame))
    elif as_csv:
        show_csv(csv_text(frame))
    else:
        show(table_text(frame, _ROWS))
