"""How often a direction or an edge that was told with a probability was right, as measured."""

from __future__ import annotations

import csv
from functools import cache

import numpy as np

from megasim.resources import resource_path


def calibrated(probability: float) -> float:
    """Return how often directions that the evidence gives this probability were right.

    The evidence is added up as if its pieces were independent, which they are not. What that
    leaves is put right by the table `data/direction_confidence.csv`, linear between its rows.

    >>> calibrated(0.5)
    0.5
    >>> calibrated(0.2) == 1 - calibrated(0.8)
    True
    """
    told, right = _table("direction_confidence.csv")
    if probability < 0.5:
        return 1 - calibrated(1 - probability)
    return float(np.interp(probability, told, right))


def calibrated_edge(probability: float) -> float:
    """Return how often edges were true that their costs give this probability.

    By the table `data/edge_confidence.csv`, linear between its rows.

    >>> calibrated_edge(0.55)
    0.706
    """
    told, right = _table("edge_confidence.csv")
    return float(np.interp(probability, told, right))


def edge_probability(confidence: float) -> float:
    """Return what the costs of an edge gave it, from the confidence that it was told with.

    >>> round(edge_probability(calibrated_edge(0.42)), 6)
    0.42
    """
    told, right = _table("edge_confidence.csv")
    return float(np.interp(confidence, right, told))


@cache
def _table(name: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
    with resource_path("data", name).open(encoding="utf-8") as file:
        rows = list(csv.DictReader(line for line in file if not line.startswith("#")))
    return tuple(float(r["told"]) for r in rows), tuple(float(r["right"]) for r in rows)
