"""The gate for pipelines: verify."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from megasim.commands import options
from megasim.commands.completion import complete_models
from megasim.commands.console import ConsoleProgress, say, show, show_json
from megasim.errors import CHECK_FAILED, NOT_PROVED, UsageError, printable

if TYPE_CHECKING:
    from megasim.answers.verification import Outcome


@click.command("verify")
@click.argument("models", nargs=-1, required=True, metavar="A B", shell_complete=complete_models)
@click.option(
    "--allow",
    type=options.ModelNames(),
    default="",
    metavar="cast,prune,…",
    help="Differences that are allowed in B: cast, prune, rename, quant.",
)
@click.option(
    "--against",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    metavar="FINGERPRINTS",
    help="Take A from a .parquet file of fingerprints, instead of weights.",
)
@click.option("--junit", type=click.Path(path_type=Path), help="Write the result as JUnit XML.")
@options.as_json
@click.pass_context
def verify_command(
    ctx: click.Context,
    models: tuple[str, ...],
    allow: list[str],
    against: Path | None,
    junit: Path | None,
    as_json: bool,
) -> int:
    """Check that model B is model A, apart from allowed differences: a gate for pipelines.

    A and B are files, folders, or models of the store. With --against, A is a model of that file,
    and may be left out if the file has only one.

    Exits with 0 if this is proved, with 5 if B differs, and with 6 if nothing contradicts it but
    not all of it can be proved, e.g. for a quantised copy: rounding leaves no hash. If models of
    the store are named, what `compare` measured proves it.
    """
    from megasim.answers.held_keys import keys_of, keys_of_fingerprints, measured_roundings
    from megasim.answers.verification import verify_keys
    from megasim.store.rows import Store

    if len(models) != 2 and not (against is not None and len(models) == 1):
        raise UsageError(
            f"{len(models)} models given, not two", "write `megasim verify A B`, or see --against"
        )

    opened: list[Store] = []  # none where both are files

    def store() -> Store:
        opened.append(options.open_workspace(ctx).store)
        return opened[-1]

    progress = ConsoleProgress()
    if against is not None:
        a = keys_of_fingerprints(against, models[0] if len(models) == 2 else None)
    else:
        a = keys_of(models[0], store, progress)
    b = keys_of(models[-1], store, progress)
    roundings = measured_roundings(opened[-1], a, b) if opened else {}
    found = verify_keys(a, b, allow, roundings)
    if junit is not None:
        from megasim.output_files import write_file

        write_file(junit, found.junit())
        say(f"wrote {printable(junit)}")
    if as_json:
        show_json(found.to_json())
    else:
        for line in found.lines():
            show(line)
    for note in found.notes:
        say(f"note: {note}")
    return _exit_code(found.outcome)


def _exit_code(outcome: Outcome) -> int:
    from megasim.answers.verification import Outcome

    return {Outcome.VERIFIED: 0, Outcome.DIFFERS: CHECK_FAILED, Outcome.UNPROVED: NOT_PROVED}[
        outcome
    ]
