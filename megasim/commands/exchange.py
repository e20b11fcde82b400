"""Commands that bring the results of others in, and take results out."""

from __future__ import annotations

from pathlib import Path

import click

from megasim.commands import options
from megasim.commands.completion import complete_components
from megasim.commands.console import ConsoleProgress, say, show, show_failures, show_json
from megasim.errors import UsageError, printable


@click.command("import")
@click.argument("paths", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="PATH…")
@options.as_json
@click.pass_context
def import_command(ctx: click.Context, paths: tuple[Path, ...], as_json: bool) -> int:
    """Import results: of mega_cmp (a JSON or a folder of them), fingerprints, or shards.

    A .parquet file written by `megasim export --fingerprints` lets megasim recognise components
    without having their weights. Those written by `ingest --shard` and `compare --shard` come in
    in any order, and again without harm: the store is the one that one machine would have made.
    """
    workspace = options.open_workspace(ctx, "write")
    result = workspace.import_path(*paths, progress=ConsoleProgress())
    if as_json:
        show_json(result.to_json())
        return show_failures(result.failed)
    for line in result.imported:
        show(line)
    for line in result.left_out:
        say(f"left out: {line}")
    for line in result.notes:
        say(f"note: {line}")
    return show_failures(result.failed)


@click.command("identify")
@click.argument("paths", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="PATH…")
@click.option(
    "--against",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="KNOWN.parquet",
    help="Look the files up in this registry, or in one under an address.",
)
@options.output(False, "Write a registry of these files, .parquet: names and hashes, no weights.")
@options.workers
@options.as_json
def identify_command(
    paths: tuple[Path, ...],
    against: Path | None,
    output: Path | None,
    workers: int | None,
    as_json: bool,
) -> int:
    """Print the hashes that catalogues know a file by, and say which known file it is.

    SHA-256 of the file and its short form AutoV2; of a .safetensors file without its header, and
    its short form AutoV3. A file is found by its bytes, by its tensors, in whatever container, or
    by its bytes behind the header, which may name them otherwise. No store is needed.
    """
    from megasim.exchange.known_files import Match
    from megasim.workspace.identification import identify

    if output is not None:
        options.check_ending(output, (".parquet",))
    result = identify(
        *paths, against=against, output=output, workers=workers, progress=ConsoleProgress()
    )
    if as_json:
        show_json(result.to_json())
        return show_failures(result.failed)
    same = {
        Match.FILE: "the same file as",
        Match.TENSORS: "the same tensors as",
        Match.DATA: "the same bytes, behind a header that may say other keys or dtypes, as",
    }
    for found in result.files:
        show(printable(found.file.path, 400))
        if (hashes := found.file.hashes) is not None:
            show(f"  sha256  {hashes.sha256}  AutoV2 {hashes.autov2}")
            if hashes.data_sha256 is not None:
                show(f"  data    {hashes.data_sha256}  AutoV3 {hashes.autov3}")
        if found.file.tensors_digest is not None:
            show(f"  tensors {found.file.tensors_digest}  {found.file.tensors:,} keys")
        else:
            show("  some of its tensors cannot be read: it is known by its bytes alone")
        for name, how in found.matches:
            show(f"  {same[how]} {printable(name)}")
        if against is not None and not found.matches:
            show(f"  not known to {printable(against)}")
    if output is not None:
        say(f"wrote {printable(output)}")
    return show_failures(result.failed)


@click.command("export")
@click.argument(
    "folder", required=False, type=click.Path(file_okay=False, path_type=Path), metavar="[DIR]"
)
@click.option(
    "--format",
    "form",
    type=click.Choice(["mega-cmp"]),
    help="Write each pair to DIR as mega_cmp did: JSON and a histogram PNG.",
)
@click.option(
    "--fingerprints",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write hashes, norms and sketches, but no weights, to this .parquet file.",
)
@click.option(
    "-c",
    "--component",
    default="all",
    shell_complete=complete_components,
    help="Only fingerprints of this component, e.g. vae.",
)
@click.option(
    "--as",
    "renamed",
    multiple=True,
    metavar="MODEL=NAME",
    help="Name of a model in the fingerprint file.",
)
@options.models
@click.option(
    "--group",
    "groups",
    multiple=True,
    help="Only the pairs of this group; may be given several times.",
)
@click.pass_context
def export_command(
    ctx: click.Context,
    folder: Path | None,
    form: str | None,
    fingerprints: Path | None,
    component: str,
    renamed: tuple[str, ...],
    models: list[str] | None,
    groups: tuple[str, ...],
) -> None:
    """Write results for other tools: in the format of mega_cmp, or as a fingerprint file."""
    if (form is None) == (fingerprints is None):
        raise UsageError(
            "no export format given" if form is None else "two export formats given",
            "write `megasim export --format mega-cmp DIR` or `--fingerprints F.parquet`",
        )
    workspace = options.open_workspace(ctx)
    if fingerprints is not None:
        options.check_ending(fingerprints, (".parquet",))
        names = {}
        for text in renamed:
            model, sign, name = text.partition("=")
            if not (model and sign and name):
                raise UsageError(
                    f"{printable(text)!r} is not a model and a name", "write `--as MODEL=NAME`"
                )
            names[model] = name
        count = workspace.export_fingerprints(
            fingerprints, models=models, component=component, names=names
        )
        say(f"wrote {count:,} fingerprints to {printable(fingerprints)}")
        return
    if folder is None:
        raise UsageError("no folder given", "write `megasim export --format mega-cmp DIR`")
    result = workspace.export_mega_cmp(
        folder, models=models, groups=groups or None, progress=ConsoleProgress()
    )
    for line in result.left_out:
        say(f"left out: {line}")
    say(f"wrote {len(result.written)} files to {printable(folder)}")
