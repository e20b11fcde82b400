"""Series of models by the number in their names: epochs, steps, versions."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

LEAST_MODELS = 3
_NUMBER = re.compile(r"[0-9]{1,9}")
_EPOCHS = re.compile(r"(?:^|[^a-z])(?:e|ep|epochs?|steps?|s|gs)[-_ .]?$", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Chain:
    """Models whose names differ in one number only, in the order of that number.

    Attributes:
        models: three names or more.
        label: the name with "#" for the number.
        is_run: whether the name says that the number is an epoch or a step.
    """

    models: tuple[str, ...]
    label: str
    is_run: bool


def find_chains(names: Iterable[str]) -> list[Chain]:
    """Return the series among some names: runs of training first, then the longest.

    What a name says is a claim: whether the models form a chain is for the distances to tell.

    >>> found = find_chains(["run-e10", "run-e9", "mix v1.5", "run-e8", "sd15"])
    >>> [(chain.label, chain.models) for chain in found]
    [('run-e#', ('run-e8', 'run-e9', 'run-e10'))]
    """
    series: dict[tuple[str, str], dict[int, str]] = defaultdict(dict)
    for name in sorted(set(names)):
        for number in _NUMBER.finditer(name):
            around = (name[: number.start()], name[number.end() :])
            series[around].setdefault(int(number.group()), name)
    chains = [
        Chain(
            tuple(members[number] for number in sorted(members)),
            f"{before}#{after}",
            bool(_EPOCHS.search(before)),
        )
        for (before, after), members in series.items()
        if len(members) >= LEAST_MODELS
    ]
    return sorted(chains, key=lambda c: (not c.is_run, -len(c.models), c.label))
