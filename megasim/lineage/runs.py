"""Which models may be checkpoints of one run of training, where the metadata names no run."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
import numpy.typing as npt

from megasim.estimate.kinship import KinshipTest
from megasim.lineage.evidence import NAMED_RUN, ModelFacts
from megasim.lineage.families import FamilyDistances, by_hidden_units
from megasim.lineage.settings import SETTINGS, LineageSettings

Bools = npt.NDArray[np.bool_]


def count_odds(
    family: FamilyDistances,
    edges: Iterable[tuple[int, int]],
    known: Mapping[str, ModelFacts],
    kin: Bools,
    settings: LineageSettings = SETTINGS,
) -> dict[tuple[int, int], float]:
    """Return what step and epoch counts are worth on the edges of a tree, in log odds.

    Counts of two runs say nothing of each other: each begins at its own start. Two models may
    be of one run when

    - their metadata agree in all but the counts;
    - they are shown to be kin, by the order of their hidden units or by a cosine of their
      weights that only training from one start leaves;
    - with a third model of that run, the one in the middle of the counts stands nearer to either
      end than these to each other.

    Counts in a run of three models or more are a record. Of two models the third condition cannot
    be tried: a fine-tune that counts anew from 0 looks the same, so they are worth less. A pair
    that is not named is worth nothing.

    Args:
        edges: pairs of places in the family.
        kin: (N, N) which models of the family are shown to be kin.
    """
    runs: dict[tuple[str, tuple[str, str]], dict[int, int]] = {}
    for i, name in enumerate(family.names):
        facts = known.get(name)
        for unit, count in facts.counts.items() if facts else ():
            if facts is not None and unit[0] != NAMED_RUN:
                runs.setdefault((facts.run, unit), {})[i] = count
    squared = family.matrix.squared()
    worth: dict[tuple[int, int], float] = {}
    for a, b in edges:
        for counts in runs.values():
            if a not in counts or b not in counts or counts[a] == counts[b] or not kin[a, b]:
                continue
            thirds = [c for c in counts if c not in (a, b) and kin[a, c] and kin[b, c]]
            ordered = [_in_order(squared, counts, (a, b, c)) for c in thirds]
            if not ordered:
                worth[a, b] = settings.count_of_two
            elif 2 * sum(ordered) > len(ordered):
                worth[a, b] = settings.record
            break
    return worth


def _in_order(
    squared: npt.NDArray[np.float64], counts: Mapping[int, int], three: tuple[int, int, int]
) -> bool:
    """Return whether the first and the last of three by their counts stand farthest apart."""
    first, middle, last = sorted(three, key=lambda i: counts[i])
    ends = squared[first, last]
    return bool(ends >= max(squared[first, middle], squared[middle, last]))


def shown_kin(
    family: FamilyDistances,
    norms: Mapping[str, float],
    kinship: KinshipTest | None,
    settings: LineageSettings = SETTINGS,
) -> Bools:
    """Return (N, N) which models are shown to be kin; not those that are one family by default.

    Args:
        norms: model → L2 of its weights, where known: where the order of hidden units decides
            nothing, a cosine of the weights does that only training from one start leaves.
        kinship: what the order of their hidden units says, where it was tested.
    """
    known = np.array([norms.get(name, np.nan) for name in family.names])
    with np.errstate(invalid="ignore", divide="ignore"):
        product = (known[:, None] ** 2 + known**2 - family.matrix.squared()) / 2
        near = np.asarray(product > settings.one_start_cosine * known[:, None] * known)
    if kinship is None:
        return near
    kin, unrelated = by_hidden_units(family.names, kinship)
    return np.asarray(kin | (near & ~unrelated))
