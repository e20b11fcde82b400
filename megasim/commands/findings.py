"""Commands that say what was found: findings, and the report."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from megasim.commands import options
from megasim.commands.completion import complete_components, complete_models
from megasim.commands.console import ConsoleProgress, byte_text, say, show, show_json
from megasim.errors import UsageError, printable
from megasim.output_files import write_file

if TYPE_CHECKING:
    from megasim.workspace import Workspace

_ENDINGS = (".md", ".html", ".txt", ".json")


@click.command("findings")
@click.argument("models", nargs=-1, metavar="[A B]", shell_complete=complete_models)
@click.option("--group", help="Only the pairs of this group.")
@click.option("--groups", "shared", is_flag=True, help="List which models share which component.")
@options.output(False, "Write to a .md, .html, .txt or .json file.")
@options.as_json
@click.pass_context
def findings_command(
    ctx: click.Context,
    models: tuple[str, ...],
    group: str | None,
    shared: bool,
    output: Path | None,
    as_json: bool,
) -> None:
    """Say which components are unchanged, what changed, and what is odd.

    For two models A and B, the pairs of a group, or all pairs. With --json, a list with one item
    per pair and component.
    """
    if len(models) not in (0, 2):
        raise UsageError(
            "findings need two models, or none for all pairs", "write `megasim findings A B`"
        )
    if output is not None:
        options.check_ending(output, (".txt", ".json") if shared else _ENDINGS)
    workspace = options.open_workspace(ctx)
    a, b = models or (None, None)
    if shared:
        if models or group is not None:
            raise UsageError("--groups is about all models", "leave the models and --group out")
        _groups(workspace, output, as_json)
        return
    if as_json or (output is not None and output.suffix.lower() == ".json"):
        rows = [f.to_json() for f in workspace.pair_findings(a, b, group=group)]
        if output is None:
            show_json(rows)
        else:
            options.write_json(rows, output)
        return
    report = workspace.findings(a, b, group=group)
    if output is None:
        show(report.to_text())
        return
    form = {".md": report.to_markdown, ".html": report.to_html, ".txt": report.to_text}
    write_file(output, form[output.suffix.lower()]())
    say(f"wrote {printable(output)}")


def _groups(workspace: Workspace, output: Path | None, as_json: bool) -> None:
    """Show or write which models share which component; a file names all of them."""
    from megasim.findings.component_groups import group_sentences

    found = workspace.shared_components()
    rows = [group.to_json() for group in found]
    if output is not None and output.suffix == ".json":
        options.write_json(rows, output)
    elif output is not None:
        longest = max((len(group.models) for group in found), default=0)
        write_file(output, "\n".join([*group_sentences(found, longest), ""]))
        say(f"wrote {printable(output)}")
    elif as_json:
        show_json(rows)
    else:
        for sentence in group_sentences(found):
            show(sentence)


@click.command("report")
@click.option(
    "-o",
    "--output",
    required=True,
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder for index.html and its data.",
)
@options.models
@click.option(
    "-c",
    "--component",
    "components",
    multiple=True,
    shell_complete=complete_components,
    help="Draw figures of this component; may be given several times.",
)
@options.path
@click.pass_context
def report_command(
    ctx: click.Context,
    output: Path,
    models: list[str] | None,
    components: tuple[str, ...],
    path: list[str] | None,
) -> None:
    """Write everything as one page that opens from disk, with a CSV behind each figure."""
    workspace = options.open_workspace(ctx)
    result = workspace.report(
        output,
        models=models,
        components=components or None,
        path=path,
        progress=ConsoleProgress(),
    )
    for sentence in result.lead:
        show(sentence)
    say(f"wrote {printable(result.page)} ({byte_text(result.bytes)} with its data)")
