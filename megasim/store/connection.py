"""Connect to a store, and bring its schema up to date."""

from __future__ import annotations

import os
import re
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

import duckdb

from megasim.errors import (
    MegasimError,
    NoAnswerError,
    NotAStoreError,
    StoreLockedError,
    StoreServedError,
    StoreTooNewError,
    StoreTooOldError,
    printable,
)
from megasim.output_files import FILE_AND_REASON
from megasim.resources import resource_path
from megasim.store.service_file import running_service
from megasim.store.statements import named_statements, statement

Mode = Literal["read", "update", "write"]
DEFAULT_STORE = "megasim.duckdb"
IN_MEMORY = ":memory:"  # what the database calls a store that is no file

_CREATES = re.compile(r"\bcreate or replace (macro|view)\b")
_COMMENTS_ON = re.compile(r"^(comment on (?:view|column))\b ?", re.MULTILINE)


def store_path(path: Path | str | None = None) -> Path:
    """Return where the store is: `path`, else as `MEGASIM_DB` says, else in this folder."""
    return Path(path or os.environ.get("MEGASIM_DB") or DEFAULT_STORE)


def migrations() -> list[tuple[int, str, str]]:
    """Return (version, name, SQL) of every migration, oldest first."""
    folder = resource_path("sql", "migrations")
    found = []
    for path in sorted(folder.glob("[0-9]*.sql")):
        number, _, name = path.stem.partition("_")
        found.append((int(number), name, path.read_text(encoding="utf-8")))
    return found


def connect(
    path: Path,
    mode: Mode = "read",
    *,
    memory: int | None = None,
    threads: int | None = None,
) -> duckdb.DuckDBPyConnection:
    """Open the store at `path`; to "write" creates it where there is none, to "update" does not.

    To "read" changes no byte of it: one of an older schema is refused, and views that are missing
    or older are made for the connection alone. To "update" or "write" brings it up to date.

    Args:
        memory: bytes that DuckDB may use before it spills to disk; DuckDB's default when None.
        threads: how many threads a query may use; all cores when None.

    Raises:
        NoAnswerError: no store there, and `mode` is not "write".
        NotAStoreError: the file is something else.
        MegasimError: the system does not let it be opened, or made.
        StoreLockedError: another process writes to it.
        StoreTooNewError: a newer megasim wrote it.
        StoreTooOldError: an older megasim wrote it, and `mode` is "read".
    """
    exists = path.exists()
    if mode != "write":
        _require_store(path)
    if exists and mode != "read" and not os.access(path.parent, os.W_OK):
        raise MegasimError(
            f"the folder of the store {printable(path)} cannot be written to",
            "writing needs a .wal file beside the store: check the permissions of the folder, or "
            "copy the store elsewhere and name it with --db",
        )
    if not exists and str(path) != IN_MEMORY:
        _create(path)
    con = _open(path, read_only=mode == "read", memory=memory, threads=threads)
    try:
        version = _schema_version(con, path)
        newest = migrations()[-1][0]
        if version > newest:
            raise StoreTooNewError(
                f"{printable(path)} has schema {version}; this megasim knows {newest}",
                "use the version of megasim that wrote it, or a newer one",
            )
        if mode != "read":
            _migrate(con, version)
        elif version == 0:
            raise NoAnswerError(
                f"the store at {printable(path)} is empty", "fill it with `megasim ingest PATH…`"
            )
        elif version < newest:
            raise StoreTooOldError(
                f"{printable(path)} has schema {version}; this megasim reads schema {newest}",
                "run `megasim migrate`: it keeps all that is there, but older versions of megasim "
                "cannot open the store afterwards",
            )
        elif not _views_are_current(con):
            _make_views(con, temporary=True)
    except BaseException:
        con.close()
        raise
    return con


def _create(path: Path) -> None:
    """Make an empty store that appears whole or not at all; leave one that appears meanwhile.

    What the database leaves of a file whose first writes are cut short it cannot open again.
    """
    part = path.with_name(f"{path.name}.{os.getpid()}.new")
    part.unlink(missing_ok=True)
    try:
        with _open(part, read_only=False, memory=None, threads=1) as con:
            _migrate(con, 0)
        try:
            os.link(part, path)
        except FileExistsError:
            pass
        except OSError:  # a file system without links
            part.rename(path)
    finally:
        part.unlink(missing_ok=True)
        part.with_name(f"{part.name}.wal").unlink(missing_ok=True)


def migrate_store(path: Path) -> list[str]:
    """Bring a store up to the schema of this megasim, and return the names of what was new.

    Raises:
        NoAnswerError, NotAStoreError, StoreLockedError, StoreTooNewError: see `connect`.
    """
    _require_store(path)
    with _open(path, read_only=True, memory=None, threads=None) as con:
        version = _schema_version(con, path)
    connect(path, "update").close()
    return [name for number, name, _ in migrations() if number > version]


