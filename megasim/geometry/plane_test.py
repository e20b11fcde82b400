"""The flat-plane test: is a plane more than steps in unrelated directions give by themselves?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from itertools import product

import numpy as np

from megasim.geometry.embedding import cumulative_shares, negative_mass, spectrum
from megasim.geometry.walk import (
    PathSquares,
    Walk,
    find_walk,
    same_edges,
    spanning_tree,
    step_products,
    unrelated_walks,
)
from megasim.matrix.distance_matrix import Floats

LINE = "line"
PLANE = "plane"
UNRELATED = "no more than unrelated steps give"
MORE = "more than two dimensions"
TOO_FEW = "too few models"
VERDICTS = (LINE, PLANE, UNRELATED, MORE, TOO_FEW)

LEAST_MODELS = 4
LINE_SHARE = 0.95  # of the variance, along one axis
PLANE_SHARE = 0.90  # of the variance, within two
MORE_SHARE = 0.95  # of the variance, within the dimensions that are said to hold it
FIRM = 0.9  # of what unrelated steps leave outside; above, a difference is not called one
FIRM_FEW = 0.5  # the same below `MANY_MODELS`, where chance makes flat figures easily
MANY_MODELS = 7
TURN = 0.1  # a turn cosine from which steps count as going on (84 degrees)
COHERENCE = 0.05  # below this a direction is too weak to be called one, however certain
ALPHA = 0.05
_GROUPS = 24  # most parts the models are left out in, and
_LARGE = 300  # above this many models
_GROUPS_OF_LARGE = 8
_EXACT_STEPS = 15  # up to here all sign patterns are tried
_DRAWS = 9999


@dataclass(frozen=True)
class PathDirection:
    """Whether the steps of a path go on in one direction.

    Attributes:
        coherence: see `walk.PathSquares`; NaN below two steps.
        turn_cosines: (m − 1,) at each inner model of the path.
        p_value: the share of sign patterns, the steps reversed or not, whose coherence is at
            least the observed one (at most, for a negative one); NaN below two steps.
        patterns: how many sign patterns that was.
        name: "persistent", "persistent early on", "persistent late", "turning back", "none",
            or "not testable" where even all steps aligned would not reach p = 0.05.
    """

    coherence: float
    turn_cosines: Floats
    p_value: float
    patterns: int
    name: str


@dataclass(frozen=True)
class PlaneTest:
    """The outcome of the flat-plane test.

    Attributes:
        verdict: one of `VERDICTS`.
        dimensions: how many dimensions the verdict speaks of; 0 where it speaks of none.
        planarity: (λ1+λ2)/Σλ⁺, NaN if all models are identical.
        orthogonal_walk: the planarity of the same steps at right angles.
        reference: the greatest of that and the planarity of unrelated steps when each model has
            also a change of its own (`walk.unrelated_walks`), along the path and the tree.
        outside: (1 − share)/(1 − reference share) of the verdict's dimensions, or of two:
            what lies outside, as a multiple of what unrelated steps leave there.
        outside_left_out: the least and the greatest of it when models are left out; NaN where
            too few models are left.
        explained: (N − 2,) share of the variance within 1, 2 … dimensions.
        explained_by_walk: (N − 2,) the same for the steps at right angles.
        models: N.
        groups: in how many parts they were left out.
        direction: along the path of the walk.
    """

    verdict: str
    dimensions: int
    planarity: float
    orthogonal_walk: float
    reference: float
    outside: float
    outside_left_out: tuple[float, float]
    explained: Floats
    explained_by_walk: Floats
    models: int
    groups: int
    direction: PathDirection


def plane_test(squared: Floats, walk: Walk | None = None) -> PlaneTest:
    """Return whether the models lie on a line or a plane, and whether that means anything.

    The share of the variance within k dimensions is compared with the share that the same
    steps give at right angles to each other, along the walk and along the spanning tree, each
    model with or without a change of its own (whichever gives most). A verdict needs (a) the
    share itself, at least `LINE_SHARE` or `PLANE_SHARE`; and (b) that what lies outside is less
    than `FIRM` times what unrelated steps leave there (`FIRM_FEW` below `MANY_MODELS`), also
    with any model left out (any of 24 groups of models when there are more, of 8 above 300).
    Negative mass counts as lying outside: noise of the distances makes as much of it as it
    makes of false dimensions.

    Args:
        squared: (N, N) squared distances, none missing, N ≥ 1.
        walk: `find_walk(squared)` if not given.

    Not guaranteed: that the dimensions mean anything to the model, or that another order of
    the models gives the same direction. Distances that are all exact still come from one
    sample of models; leaving out measures only how much hangs on one of them.

    >>> line = np.square(np.subtract.outer(np.arange(6.0), np.arange(6.0)))
    >>> plane_test(line).verdict
    'line'
    """
    walk = find_walk(squared) if walk is None else walk
    direction = sign_flip_test(squared, walk.order)
    shares, plain, references, noise = _shares(squared, walk)
    ratios = _outside(shares, references, noise)
    left_out = _left_out_ratios(squared, walk)
    dimensions = 0
    if distinct_models(squared) < LEAST_MODELS:
        verdict = TOO_FEW
    else:
        verdict, dimensions = _verdict(shares, references, ratios, left_out)
    k = (dimensions or 2) - 1
    return PlaneTest(
        verdict=verdict,
        dimensions=dimensions,
        planarity=_at(shares, 1),
        orthogonal_walk=_at(plain, 1),
        reference=_at(references, 1),
        outside=_at(ratios, k),
        outside_left_out=_range(left_out[:, k]) if k < left_out.shape[1] else (np.nan, np.nan),
        explained=shares,
        explained_by_walk=plain,
        models=len(squared),
        groups=len(left_out),
        direction=direction,
    )


def sign_flip_test(squared: Floats, order: Sequence[int]) -> PathDirection:
    """Return whether the steps of a path persist in a direction: a sign-flip test.

    If the steps are unrelated, each is as likely to go forward as backward along its own line,
    so reversing any of them at random gives an equally likely path with the same step lengths
    and the same cosines but for their signs. This needs no guess of how many dimensions the
    steps have to themselves. All patterns are tried up to 15 steps, 9,999 drawn beyond
    (always the same ones); p = 1/2^(m−1) is the least that m steps can reach.

    Args:
        squared: (N, N); NaN only where the path does not need it gives NaN, not an error.
        order: the models of the path.
    """
    path = PathSquares.along(squared, order)
    turns, value = path.turn_cosines(), float(path.coherence())
    steps = len(order) - 1
    if steps < 2 or np.isnan(value):
        return PathDirection(value, turns, float("nan"), 0, "not testable")
    products = step_products(squared, order)
    np.fill_diagonal(products, 0.0)
    signs = _sign_patterns(steps)
    sums = np.einsum("ki,ki->k", signs @ products, signs)
    observed = float(products.sum())
    tolerance = 1e-9 * float(np.abs(products).sum())
    extreme = sums >= observed - tolerance if value >= 0 else sums <= observed + tolerance
    p = float(extreme.mean())
    return PathDirection(value, turns, p, len(signs), _direction_name(value, turns, p, steps))


def distinct_models(squared: Floats) -> int:
    """Return how many of the models differ from each other: those at distance 0 count once.

    >>> distinct_models(np.array([[0.0, 0, 4], [0, 0, 4], [4, 4, 0]]))
    2
    """
    return int((np.argmax(squared == 0, axis=1) == np.arange(len(squared))).sum())


def _shares(squared: Floats, walk: Walk) -> tuple[Floats, Floats, Floats, float]:
    """Return the share within 1, 2 … N−2 dimensions, and the negative mass.

    The shares are of the models, of the walk, and of the reference: the most that any of the
    walks of unrelated steps gives.
    """
    walks = [unrelated_walks(squared, walk)]
    if walk.kind == "path":
        # an order that jumps to and fro is far from the distances; the tree keeps near to them
        tree = spanning_tree(squared)
        if not same_edges(walk, tree):
            walks.append(unrelated_walks(squared, tree))
    values = spectrum(np.concatenate([squared[None], *walks]))
    # N points always lie in N−1 dimensions, so that the share of the last says nothing
    shares = cumulative_shares(values)[:, : max(len(squared) - 2, 0)]
    noise = float(negative_mass(values[0]))
    return shares[0], shares[1], shares[1:].max(axis=0), noise


def _outside(shares: Floats, references: Floats, noise: float) -> Floats:
    left = 1.0 - references
    # where unrelated steps leave nothing outside either, there is nothing to be found
    return np.where(left > 1e-9, (1.0 - shares + noise) / np.where(left > 1e-9, left, 1.0), 1.0)


def _left_out_ratios(squared: Floats, walk: Walk) -> Floats:
    """Return (groups, N−2) of what lies outside, one group of models left out at a time."""
    n = len(squared)
    groups = min(n, _GROUPS if n <= _LARGE else _GROUPS_OF_LARGE)
    # neighbours on the path fall into different groups, so that no stretch of it is lost
    queue = [*walk.order, *(i for i in range(n) if i not in set(walk.order))]
    ratios = np.full((groups, max(n - 2, 0)), np.nan)
    for group in range(groups):
        left_out = set(queue[group::groups])
        kept = [i for i in range(n) if i not in left_out]
        if len(kept) < 3:
            continue
        place = {model: i for i, model in enumerate(kept)}
        order = [place[i] for i in walk.order if i in place] if walk.kind == "path" else []
        rest = squared[np.ix_(kept, kept)]
        shares, _, references, noise = _shares(rest, spanning_tree(rest, order))
        ratios[group, : len(shares)] = _outside(shares, references, noise)
    return ratios


def _verdict(
    shares: Floats, references: Floats, ratios: Floats, left_out: Floats
) -> tuple[str, int]:
    worst = np.array([_range(column)[1] for column in left_out.T])
    bound = FIRM if len(shares) + 2 >= MANY_MODELS else FIRM_FEW
    firm = np.fmax(ratios, worst) < bound
    if shares[0] >= LINE_SHARE and firm[0]:
        return LINE, 1
    if shares[1] >= PLANE_SHARE and firm[1]:
        return PLANE, 2
    # many dimensions are tried, so more is asked of each, and where unrelated steps need no more
    # of them there is nothing to be found
    enough = np.flatnonzero(
        (shares >= MORE_SHARE) & (references < MORE_SHARE) & (np.fmax(ratios, worst) < FIRM_FEW)
    )
    if enough.size:
        return MORE, int(enough[0]) + 1
    # flatter than unrelated steps, yet not flat
    return (MORE, 0) if firm[1] else (UNRELATED, 0)


@cache
def _sign_patterns(steps: int) -> Floats:
    if steps <= _EXACT_STEPS:
        return np.array([(1.0, *rest) for rest in product((1.0, -1.0), repeat=steps - 1)])
    draws = np.random.default_rng(0).choice([-1.0, 1.0], size=(_DRAWS, steps))
    return np.vstack([np.ones(steps), draws])


def _direction_name(value: float, turns: Floats, p: float, steps: int) -> str:
    if 0.5 ** (steps - 1) > ALPHA:
        return "not testable"
    if p > ALPHA or abs(value) < COHERENCE:
        return "none"
    if value < 0:
        return "turning back"
    on = np.nan_to_num(turns) >= TURN
    run = int(np.argmin(on)) if not on.all() else len(on)
    late = int(np.argmin(on[::-1])) if not on.all() else len(on)
    if 0 < run < len(on) and not on[run:].any():
        return "persistent early on"
    if 0 < late < len(on) and not on[: len(on) - late].any():
        return "persistent late"
    return "persistent"


def _range(values: Floats) -> tuple[float, float]:
    known = values[~np.isnan(values)]
    return (float(known.min()), float(known.max())) if known.size else (np.nan, np.nan)


def _at(values: Floats, index: int) -> float:
    return float(values[index]) if index < len(values) else float("nan")
