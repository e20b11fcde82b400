"""Models that are others with their hidden units in another order: the same network."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations

import networkx as nx

from megasim.estimate.kinship import ERROR_RATE, PERMUTED_SHARE, KinshipTest, shared_units
from megasim.lineage.settings import SETTINGS, LineageSettings
from megasim.store.rows import Store


def permuted_copies(
    store: Store,
    component: str,
    kinship: KinshipTest,
    norms: Mapping[str, float],
    settings: LineageSettings = SETTINGS,
) -> dict[frozenset[str], tuple[int, int]]:
    """Return pairs of models → how many hidden units were found again, and how many there are.

    Another order of hidden units leaves the norm of a model as it was, so only pairs of one norm
    are looked at that the order itself does not show to be related.
    """
    related = kinship.related(ERROR_RATE)
    place = {name: i for i, name in enumerate(kinship.models)}
    known = sorted((norm, name) for name, norm in norms.items() if name in place)
    found: dict[frozenset[str], tuple[int, int]] = {}
    for (low, a), (high, b) in combinations(known, 2):
        if high > low * (1 + settings.one_norm):
            continue
        i, j = place[a], place[b]
        if related[i, j] or not kinship.units[i, j]:
            continue
        units, again = shared_units(store, a, b, component)
        if units and again >= PERMUTED_SHARE * units:
            found[frozenset((a, b))] = again, units
    return found


def joined_sets(
    weight_sets: Mapping[str, str], permuted: Mapping[frozenset[str], tuple[int, int]]
) -> dict[str, str]:
    """Return model → a name for the set of models with the same weights, in whatever order."""
    sets: nx.utils.UnionFind[str] = nx.utils.UnionFind()
    for name, of in weight_sets.items():
        sets.union(name, of)
    for pair in permuted:
        sets.union(*sorted(pair))
    return {name: min(group) for group in sets.to_sets() for name in group}
