"""What a set of parents proves of a model: a merge, an add-difference, or nothing."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

import numpy as np

from megasim.errors import printable
from megasim.lineage.inner_products import Floats, gram
from megasim.lineage.recipe_question import MODEL, Question
from megasim.lineage.recipe_result import percent, weighted_sum
from megasim.lineage.recipe_search import Candidate, fit_weights, natural
from megasim.lineage.settings import LineageSettings
from megasim.words import RecipeVerdict


def lies_within(question: Question, other: Candidate, best: Candidate) -> bool:
    """Return whether a set only puts in a point between the best parents for one of them."""
    for parent in set(other.parents) - set(best.parents):
        fit = fit_weights(question.total[None], parent, best.parents)
        noise = question.noise_ceiling(parent, best.parents)
        if fit.residual[0] <= noise and fit.weights[0].min() >= question.settings.not_negative:
            return True
    return False


@dataclass(frozen=True)
class Judgement:
    """What a set of parents proves of a model, and of a refusal why.

    Attributes:
        reason: of a refusal, why, to stand after "no merge of these models"; else empty.
        likeliest: of an ambiguous one, whether no other of the four is likelier to be the sum.
        unequal: of an add-difference, how unequal the angles at its base are.
    """

    verdict: RecipeVerdict
    reason: str = ""
    likeliest: bool = True
    unequal: float = 0.0

    def refused(self) -> Judgement:
        """Return the same judgement as a refusal."""
        return replace(self, verdict=RecipeVerdict.NONE)


def judge(
    question: Question,
    model: int,
    found: Candidate,
    max_unexplained: float,
    *,
    pool: Collection[int] = (),
    asked: bool = False,
) -> Judgement:
    """Return what a set of parents proves of the model.

    Args:
        pool: the models among which the parents were sought.
        asked: whether the parents were named rather than sought.
    """
    settings = question.settings
    near = min(found.parents, key=lambda p: (question.total[model, p], p))
    nearest = float(question.total[model, near])
    noise = question.noise(model, found.parents)
    terms = _terms(question, found)
    if nearest <= noise:
        name = printable(question.names[near], 60)
        return _refusal(f"{name} differs from it by no more than rounding")
    beyond = max(0.0, found.residual - noise) / nearest
    left = percent(question.unexplained(model, found))
    if beyond > max_unexplained:
        if beyond > settings.worth_telling:
            return _refusal(f"no weights of others explain even half of it ({left} are left)")
        most = f"a merge leaves {percent(max_unexplained)} at most"
        return _refusal(f"the best weights, {terms}, leave {left} unexplained, {most}")
    if not bool(natural(np.array(found.weights), settings)):
        return _refusal(f"nobody merges by {terms}, which leave {left} unexplained")
    if min(found.weights) >= settings.not_negative:
        return Judgement(RecipeVerdict.MERGE)
    if asked:
        return Judgement(RecipeVerdict.ADD_DIFFERENCE)
    sums = _likeliest_sums(question, model, found, pool)
    if model not in sums:
        names = " or ".join(printable(question.names[i], 60) for i in sorted(sums))
        return _refusal(
            f"{terms} leave {left} unexplained, but rather {names} is the add-difference of it "
            "and the others"
        )
    if len(sums) == 1:
        return Judgement(RecipeVerdict.ADD_DIFFERENCE, unequal=sums[model])
    likeliest = sums[model] <= min(sums.values()) + 1e-9
    return Judgement(RecipeVerdict.AMBIGUOUS, likeliest=likeliest, unequal=sums[model])


def _refusal(reason: str) -> Judgement:
    return Judgement(RecipeVerdict.NONE, reason)


def _terms(question: Question, found: Candidate) -> str:
    heaviest = sorted(zip(found.weights, found.parents, strict=True), key=lambda x: (-x[0], x[1]))
    return weighted_sum([(question.names[p], w) for w, p in heaviest])


def _likeliest_sums(
    question: Question, model: int, found: Candidate, pool: Collection[int]
) -> dict[int, float]:
    """Return which of the model and a set is the add-difference of the rest, or those alike.

    m = a + k(b − c) can be read the other way round, e.g. as a = m + k(c − b), and with k below 0
    as well. What was trained from one base, each by itself, left it at right angles, or all at
    about the same angle where the trainings have something in common. So of all readings those
    are likeliest in which the changes from one of the parents, the base, to the others stand at
    the angle at which further models left it, and those at equal angles. Where several are as
    likely, as in a rectangle, the base is nearest to all models.

    Args:
        pool: the models that may be parents: ends, no merges of others.

    Returns:
        Place of a model → how unequal the angles are when it is the sum.
    """
    dependency = {model: -1.0, **dict(zip(found.parents, found.weights, strict=True))}
    settings, total = question.settings, question.total
    others = sorted(set(pool) - set(dependency))
    readings: list[tuple[float, int, int]] = []
    for merged, share in dependency.items():
        if abs(share) < abs(settings.not_negative):
            continue
        weights = {p: -w / share for p, w in dependency.items() if p != merged}
        if natural(np.array(list(weights.values())), settings):
            bases = [
                (_unequal(total, p, [q for q in weights if q != p], others, settings), p)
                for p in weights
            ]
            readings.append((*min(bases), merged))
    most_equal = min((unequal for unequal, _, _ in readings), default=0.0)
    limit = settings.as_equal * most_equal + settings.equal_angles
    alike = [reading for reading in readings if reading[0] <= limit]
    central = np.sqrt(question.total).sum(axis=1)
    nearest = min((float(central[base]) for _, base, _ in alike), default=0.0)
    limit = settings.as_central * nearest
    return {m: unequal for unequal, base, m in alike if central[base] <= limit}


def _unequal(
    squared: Floats,
    origin: int,
    models: Sequence[int],
    others: Sequence[int],
    settings: LineageSettings,
) -> float:
    """Return how far changes from one model are from standing at one angle, best a right one.

    That is how far the cosines between the changes to the models deviate from the median of all,
    how far those with the others do, and a share of the mean cosine. Where fewer than two others
    tell what is usual, it is the largest cosine.
    """
    if len(others) < 2:
        return float(np.abs(_cosines_from(squared, origin, models)).max())
    cosines = _cosines_from(squared, origin, [*models, *others])
    first, second = np.triu_indices(len(models) + len(others), 1)
    apart = np.abs(cosines - np.median(cosines))
    among, with_others = second < len(models), (first < len(models)) & (second >= len(models))
    skewed = settings.skewed * np.abs(cosines).mean()
    return float(apart[among].max() + apart[with_others].mean() + skewed)


def _cosines_from(squared: Floats, origin: int, models: Sequence[int]) -> Floats:
    """Return the cosines of all pairs of changes from one model to some."""
    rows = [origin, *models]
    products = gram(squared[np.ix_(rows, rows)], 0)[1:, 1:]
    lengths = np.sqrt(np.diag(products))
    pairs = np.triu_indices(len(models), 1)
    sizes = np.outer(lengths, lengths)[pairs]
    cosines = np.divide(products[pairs], sizes, out=np.ones(len(sizes)), where=sizes > 0)
    return np.asarray(cosines, dtype=np.float64)


def is_uneven(question: Question, found: Candidate) -> bool:
    """Return whether something is left unexplained and the layers disagree on the weights."""
    nearest = float(question.total[MODEL, list(found.parents)].min())
    left = found.residual - question.noise(MODEL, found.parents)
    if left <= question.settings.nearly_all * nearest:
        return False
    return bool(
        np.nanmax(layer_spread(question, found.parents), initial=0.0) > question.settings.uneven
    )


def layer_spread(question: Question, parents: Sequence[int]) -> Floats:
    """Return (k,) how far the weights scatter over layers; NaN without layers.

    Each layer counts by how much the parents differ in it.
    """
    if question.layers is None:
        return np.full(len(parents), np.nan)
    rows = [MODEL, *parents]
    part = question.layers[:, rows][:, :, rows]
    weights = fit_weights(part, 0, range(1, len(rows))).weights
    sizes = part[:, 1:, 1:].sum(axis=(1, 2))
    known = np.isfinite(weights).all(axis=1) & (sizes > 0)
    if not known.any():
        return np.full(len(parents), np.nan)
    mean = np.average(weights[known], axis=0, weights=sizes[known])
    square = np.average(np.square(weights[known] - mean), axis=0, weights=sizes[known])
    return np.asarray(np.sqrt(square))
