"""Stacks: models whose layers are layers of others, under another number or of several models."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import pairwise

from megasim.estimate.layer_runs import LayerRun, layer_runs
from megasim.lineage.equal_layers import LayerClasses, equal_layers
from megasim.lineage.settings import SETTINGS, LineageSettings
from megasim.store.rows import Store
from megasim.wording.sentences import joined


@dataclass(frozen=True)
class Stack:
    """A model made of layers of others.

    Attributes:
        runs: in the order of the layers.
        layers: how many it has.
    """

    model: str
    runs: tuple[LayerRun, ...]
    layers: int

    @property
    def shares(self) -> dict[str, float]:
        """Model → share of the layers that are its own."""
        found: dict[str, float] = defaultdict(float)
        for run in self.runs:
            found[run.model] += run.count / self.layers
        return dict(found)

    def sentence(self) -> str:
        """Return the origin of every layer in words."""
        return joined([run.sentence() for run in self.runs])


def find_stack(store: Store, model: str, settings: LineageSettings = SETTINGS) -> Stack | None:
    """Return the stack that a model is, or None if it is none of the store's models.

    See `find_stacks`.

    Raises:
        UsageError: a model that the store does not know.
    """
    store.require_model(model)
    return find_stacks(store, settings).get(model)


def find_stacks(store: Store, settings: LineageSettings = SETTINGS) -> dict[str, Stack]:
    """Return the models of a store that are stacks of others, by name.

    Every numbered layer of a stack holds the very numbers of a layer of some original, as their
    hashes say, and at least one of them stands under another number there.
    """
    classes = equal_layers(store, settings)
    kept = originals(classes)
    held: dict[int, list[tuple[str, int]]] = defaultdict(list)
    for name in sorted(kept):
        for number, layer in classes[name].items():
            held[layer].append((name, number))
    stacks = {}
    for name in sorted(classes.keys() - kept):
        whole = {number: held[layer] for number, layer in classes[name].items()}
        if any(all(start != number for _, start in ats) for number, ats in whole.items()):
            stacks[name] = Stack(name, tuple(layer_runs(whole)), len(whole))
    return stacks


def originals(classes: LayerClasses) -> set[str]:
    """Return the models that the layers of all others can be taken from.

    A model may be a stack of the others if they hold all of its layers. One is left out after the
    other, first that with the most seams: successive layers of which one is more often followed,
    or preceded, by another layer. Where seams do not tell, the one with the most pairs of
    successive layers that stand in no other model; then the one whose number of layers is the
    rarest, then the shortest.

    >>> sorted(originals({"a": {0: 1, 1: 2, 2: 3}, "cut": {0: 1, 1: 3}, "twice": {0: 1, 1: 1}}))
    ['a']
    """
    kept = set(classes)
    chains = {name: [held[n] for n in sorted(held)] for name, held in classes.items()}
    lengths = Counter(len(chain) for chain in chains.values())
    holders = Counter(layer for chain in chains.values() for layer in set(chain))
    pairs = Counter(pair for chain in chains.values() for pair in set(pairwise(chain)))
    after, before = _alternatives(pairs)

    def rank(name: str) -> tuple[int, int, int, int, str]:
        own = list(pairwise(chains[name]))
        seams = sum(
            any(pairs[x, other] > pairs[x, y] for other in after[x])
            or any(pairs[other, y] > pairs[x, y] for other in before[y])
            for x, y in own
        )
        alone = sum(pairs[pair] == 1 for pair in own)
        return seams, alone, -lengths[len(chains[name])], -len(chains[name]), name

    while True:
        covered = [n for n in kept if all(holders[layer] > 1 for layer in chains[n])]
        if not covered:
            return kept
        stack = max(covered, key=rank)
        kept.remove(stack)
        holders.subtract(set(chains[stack]))
        pairs.subtract(set(pairwise(chains[stack])))


def _alternatives(
    pairs: Iterable[tuple[int, int]],
) -> tuple[Mapping[int, set[int]], Mapping[int, set[int]]]:
    """Return what follows each layer anywhere, and what precedes it."""
    after: dict[int, set[int]] = defaultdict(set)
    before: dict[int, set[int]] = defaultdict(set)
    for x, y in pairs:
        after[x].add(y)
        before[y].add(x)
    return after, before
