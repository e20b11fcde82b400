"""Commands that show what the store holds: its models, and SQL over its views."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence, Sized
from typing import TYPE_CHECKING

import click

from megasim.commands import options
from megasim.commands.console import (
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
from megasim.wording.sentences import counted

if TYPE_CHECKING:
    import pandas as pd

_ROWS = 200  # rows of a table that a terminal is shown
_REASONS = 2  # why tensors of a model were not read


@click.command("models")
@options.as_json
@click.pass_context
def models_command(ctx: click.Context, as_json: bool) -> None:
    """List the models in the store."""
    workspace = options.open_workspace(ctx)
    frame = workspace.models()
    missing = workspace.missing_files()
    frame["file_gone"] = [name in missing for name in frame["name"]]
    reasons: dict[str, list[str]] = {}
    if frame["unread"].any():
        for name, note, _ in workspace.store.rows("unread_reasons"):
            reasons.setdefault(name, []).append(note)
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
    if (frame["tier"].fillna("full") != "full").any():
        columns.insert(columns.index("keys"), "tier")
    if frame["unread"].any():
        columns.insert(columns.index("keys") + 1, "unread")
    if frame["file_gone"].any():
        frame["file"] = ["gone" if gone else "" for gone in frame["file_gone"]]
        columns.append("file")
    show(table_text(frame[[*columns, "size", "ingested", "path"]]))
    for line in _left_out(frame, reasons):
        show(line)


def _left_out(frame: pd.DataFrame, reasons: Mapping[str, Sequence[str]]) -> list[str]:
    """Return what a table of models does not show: what was not read and why, what stands beside.

    Args:
        reasons: why tensors of a model, by its name, could not be read.
    """
    from megasim.fingerprint.tensor import FINGERPRINT_VERSION

    lines = []
    odd = frame["unread"].fillna(0).astype(bool) | frame["beside"].map(_is_some)
    for row in records(frame.loc[odd, ["name", "keys", "unread", "beside"]]):
        name = printable(row["name"], 80)
        if row["unread"]:
            of = row["unread"] + (row["keys"] or 0)
            line = f"{name}: {row['unread']} of {of} tensors could not be read"
            why = [text for text in reasons.get(row["name"], ()) if text]
            line += f": {'; '.join(printable(text, 120) for text in why[:_REASONS])}" if why else ""
            more = len(why) - _REASONS
            lines.append(line + (f"; and for {counted(more, 'more reason')}" if more > 0 else ""))
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


def _is_some(values: object) -> bool:
    """Whether a list of a frame, which is an array or missing, holds anything."""
    return isinstance(values, Sized) and len(values) > 0


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