def _require_store(path: Path) -> None:
    if not path.exists():
        raise NoAnswerError(
            f"there is no store at {printable(path)}",
            "create one with `megasim ingest PATH…`, or name one with --db",
        )


def explained(error: duckdb.Error) -> MegasimError:
    """Return what the database says went wrong, with its remedy: space, permissions or memory."""
    text = str(error)
    file = FILE_AND_REASON.search(text)
    what = f"{printable(file[1], 400)}: {printable(file[2], 300)}" if file else printable(text, 300)
    if "No space left" in text or "disk full" in text.lower():
        remedy = "free some disk space; what was saved before is kept"
    elif isinstance(error, duckdb.OutOfMemoryException):
        remedy = "allow more with --memory; what was saved before is kept"
    elif file:
        remedy = (
            "writing needs a .wal file beside the store: check the owner and permissions of both; "
            "what was saved before is kept"
        )
    else:
        remedy = (
            "what was saved before is kept; a damaged store can be rebuilt, because checkpoints "
            "are never changed"
        )
    return MegasimError(f"the database failed: {what}", remedy)


def _open(
    path: Path, *, read_only: bool, memory: int | None, threads: int | None
) -> duckdb.DuckDBPyConnection:
    config: dict[str, Any] = {
        "autoinstall_known_extensions": "false",
        "autoload_known_extensions": "false",
    }
    if memory is not None:
        config["memory_limit"] = f"{max(memory, 64 << 20)}B"
    if threads is not None:
        config["threads"] = str(threads)
    try:
        con = duckdb.connect(str(path), read_only=read_only, config=config)
        with suppress(duckdb.InvalidInputException):  # a notebook without ipywidgets has no bar
            con.execute(statement("hide_progress_bar"))  # which connect() does not take
    except duckdb.Error as error:
        text = str(error)
        if "replaying WAL" in text:
            raise MegasimError(
                f"the store {printable(path)} cannot be opened: {printable(text, 600)}",
                "move the .wal file beside it away to continue without the last changes; "
                "checkpoints can always be read again",
            ) from None
        if "different configuration" in text:
            raise StoreLockedError(
                f"{printable(path)} is in use by this process", "close it there first"
            ) from None
        if not isinstance(error, duckdb.IOException):
            raise
        if "Could not set lock" in text:
            if service := running_service(path):
                raise StoreServedError(path, service.address) from None
            holder = re.search(r"PID (\d+)", text)
            who = f"process {holder.group(1)}" if holder else "another process"
            raise StoreLockedError(
                f"{printable(path)} is in use by {who}",
                "wait until it is done (see --wait), or stop it; what it has saved is kept",
            ) from None
        if system := re.search(r"Cannot open file .*: (.+)", text):
            raise MegasimError(
                f"the store {printable(path)} cannot be opened: {printable(system.group(1))}",
                "check its folder and its permissions, or name another file with --db",
            ) from None
        raise NotAStoreError(
            f"{printable(path)} is not a megasim store: {printable(text.splitlines()[0])}",
            "name another file with --db",
        ) from None
    return con


def _schema_version(con: duckdb.DuckDBPyConnection, path: Path) -> int:
    try:
        ((version,),) = con.execute(statement("schema_version")).fetchall()
    except duckdb.CatalogException:
        # An empty database is what a run that was stopped at the start leaves.
        if con.execute(statement("table_count")).fetchall() == [(0,)]:
            return 0
        raise NotAStoreError(
            f"{printable(path)} is a DuckDB file but not a megasim store",
            "name another file with --db",
        ) from None
    return int(version or 0)


def _migrate(con: duckdb.DuckDBPyConnection, version: int) -> None:
    """Run what is newer than `version`, each migration and its row in one transaction."""
    newer = [m for m in migrations() if m[0] > version]
    for number, name, sql in newer:
        con.begin()
        try:
            con.execute(sql)
            con.execute(statement("add_schema_version"), [number, name])
            con.commit()
        except BaseException:
            con.rollback()
            raise
    if newer or not _views_are_current(con):
        con.begin()
        _make_views(con)
        con.execute(statement("forget_views"))
        con.execute(statement("remember_views"), [_views_text()])
        con.commit()


def _make_views(con: duckdb.DuckDBPyConnection, *, temporary: bool = False) -> None:
    """Make the views; temporary ones hide those of the store, and leave it as it is."""
    for view in named_statements("views.sql").values():
        if temporary:
            view = _CREATES.sub(r"create or replace temp \1", view)
            view = _COMMENTS_ON.sub(r"\1 temp.", view)
        con.execute(view)


def _views_text() -> str:
    return resource_path("sql", "views.sql").read_text(encoding="utf-8")


def _views_are_current(con: duckdb.DuckDBPyConnection) -> bool:
    return con.execute(statement("views_text")).fetchall() == [(_views_text(),)]
