"""Names of models as people type them: whole, or as much of one as tells it from the others."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Sequence

from megasim.errors import UsageError, printable

_MOST_LISTED = 12


def full_name(typed: str, known: Collection[str], where: str = "") -> str:
    """Return the name that is meant: `typed` itself, or the only one that begins with it.

    >>> full_name("x215c", ["x215c-AstolfoMix", "x315"]), full_name("a", ["a", "ab"])
    ('x215c-AstolfoMix', 'a')

    Args:
        known: all names there are.
        where: said in an error after "no such model", e.g. " in the matrix".

    Raises:
        UsageError: no name begins so, or several do; these are listed.
    """
    if typed in known:
        return typed
    begun = [name for name in known if name.startswith(typed)] if typed else []
    if len(begun) == 1:
        return begun[0]
    if begun:
        raise UsageError(
            f"{printable(typed)!r} is the beginning of {len(begun)} model names",
            f"use a longer prefix: {_listed(begun)}",
        )
    raise no_such_model(typed, known, where)


def no_such_model(name: str, known: Collection[str], where: str = "") -> UsageError:
    """Return the error about a name that no model has, with the names closest to it."""
    near = difflib.get_close_matches(name, list(known), n=3)
    return UsageError(
        f"no such model{where}: {printable(name)!r}",
        "did you mean " + " or ".join(map(printable, near)) + "?"
        if near
        else "see `megasim models` for the names",
    )


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(map(printable, names[:_MOST_LISTED]))
    more = len(names) - _MOST_LISTED
    return f"{shown} and {more:,} more" if more > 0 else shown
