"""What can go wrong, each with its remedy and its exit code."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

# Extra of pyproject.toml → the modules to import that it brings; a new extra gets a line here.
EXTRAS = {
    "torch": ("torch",),
    "demo": ("torch",),
    "gguf": ("gguf",),
    "interactive": ("bokeh",),
    "serve": ("fastapi", "uvicorn", "pyarrow", "bokeh"),
    "cluster": ("dask", "distributed"),
    "recipes": ("yaml",),
    "s3": ("obstore", "pyarrow"),
    "hub": ("obstore", "huggingface_hub"),
    "faiss": ("faiss",),
}
# The exit code of a check that found something.
CHECK_FAILED = 5
# The exit code of a check that found nothing wrong, and could not prove all that was asked.
NOT_PROVED = 6


def printable(text: object, limit: int = 200) -> str:
    """Return `text` safe to print: control characters escaped, at most `limit` characters.

    Names in a checkpoint are a stranger's; a terminal must not obey them.

    >>> printable("a\\x1b[31mb")
    'a\\\\x1b[31mb'
    >>> printable("x" * 300, limit=5)
    'xxxx…'
    """
    safe = str(text)
    if not safe.isprintable():
        safe = "".join(
            c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in safe
        )
    return safe if len(safe) <= limit else safe[: limit - 1] + "…"


class MegasimError(Exception):
    """An error a user can act on: what is wrong, and the remedy, one line each.

    >>> print(MegasimError("no such model: 'x'", "see `megasim models`"))
    no such model: 'x'
    see `megasim models`
    """

    exit_code = 1

    def __init__(self, message: str, remedy: str = "") -> None:
        self.message = message
        self.remedy = remedy
        super().__init__(message if not remedy else f"{message}\n{remedy}")


class CheckpointError(MegasimError):
    """A file or folder that cannot be read as a checkpoint. The others are still read."""

    exit_code = 4

    def __init__(self, path: Path | str, problem: str, remedy: str = "", key: str = "") -> None:
        self.path = path if isinstance(path, Path) else Path(path)
        self.problem = problem
        self.key = key
        where = printable(path, 400) + (f": key {printable(key)}" if key else "")
        super().__init__(f"{where}: {problem}", remedy)


class ForeignFileError(CheckpointError):
    """A file that is no checkpoint, and no broken one either, by its first bytes."""


class UsageError(MegasimError):
    """A question that cannot be asked: an unknown model, component, metric or option."""

    exit_code = 2


class NotAStoreError(MegasimError):
    """The file named as the store is not one."""


class StoreLockedError(MegasimError):
    """Another process holds the store."""

    exit_code = 3


class StoreServedError(StoreLockedError):
    """A service has the store open, for as long as it runs: nobody waits for it.

    >>> print(StoreServedError("s.duckdb", "http://127.0.0.1:8642/").remedy)
    stop it, or use it: megasim.connect("http://127.0.0.1:8642/")
    """

    def __init__(self, store: object, address: str, instead: str = "") -> None:
        where = printable(address, 200)
        super().__init__(
            f"{printable(store)} is served at {where}",
            f"stop it, or {instead or f'use it: megasim.connect({where!r})'}".replace("'", '"'),
        )


class StoreTooNewError(MegasimError):
    """The store was written by a newer megasim."""

    exit_code = 3


class StoreTooOldError(MegasimError):
    """The store was written by an older megasim, and is opened only to be read."""

    exit_code = 3


class NoAnswerError(MegasimError):
    """A well-formed question the store has no data for, e.g. a matrix of one model."""


class LostWorkError(MegasimError):
    """A piece of work that ended every worker process it was given to; the rest is done."""

    exit_code = 4


class MissingExtraError(MegasimError):
    """A command needs a library that was not installed with megasim."""


def missing_modules(extra: str) -> list[str]:
    """Return the modules of an extra that are not installed; nothing is imported by this.

    >>> missing_modules("torch") in ([], ["torch"])
    True
    """
    return [module for module in EXTRAS[extra] if find_spec(module) is None]


def require_extra(extra: str, what: str) -> None:
    """Raise MissingExtraError, one sentence with the command to run, where an extra is missing.

    Nothing is imported by this.

    Args:
        extra: a key of `EXTRAS`.
        what: what needs it, as the subject of the sentence: "--device".
    """
    missing = missing_modules(extra)
    if missing:
        raise MissingExtraError(
            f"{what} needs {' and '.join(missing)}: run `pip install 'megasim[{extra}]'`"
        )
