"""Which models were not read in full, and what that means for what is said of them."""

from __future__ import annotations

from collections.abc import Iterable

from megasim.store.rows import Model
from megasim.wording.sentences import listed
from megasim.words import Tier

_SHOWN = 12
_MEANS = {
    Tier.HEADER: "read as a header alone: what it holds is known, its values are not",
    Tier.SAMPLE: "read as a sample: distances are estimates, and what is the same is only known of "
    "the elements that were read",
}


def tier_sentences(models: Iterable[Model], whole: bool = True) -> tuple[str, ...]:
    """Say which models were not read in full; nothing where all were.

    >>> tier_sentences([Model("a", tier="header"), Model("b")])[0][:27]
    'a: read as a header alone: '
    """
    known = list(models)
    lines = []
    for tier, means in _MEANS.items():
        names = [model.name for model in known if model.tier == tier]
        if names:
            lines.append(f"{listed(names, None if whole else _SHOWN)}: {means}")
    if lines:
        lines.append(
            "how they are related is not said of these; `megasim ingest` without --header and "
            "--sample reads the rest"
        )
    return tuple(lines)
