"""Commands that keep a store in order: forget, compact, migrate."""

from __future__ import annotations

import click

from megasim.commands import options
from megasim.commands.completion import complete_models
from megasim.commands.console import ConsoleProgress, byte_text, say, show, show_json
from megasim.errors import printable


@click.command("forget")
@click.argument("names", nargs=-1, required=True, metavar="MODEL…", shell_complete=complete_models)
@click.option(
    "--dry-run", is_flag=True, help="Only say how much space in the store this would free."
)
@click.pass_context
def forget_command(ctx: click.Context, names: tuple[str, ...], dry_run: bool) -> None:
    """Remove models from the store; their files are not touched.

    All are removed, or none if it is interrupted. Contents that other models also hold stay.
    """
    workspace = options.open_workspace(ctx, "read" if dry_run else "update")
    forgotten = list(dict.fromkeys(workspace.store.model_names(names)))
    freed = workspace.bytes_held_alone(*forgotten) if dry_run else workspace.forget(*forgotten)
    for name in forgotten:
        show(f"{'would forget' if dry_run else 'forgot'} {printable(name)}")
    free = f"about {byte_text(freed)} of the store"
    say(
        f"{free} would be free for `megasim compact` to give back"
        if dry_run
        else f"{free} is free now; `megasim compact` gives it back"
    )


@click.command("compact")
@options.memory
@options.as_json
@click.pass_context
def compact_command(ctx: click.Context, memory: int, as_json: bool) -> None:
    """Rewrite the store at its true size, without what no model holds any more.

    The new file replaces the old one when it is complete; if interrupted, the old one stays.
    The disk needs room for both.
    """
    from megasim.workspace import compact_store

    root = ctx.find_root()
    wait = root.params["wait"]
    done = compact_store(root.obj, memory=memory, wait=wait, progress=ConsoleProgress())
    if as_json:
        show_json(done.to_json())
        return
    show(f"{byte_text(done.bytes_before)} before, {byte_text(done.bytes_after)} now")
    if done.rows_dropped:
        say(f"{done.rows_dropped:,} rows that no model needs were left out")


@click.command("migrate")
@click.pass_context
def migrate_command(ctx: click.Context) -> None:
    """Update a store that an older megasim wrote to the schema of this one.

    Nothing in it is lost. Commands that write to the store do this themselves; commands that
    only read never change it.
    """
    from megasim.workspace import migrate_store

    done = migrate_store(ctx.find_root().obj)
    for name in done:
        show(name.replace("_", " "))
    if not done:
        say("the store is up to date")
