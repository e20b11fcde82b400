"""Commands that keep a store in order: forget, compact, migrate, doctor."""

from __future__ import annotations

import click

from megasim.commands import options
from megasim.commands.completion import complete_models
from megasim.commands.console import ConsoleProgress, byte_text, say, show, show_json
from megasim.errors import CHECK_FAILED, UsageError, printable
from megasim.wording.sentences import counted

_EXAMPLES = 3  # findings of one check that a terminal is shown


@click.command("forget")
@click.argument("names", nargs=-1, metavar="MODEL…", shell_complete=complete_models)
@click.option(
    "--missing",
    is_flag=True,
    help="Forget the models whose files are gone, if the folder that they were in is there.",
)
@click.option(
    "--dry-run", is_flag=True, help="Only say how much space in the store this would free."
)
@click.pass_context
def forget_command(
    ctx: click.Context, names: tuple[str, ...], missing: bool, dry_run: bool
) -> None:
    """Remove models from the store; their files are not touched.

    All are removed, or none if it is interrupted. Tensors that other models share stay.
    """
    if not (names or missing):
        raise UsageError("no model given", "name models, or write --missing")
    workspace = options.open_workspace(ctx, "read" if dry_run else "update")
    forgotten = list(dict.fromkeys(workspace.store.model_names(names)))
    if missing:
        files = workspace.missing_files()
        forgotten = list(dict.fromkeys([*forgotten, *files.gone]))
        if files.unreachable:
            count = counted(len(files.unreachable), "model")
            say(f"note: the folder of {count} is not there, as of an unplugged disk: left alone")
        if not forgotten:
            show("no model to forget: no file is gone from a folder that is there")
            return
    freed = workspace.bytes_held_alone(*forgotten) if dry_run else workspace.forget(*forgotten)
    for name in forgotten:
        show(f"{'would forget' if dry_run else 'forgot'} {printable(name)}")
    free = f"about {byte_text(freed)} of the store"
    say(
        f"{free} would be free, and `megasim compact` would give it back"
        if dry_run
        else f"{free} is free now; `megasim compact` gives it back"
    )


@click.command("compact")
@options.memory
@options.as_json
@click.pass_context
def compact_command(ctx: click.Context, memory: int, as_json: bool) -> None:
    """Rewrite the store without unused space and without data that no model needs any more.

    The new file replaces the old one once it is complete; if interrupted, the old one stays.
    The disk needs room for both.
    """
    from megasim.workspace.jobs import compact

    root = ctx.find_root()
    wait = root.params["wait"]
    done = compact(root.obj, memory=memory, wait=wait, progress=ConsoleProgress())
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
    from megasim.workspace.jobs import migrate

    root = ctx.find_root()
    done = migrate(root.obj, wait=root.params["wait"])
    for name in done:
        show(name.replace("_", " "))
    if not done:
        say("the store is up to date")


@click.command("doctor")
@click.option(
    "--files",
    is_flag=True,
    help="Read every file again and compare its hashes with the stored ones.",
)
@click.option("--repair", is_flag=True, help="Repair what can be repaired, and mark the rest.")
@options.workers
@options.memory
@options.as_json
@click.pass_context
def doctor_command(
    ctx: click.Context, files: bool, repair: bool, workers: int | None, memory: int, as_json: bool
) -> int:
    """Look for what is wrong in a store: lost rows, impossible values, contradictions.

    Exits with 0 if the store is sound (with --repair: sound afterwards), and with 5 if it is not.
    --repair invents nothing: sums are computed again from the layers, wrong distances are dropped
    for `megasim compare`, and wrong fingerprints are marked for `megasim ingest`.
    """
    from megasim.workspace.jobs import doctor

    root = ctx.find_root()
    found = doctor(
        root.obj,
        files=files,
        repair=repair,
        workers=workers,
        memory=memory,
        wait=root.params["wait"],
        progress=ConsoleProgress(),
    )
    if as_json:
        show_json(found.to_json())
        return 0 if found.is_sound else CHECK_FAILED
    for fault in found.faults:
        show(f"{fault.check}: {len(fault.found):,}")
        for text in fault.found[:_EXAMPLES]:
            show(f"  {printable(text, 400)}")
        if len(fault.found) > _EXAMPLES:
            show(f"  and {len(fault.found) - _EXAMPLES:,} more, which --json lists")
        show(f"  {'done' if repair else 'with --repair'}: {fault.cure}")
    for file in found.files or ():
        (show if file.is_damage else say)(
            f"{printable(file.model)}: {printable(file.problem, 400)}"
        )
    for note in found.notes:
        say(f"note: {printable(note, 400)}")
    if found.remaining:
        left = ", ".join(fault.check for fault in found.remaining)
        show(f"not repaired: {left}")
    elif found.is_sound:
        show("repaired" if found.faults else f"sound: {found.checks} checks found nothing")
    return 0 if found.is_sound else CHECK_FAILED
