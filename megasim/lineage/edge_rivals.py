"""How likely an edge of a tree is, and which others could stand in its place."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np

from megasim.lineage.inner_products import Floats
from megasim.lineage.settings import SETTINGS, LineageSettings


@dataclass(frozen=True)
class EdgeOdds:
    """How likely an edge is, where the rest of the tree is taken as it stands.

    Attributes:
        probability: of the edge among all that would join the same two parts, 0 to 1.
        rivals: (a, b, probability) of the likeliest others, a on the side of the first end.
    """

    probability: float
    rivals: tuple[tuple[int, int, float], ...]


def edge_odds(
    edge: tuple[int, int],
    side: Collection[int],
    costs: Floats,
    left_out: Collection[int],
    settings: LineageSettings = SETTINGS,
) -> EdgeOdds:
    """Return how likely an edge is, and its rivals.

    Without it, the tree falls into two parts, and any model of one may stand beside any of the
    other. The log likelihood of each pair is taken for proportional to its cost.

    Args:
        side: the models on the side of the first end when the edge is cut.
        costs: (N, N) from `Steps.costs`.
        left_out: models that are no rivals, as merges: these lie near their parents.

    >>> costs = np.array([[0, 0, 0.1], [0, 0, 0], [0.1, 0, 0.0]])
    >>> odds = edge_odds((1, 2), {0, 1}, costs, ())
    >>> round(odds.probability, 2), [(a, b, round(p, 2)) for a, b, p in odds.rivals]
    (0.73, [(0, 2, 0.27)])
    """
    a, b = edge
    first = np.array([i for i in sorted(side) if i == a or i not in left_out])
    rest = set(range(len(costs))) - set(side)
    second = np.array([i for i in sorted(rest) if i == b or i not in left_out])
    log = settings.edge_sureness * (costs[a, b] - costs[np.ix_(first, second)]).ravel()
    likelihood = np.exp(log - log.max())
    likelihood /= likelihood.sum()
    shown = min(settings.most_rivals + 1, len(likelihood))
    least = np.partition(likelihood, -shown)[-shown]
    top = np.flatnonzero(likelihood >= least)
    order = top[np.argsort(-likelihood[top], kind="stable")][:shown]
    pairs = [
        (int(first[k // len(second)]), int(second[k % len(second)]), float(likelihood[k]))
        for k in order.tolist()
    ]
    own = float(likelihood[np.searchsorted(first, a) * len(second) + np.searchsorted(second, b)])
    rivals = [x for x in pairs if x[:2] != edge and x[2] >= settings.least_rival]
    return EdgeOdds(own, tuple(rivals[: settings.most_rivals]))
