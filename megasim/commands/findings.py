"""Commands that say what was found: findings, the layers of a pair, and the report."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from megasim.commands import options
from megasim.commands.completion import complete_components, complete_models
from megasim.commands.console import (
    ConsoleProgress,
    byte_text,
    csv_text,
    records,
    say,
    show,
    show_csv,
    show_json,
    table_text,
)
from megasim.errors import UsageError, printable
from megasim.output_files import write_file
from megasim.wording.sentences import counted

if TYPE_CHECKING:
    from megasim.answers.changes import By, Changes
    from megasim.findings.overview import FindingsReport
    from megasim.findings.verdicts import Finding
    from megasim.workspace import Workspace

_ROWS = 20  # of layers, that a terminal is shown of each component
_ENDINGS = (".md", ".html", ".txt", ".json")


@click.command("findings")
@click.argument("models", nargs=-1, metavar="[A B]", shell_complete=complete_models)
@click.option("--group", help="Only the pairs of this group.")
@click.option("--groups", "shared", is_flag=True, help="List which models share which component.")
@click.option(
    "--by",
    type=click.Choice(["block", "role", "layer"]),
    help="Say how much of the change from A to B is in which block, role or layer.",
)
@click.option(
    "-c",
    "--component",
    shell_complete=complete_components,
    help="With --by: only this component, e.g. unet.",
)
@options.output(False, "Write to a .md, .html, .txt or .json file; with --by .csv or .json.")
@options.as_json
@click.pass_context
def findings_command(
    ctx: click.Context,
    models: tuple[str, ...],
    group: str | None,
    shared: bool,
    by: By | None,
    component: str | None,
    output: Path | None,
    as_json: bool,
) -> None:
    """Say which components are unchanged, what changed, and what is odd.

    For two models A and B, the pairs of a group, or all pairs. With --json, a list with one item
    per pair and component; `relations` in it says how the two models are related as wholes.
    """
    if len(models) not in (0, 2):
        raise UsageError(
            "findings need two models, or none for all pairs", "write `megasim findings A B`"
        )
    if component is not None and by is None:
        raise UsageError("-c needs --by", "leave out -c: findings cover all components")
    if by is not None and (shared or group is not None or len(models) != 2):
        raise UsageError("--by needs two models", "write `megasim findings A B --by block`")
    if output is not None:
        endings = (".txt", ".json") if shared else (".csv", ".json") if by else _ENDINGS
        options.check_ending(output, endings)
    workspace = options.open_workspace(ctx)
    a, b = models or (None, None)
    if by is not None:
        _changes(workspace.changes(models[0], models[1], by, component), output, as_json)
        return
    if shared:
        if models or group is not None:
            raise UsageError("--groups covers all models", "leave out the models and --group")
        _groups(workspace, output, as_json)
        return
    if as_json or (output is not None and output.suffix.lower() == ".json"):
        rows = _finding_rows(workspace, a, b, group)
        if output is None:
            show_json(rows)
        else:
            options.write_json(rows, output)
        return
    report = workspace.findings(a, b, group=group)
    if output is None:
        text = report.to_text()
        show(text)
        if text != report.to_text(whole=True):
            say("note: long lists are shortened here; `-o findings.txt` writes all of them")
        return
    ending = output.suffix.lower()
    form = {".md": report.to_markdown, ".html": report.to_html}
    write_file(output, form[ending]() if ending in form else report.to_text(whole=True))
    say(f"wrote {printable(output)}")


def _finding_rows(
    workspace: Workspace, a: str | None, b: str | None, group: str | None
) -> list[dict[str, Any]]:
    """Return a row for each pair and component, with what is said of the pair as a whole."""
    of_pair: dict[frozenset[str], list[str]] = defaultdict(list)
    report = workspace.findings(a, b, group=group)
    relations = report.relations
    for relation in relations:
        of_pair[frozenset((relation.model, relation.other))].append(relation.text)
    asked = None if a is None else [relation.text for relation in relations]
    return [
        {
            **finding.to_json(),
            "relations": of_pair[frozenset((finding.model_a, finding.model_b))]
            if asked is None  # of two named models, also what their other parts are
            else asked,
        }
        for finding in _pair_findings(workspace, report, group)
    ]


def _pair_findings(
    workspace: Workspace, report: FindingsReport, group: str | None
) -> list[Finding]:
    """Return the findings of the pairs of a report; it has them itself unless they are many."""
    if len(report.pairs) < report.pair_count:
        return workspace.pair_findings(group=group)
    return [finding for pair in report.pairs for finding in pair.findings]


def _changes(found: Changes, output: Path | None, as_json: bool) -> None:
    """Show or write where a model changed."""
    if output is not None and output.suffix.lower() == ".csv":
        options.write_table(found.to_frame(), output)
    elif output is not None:
        options.write_json(found.to_json(), output)
    elif as_json:
        show_json(found.to_json())
    else:
        show(f"{printable(found.model_a)} → {printable(found.model_b)}")
        for headline, table in found.sections():
            show(f"\n{headline}")
            if len(table):
                limit = _ROWS if found.by == "layer" else None
                show(table_text(table, limit, "-o layers.csv or --json shows all"))
        show("\nshare: of the squared L2 of the component; relative: L2 divided by the norm in A")


@click.command("why")
@click.argument("a", metavar="A", shell_complete=complete_models)
@click.argument("b", metavar="B", shell_complete=complete_models)
@options.as_json
@click.pass_context
def why_command(ctx: click.Context, a: str, b: str, as_json: bool) -> None:
    """Say in five sentences how A and B are related, how sure that is, and what to ask next."""
    found = options.open_workspace(ctx).why(a, b, progress=ConsoleProgress())
    if as_json:
        show_json(found.to_json())
        return
    for sentence in found.sentences:
        show(sentence)


@click.command("layers")
@click.argument("a", metavar="A", shell_complete=complete_models)
@click.argument("b", metavar="B", shell_complete=complete_models)
@click.option(
    "-c",
    "--component",
    shell_complete=complete_components,
    help="Only layers of this component, e.g. unet.",
)
@click.option("--top", type=click.IntRange(1), metavar="N", help="Only the N most changed.")
@click.option("--csv", "as_csv", is_flag=True, help="Print the result as CSV.")
@options.output(False, "Write to a .csv or .json file.")
@options.as_json
@click.pass_context
def layers_command(
    ctx: click.Context,
    a: str,
    b: str,
    component: str | None,
    top: int | None,
    as_csv: bool,
    output: Path | None,
    as_json: bool,
) -> None:
    """List the layers of A and B, the most changed first, with their distances.

    A and B may be named in either order. `share` is the share of the component's squared L2,
    `relative` the L2 divided by the norm of the layer in A.
    """
    if output is not None:
        options.check_ending(output, (".csv", ".json"))
    frame = options.open_workspace(ctx).layers(a, b, component, top=top)
    if output is not None and output.suffix.lower() == ".csv":
        options.write_table(frame, output)
    elif output is not None:
        options.write_json(records(frame), output)
    elif as_json:
        show_json(records(frame))
    elif as_csv:
        show_csv(csv_text(frame))
    else:
        columns = ["l2", "share", "relative", "status", "component", "block", "role"]
        rest = "--top N shows N, --csv and --json all"
        show(table_text(frame[[*columns, "canonical_key"]], top or _ROWS, rest))


def _groups(workspace: Workspace, output: Path | None, as_json: bool) -> None:
    """Show or write which models share which component; a file names all of them."""
    from megasim.findings.component_groups import group_sentences

    found = workspace.shared_components()
    rows = [group.to_json() for group in found]
    if output is not None and output.suffix == ".json":
        options.write_json(rows, output)
    elif output is not None:
        write_file(output, "\n".join([*group_sentences(found, None, fingerprints=True), ""]))
        say(f"wrote {printable(output)}")
    elif as_json:
        show_json(rows)
    else:
        sentences = group_sentences(found, fingerprints=True)
        for sentence in sentences:
            show(sentence)
        if sentences != group_sentences(found, None, fingerprints=True):
            say("note: long lists are shortened here; `-o groups.txt` names all models")


@click.group("known")
def known_command() -> None:
    """Name components, so that they are recognised wherever they occur.

    `megasim findings` and `findings --groups` then say "known as NAME". What counts is the content
    of the keys that the family uses, rounded to float16, so a cast is recognised too. megasim comes
    with no names of its own.
    """


@known_command.command("add")
@click.argument("name", metavar="NAME")
@click.argument("model", metavar="MODEL", shell_complete=complete_models)
@click.option(
    "-c",
    "--component",
    default="vae",
    show_default=True,
    shell_complete=complete_components,
    help="The component that has this name, or all: every component of MODEL.",
)
@click.pass_context
def add_known_command(ctx: click.Context, name: str, model: str, component: str) -> None:
    """Give a component of MODEL the name NAME."""
    from megasim.findings.known_components import short

    for known in options.open_workspace(ctx, "update").add_known(name, model, component):
        show(f"{known.title} {short(known.fingerprint)}: known as {printable(known.name, 200)}")


@known_command.command("list")
@options.as_json
@click.pass_context
def list_known_command(ctx: click.Context, as_json: bool) -> None:
    """List the components that have a name."""
    from megasim.findings.known_components import short

    found = options.open_workspace(ctx).known()
    if as_json:
        show_json([known.to_json() for known in found])
        return
    for known in found:
        show(f"{printable(known.name, 200)}: {known.title} {short(known.fingerprint)}")
    if not found:
        say("no component has a name; `megasim known add NAME MODEL -c vae` gives one")


@known_command.command("remove")
@click.argument("name", metavar="NAME")
@click.pass_context
def remove_known_command(ctx: click.Context, name: str) -> None:
    """Forget NAME."""
    count = options.open_workspace(ctx, "update").remove_known(name)
    show(f"{printable(name, 200)}: forgotten, of {counted(count, 'component')}")


@click.command("report")
@click.option(
    "-o",
    "--output",
    required=True,
    type=click.Path(path_type=Path),
    help="Folder for index.html and its data; with --one-file a name ending in .html too.",
)
@click.option(
    "--one-file", is_flag=True, help="Keep the data within the page, so that it can be mailed."
)
@click.option(
    "--interactive",
    is_flag=True,
    help="Let matrices, maps and the tree be zoomed into; the page then has scripts of its own.",
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
    one_file: bool,
    interactive: bool,
    models: list[str] | None,
    components: tuple[str, ...],
    path: list[str] | None,
) -> None:
    """Write everything as one page that opens from disk, with a CSV behind each figure."""
    if output.is_file() and not (one_file and output.suffix.lower() == ".html"):
        raise UsageError(
            f"{printable(output)} is a file", "name a folder, or a .html file with --one-file"
        )
    workspace = options.open_workspace(ctx)
    result = workspace.report(
        output,
        models=models,
        components=components or None,
        path=path,
        one_file=one_file,
        interactive=interactive,
        progress=ConsoleProgress(),
    )
    for sentence in result.lead:
        show(sentence)
    say(f"wrote {printable(result.page)} ({byte_text(result.bytes)} with its data)")
