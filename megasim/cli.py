"""The command line: its commands, and what an error means for the exit code."""

from __future__ import annotations

import atexit
import errno
import gc
import importlib
import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from shlex import quote
from typing import Any

import click

from megasim.commands.console import say, set_quiet, show, show_error
from megasim.errors import MegasimError, printable
from megasim.interrupts import ENDING_SIGNALS, is_asked, stoppable
from megasim.resources import __version__

# Command → the module of `commands` that holds it, imported when one of its commands is used.
COMMANDS = {
    "ingest": "ingest",
    "compare": "compare",
    "models": "store",
    "forget": "upkeep",
    "compact": "upkeep",
    "migrate": "upkeep",
    "doctor": "upkeep",
    "verify": "verification",
    "findings": "findings",
    "why": "findings",
    "layers": "findings",
    "known": "findings",
    "matrix": "matrix",
    "heatmap": "matrix",
    "nearest": "matrix",
    "kinship": "matrix",
    "map": "geometry",
    "trajectory": "geometry",
    "histogram": "geometry",
    "lineage": "lineage",
    "recipe": "lineage",
    "direction": "lineage",
    "adapter": "adapters",
    "report": "findings",
    "sql": "store",
    "identify": "exchange",
    "import": "exchange",
    "export": "exchange",
    "serve": "serve",
    "demo": "demo",
}


class _Commands(click.Group):
    """A group that imports a command when it is used."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        module = COMMANDS.get(name)
        if module is None:
            return None
        found = getattr(importlib.import_module(f"megasim.commands.{module}"), f"{name}_command")
        assert isinstance(found, click.Command)
        return found

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands, each with its first sentence whole."""
        commands = [(name, self.get_command(ctx, name)) for name in self.list_commands(ctx)]
        with formatter.section("Commands"):
            formatter.write_dl([(name, c.get_short_help_str(200)) for name, c in commands if c])


@click.group(
    cls=_Commands,
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Exit codes: 0 done · 1 failed · 2 wrong usage · 3 store locked, too old or too new · "
    "4 some checkpoints unreadable, the rest saved · 5 a check found something · 6 not proved · "
    "130 interrupted, progress kept.",
)
@click.version_option(__version__, prog_name="megasim")
@click.option(
    "--db",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Path of the store [default: MEGASIM_DB, or megasim.duckdb in this folder].",
)
@click.option(
    "--wait",
    type=click.FloatRange(0),
    default=10.0,
    show_default="10",
    metavar="[SECONDS]",
    help="How long to wait while another process uses the store; without a number, for ever.",
)
@click.option(
    "--limits",
    type=click.FloatRange(1),
    metavar="FACTOR",
    help="Multiply the limits on what one file may cost before it is refused "
    "[default: MEGASIM_LIMITS, or 1].",
)
@click.option("-q", "--quiet", is_flag=True, help="Print results and errors only.")
@click.pass_context
def megasim(
    ctx: click.Context, db: Path | None, wait: float, limits: float | None, quiet: bool
) -> None:
    """What changed between these checkpoints, and where did each come from?

    \b
    megasim ingest models/      fingerprint every checkpoint of a folder
    megasim compare             compute the distances that are still missing
    megasim findings            say what is unchanged, and what changed
    megasim report -o report    write everything as one page
    """
    ctx.obj = db
    if limits is not None:
        from megasim.checkpoint.limits import raised_limits

        ctx.with_resource(raised_limits(limits))
    set_quiet(quiet)
    if ctx.invoked_subcommand is None:
        show(_first_steps(db) or ctx.get_help())


def _first_steps(db: Path | None) -> str:
    """Return the commands to begin with, where there is no store yet."""
    from megasim.store.connection import store_path

    where = store_path(db)
    if where.exists():
        return ""
    named = "" if db is None else f" --db {quote(printable(db, 4096))}"
    return (
        f"There is no store at {printable(where)} yet. Begin with:\n\n"
        f"  megasim{named} ingest models/   fingerprint the checkpoints of a folder\n"
        f"  megasim{named} compare          compute the distances of all pairs\n"
        f"  megasim{named} findings         say what is unchanged, and what changed\n\n"
        "`megasim --help` lists all commands; `megasim demo` runs them on small models of its own."
    )


def main() -> None:
    """Run the command line and exit.

    The process ends without Python's own clean-up of modules, which would take a quarter of a
    second. Stores and files are closed by then.
    """
    # The collector's usual passes, one for each 700 new objects, take a tenth of the imports.
    gc.set_threshold(50_000, 20, 50)
    try:
        with stoppable(ENDING_SIGNALS):
            code = run(sys.argv[1:])
    except KeyboardInterrupt:  # just before or after
        code = _interrupted()
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with suppress(AttributeError, OSError):  # none there, or nobody reads it
            stream.flush()
    os._exit(code)


def run(arguments: Sequence[str]) -> int:
    """Run one command and return its exit code; an error is printed, never raised."""
    try:
        given = _with_endless_wait(arguments)
        result: Any = megasim.main(given, prog_name="megasim", standalone_mode=False)
        sys.stdout.flush()
        return result if isinstance(result, int) else 0
    except click.exceptions.Exit as ended:
        return ended.exit_code
    except SystemExit as ended:  # what completes words for the shell ends so
        return int(ended.code or 0)
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (KeyboardInterrupt, click.Abort):
        return _interrupted()
    except MegasimError as error:
        show_error(error)
        return error.exit_code
    except BrokenPipeError:
        # the reader of our output has gone; leave nothing for Python to flush at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        show_error(_system_error(error))
        return 1
    except MemoryError:
        show_error(MegasimError("out of memory", "use less: a smaller --memory, or --workers 1"))
        return 1
    except Exception as error:
        if is_asked():  # what was under way may say it in words of its own
            return _interrupted()
        # DuckDB is not imported for an error alone; if one is its own, it is loaded already
        duckdb = sys.modules.get("duckdb")
        if duckdb is None or not isinstance(error, duckdb.Error):
            raise
        from megasim.store.connection import explained

        show_error(explained(error))
        return 1


def _with_endless_wait(arguments: Sequence[str]) -> list[str]:
    """Give a --wait without a number one, which click cannot do.

    >>> _with_endless_wait(["--wait", "models"]), _with_endless_wait(["--wait", "5", "models"])
    (['--wait=inf', 'models'], ['--wait', '5', 'models'])
    """
    given = list(arguments)
    for i, argument in enumerate(given):
        number = given[i + 1] if i + 1 < len(given) else ""
        if argument == "--wait" and not number.replace(".", "", 1).isdigit():
            given[i] = "--wait=inf"
    return given


def _system_error(error: OSError) -> MegasimError:
    if error.errno == errno.ENOSPC and not error.filename:
        # files name themselves; nothing must be left for Python to flush at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return MegasimError("standard output: no space left", "free some disk space")
    what = f"{printable(error.filename, 400)}: " if error.filename else ""
    why = error.strerror or printable(error, 300)
    return MegasimError(
        f"{what}{why}", "check that the folder exists, its permissions and its free space"
    )


def _interrupted() -> int:
    say("interrupted; finished work is saved, and the same command continues it")
    return 130


if __name__ == "__main__":
    main()
