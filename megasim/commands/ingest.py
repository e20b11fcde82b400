"""The command that reads checkpoints into the store."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from megasim.checkpoint.locations import located
from megasim.commands import options
from megasim.commands.console import (
    ConsoleProgress,
    byte_text,
    say,
    show,
    show_failures,
    show_json,
    tell_of_compiling,
)
from megasim.errors import UsageError, printable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from megasim.errors import CheckpointError
    from megasim.ingest.result import IngestResult
    from megasim.store.connection import Mode
    from megasim.workspace import Workspace

_EACH = 3  # files of one kind that are passed over, each with a line of its own


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
@click.option(
    "--header",
    is_flag=True,
    help="Read names, shapes, dtypes and metadata alone: kilobytes of a file.",
)
@click.option(
    "--sample",
    metavar="SIZE",
    help="Read at most SIZE of each model, as 256M or 5%, the same elements in all: distances are "
    "then estimates with an error.",
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
    header: bool,
    sample: str | None,
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
    clearly not checkpoints are skipped too. With eight workers or more, much to read is read by
    processes in place of threads, with the same result.

    With --header or --sample less is read. Answers say so, and a later ingest of the same file
    without the option reads the rest; never the other way round.
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
        if header or sample is not None:
            raise UsageError(
                "--header and --sample need a store", "a shard reads its files in full"
            )
        tell_of_compiling("walk_halves", "walk_bfloat16s", "walk_singles", "walk_doubles")
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
    from megasim.workspace.jobs import usable_cores
    from megasim.workspace.worker_processes import ingest_processes

    mode: Mode = "write" if paths or named else "update"
    workspace = options.open_workspace(ctx, mode, memory=memory)
    tell_of_compiling("walk_halves", "walk_bfloat16s", "walk_singles", "walk_doubles")
    is_partly_read = header or sample is not None
    own = [] if cluster or is_partly_read else [*paths, *named.values()]
    with ingest_processes(workers or usable_cores(), own) as executor:
        result = workspace.ingest(
            *paths,
            names=named,
            anatomy=anatomy,
            sketch_size=sketch,
            reread=reread,
            header=header,
            sample=sample,
            workers=workers,
            executor=executor,
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
            ("read more of", result.raised),
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
        count = _count(result, "added", "replaced", "raised")
        say(f"read {byte_text(result.bytes_read)} of {count}{note}")
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
    return name, located(path)
