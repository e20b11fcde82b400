"""The command that starts the service."""

from __future__ import annotations

import logging
import secrets
import sys
from pathlib import Path
from urllib.parse import urlencode

import click

from megasim.commands import options
from megasim.commands.console import say, show
from megasim.errors import UsageError, printable, require_extra


@click.command("serve")
@click.option(
    "--models",
    "folders",
    multiple=True,
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    metavar="DIR",
    help="A folder whose checkpoints may be ingested; several may be given.",
)
@click.option(
    "--host",
    default="127.0.0.1",
    show_default=True,
    help="Address to listen at; one that other machines reach needs a token.",
)
@click.option("--port", default=8642, show_default=True, type=click.IntRange(0, 65535))
@click.option(
    "--host-name",
    "host_names",
    multiple=True,
    metavar="NAME",
    help="A name under which browsers reach this machine, as models.example.org.",
)
@click.option(
    "--token-file",
    type=click.Path(dir_okay=False, exists=True, path_type=Path),
    help="A file with the token that everybody needs. Without it, one is made and printed for "
    "addresses that other machines reach.",
)
@click.option(
    "--allow-jobs",
    is_flag=True,
    help="Let people start jobs: ingest, compare, import, report. Without it they only read.",
)
@options.memory
@options.workers
@click.option("--no-access-log", is_flag=True, help="Write no line for each request.")
@click.pass_context
def serve_command(
    ctx: click.Context,
    folders: tuple[Path, ...],
    host: str,
    port: int,
    host_names: tuple[str, ...],
    token_file: Path | None,
    allow_jobs: bool,
    memory: int,
    workers: int | None,
    no_access_log: bool,
) -> None:
    """Serve the store to a team: pages in the browser, an API for programs, jobs.

    Only this machine can reach it, unless --host says otherwise. While it runs, `megasim` commands
    on the same store use it by themselves.
    """
    require_extra("serve", "megasim serve")
    from megasim.serve.running import serve
    from megasim.serve.settings import Settings, is_loopback
    from megasim.store.connection import store_path

    token = "" if token_file is None else _token_of(token_file)
    made = not token and not is_loopback(host)
    if made:
        token = secrets.token_urlsafe(32)
    settings = Settings(
        store=store_path(ctx.find_root().obj).absolute(),
        models=tuple(folder.resolve() for folder in folders),
        host=host,
        port=port,
        token=token,
        allow_jobs=allow_jobs,
        host_names=host_names,
        job_memory=memory,
        workers=workers,
    )
    _log_to_stderr(access=not no_access_log)

    def started(address: str) -> None:
        show(address + (f"?{urlencode({'token': token})}" if made else ""))
        say(f"serving {printable(settings.store, 400)}; Ctrl-C ends it")

    serve(settings, started)


def _token_of(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii").strip()
    except UnicodeDecodeError:
        raise UsageError(
            f"{printable(path, 400)} holds no token", "write one line of ASCII into it"
        ) from None


def _log_to_stderr(*, access: bool) -> None:
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
    logger = logging.getLogger("megasim.serve")
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False
    logging.getLogger("megasim.serve.access").disabled = not access
    errors = logging.getLogger("uvicorn.error")
    errors.addHandler(handler)
    errors.setLevel(logging.WARNING)
