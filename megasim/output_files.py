"""Files that a user asked for: whole or not at all, and an error that names them."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

# What DuckDB says of a file, as it is or within JSON: Could not write file "…": no space left
FILE_AND_REASON = re.compile(r'file \\*"([^"\\]+)\\*": ([^"]+)')


@contextmanager
def replaced_file(path: Path) -> Iterator[Path]:
    """Give a path to write to; what is there takes the place of `path` when the block ends.

    Until then the old file stands, and it stays where anything goes wrong. What is no regular
    file (a pipe, /dev/stdout) is written to directly, and so is a file whose folder takes no new
    ones.

    Raises:
        OSError: with `path` as its file name, whatever name it came with.
    """
    target = path.resolve() if path.is_symlink() else path
    here = target.with_name(f".{os.getpid()}.part")
    if target.exists():
        if not os.access(target, os.W_OK):
            raise PermissionError(13, "the file is write-protected", str(path))
        if not target.is_file() or not os.access(target.parent, os.W_OK):
            here = target
    try:
        yield here
        if here != target:
            here.replace(target)
    except OSError as error:
        raise OSError(error.errno, error.strerror or str(error), str(path)) from error
    finally:
        if here != target:
            with suppress(OSError):
                here.unlink(missing_ok=True)


def write_file(path: Path, content: bytes | str) -> None:
    """Write a file whole or not at all; text as UTF-8, with \\ before what that cannot hold.

    Raises:
        OSError: see `replaced_file`.
    """
    if isinstance(content, str):
        content = content.encode("utf-8", "backslashreplace")
    with replaced_file(path) as here:
        here.write_bytes(content)


def write_if_new(path: Path, content: bytes) -> None:
    """Write a file, unless it holds just that already. See `write_file`."""
    if not path.exists() or path.read_bytes() != content:
        write_file(path, content)


@contextmanager
def parquet_file(path: Path) -> Iterator[Path]:
    """Give a path for the database to write to. See `replaced_file`.

    Raises:
        OSError: it cannot be written; with `path` as its file name.
    """
    import duckdb  # only who writes one waits for it

    with replaced_file(path) as here:
        try:
            yield here
        except duckdb.IOException as error:
            found = FILE_AND_REASON.search(str(error))
            why = found[2] if found else str(error)
            numbers = {os.strerror(number): number for number in errno.errorcode}
            raise OSError(numbers.get(why, errno.EIO), why) from error
