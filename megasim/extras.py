"""What only some commands need and a plain install leaves out: asked for before work begins."""

from __future__ import annotations

from importlib.util import find_spec

from megasim.errors import MegasimError

# Extra of pyproject.toml → the modules to import that it brings; a new extra gets a line here.
EXTRAS = {
    "torch": ("torch",),
    "demo": ("torch",),
}


class MissingExtraError(MegasimError):
    """A command needs a library that was not installed with megasim."""


def require_extra(extra: str, what: str) -> None:
    """Raise MissingExtraError, one sentence with the command to run, where an extra is missing.

    Nothing is imported by this.

    Args:
        extra: a key of `EXTRAS`.
        what: what needs it, as the subject of the sentence: "--device".
    """
    missing = [module for module in EXTRAS[extra] if find_spec(module) is None]
    if missing:
        raise MissingExtraError(
            f"{what} needs {' and '.join(missing)}: run `pip install 'megasim[{extra}]'`"
        )
