"""The recipe of a model: which weighted sum of other models it is, and whether it is one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from megasim.errors import UsageError, printable
from megasim.lineage.inner_products import Floats, gram, require_l2
from megasim.lineage.recipe_question import MODEL, Question, ask, check_parents, comparable
from megasim.lineage.recipe_result import BlockWeights, Parent, Recipe, Rival
from megasim.lineage.recipe_search import (
    MOST_PARENTS,
    NOT_NEGATIVE,
    Candidate,
    dependent_parent,
    fit_weights,
    hull_ends,
    least_residual,
    natural,
    search_parents,
)
from megasim.matrix.distance_matrix import DistanceMatrix, LayerMatrices

# A further parent must take away this share of what is left; a chance one takes about 1/P of
# it, P being the elements (or the numbers of the sketch), and shared training a little more.
LEAST_GAIN = 0.25
# Half-precision rounding of a value x is uniform within ±ulp/2, ulp = 2^-10 · 2^⌊log2 |x|⌋ at
# most 2^-10 |x|: the root of its mean square is at most 2^-10 |x| / √12.
ROUNDING = {"float16": 2.0**-10 / 12**0.5, "bfloat16": 2.0**-7 / 12**0.5}
FEWEST_LAYERS = 8
SHOWN_POOL = 12
# What a merge stored in any precision leaves at most; and how far the weights of its layers
# may scatter when it leaves more, having been trained further.
NEARLY_ALL = 0.005
UNEVEN = 0.1


def rounding_l2(norm: float, dtype: str) -> float:
    """Return an upper bound of the expected L2 of rounding a tensor of that L2 norm to `dtype`.

    Not guaranteed for values below 6e-5 in size, which float16 rounds more coarsely.

    >>> round(rounding_l2(1000.0, "float16"), 3)
    0.282
    >>> rounding_l2(1000.0, "float32")
    0.0
    """
    return norm * ROUNDING.get(dtype, 0.0)


def recover_recipe(
    matrix: DistanceMatrix,
    model: str,
    *,
    parents: Sequence[str] | None = None,
    layers: LayerMatrices | None = None,
    rounding: Mapping[str, float] | None = None,
    max_unexplained: float = 0.1,
    pool: int = 300,
) -> Recipe:
    """Return the model as a weighted sum of others, or say that it is none of these models.

    The weights minimise ‖m − Σ wᵢ pᵢ‖² under Σ wᵢ = 1, from squared distances alone. Parents
    are sought among the `pool` nearest models that are not themselves merges of others; the
    smallest set is taken to which a further parent adds less than noise and a quarter of what
    is left. A recipe is claimed when it leaves at most `max_unexplained` beyond the rounding.

    Args:
        matrix: L2 distances of the model and the models it may be made of.
        parents: the parents, when they are known; otherwise they are searched.
        layers: distances by layer, exact or estimated: the weights of each block, their
            spread, and merges whose ratio differs by block need them.
        rounding: model → the L2 that storing it rounded away (see `rounding_l2`); a model
            not named counts as unrounded.

    Raises:
        UsageError: a model that is not there; parents that are the model itself, hold the
            same weights, are twice the same, or of which one is a weighted sum of others.
        NoAnswerError: the model has no distances in this component.

    >>> third = DistanceMatrix.from_values(["a", "m", "b"], [[0, 1, 4], [1, 0, 3], [4, 3, 0]])
    >>> recover_recipe(third, "m").sentence()
    'm (unet) = 0.75 × a + 0.25 × b; 0 % unexplained'
    """
    require_l2(matrix.metric)
    matrix.subset(dict.fromkeys([model, *(parents or [])]))
    noise = dict(rounding or {})
    names, same, notes = comparable(matrix, model, noise, parents, pool)
    if parents is not None:
        check_parents(matrix, model, parents, same)
        names = [n for n in names if n in set(parents)]
    question = ask(matrix, model, names, layers, noise, notes)
    found: Candidate | None = None
    rivals: list[Candidate] = []
    if parents is not None:
        wanted = [question.names.index(p) for p in parents]
        dependent = dependent_parent(question.total, wanted, question.dependence(wanted))
        if dependent is not None:
            raise UsageError(
                f"{printable(question.names[dependent])} is a weighted sum of the other parents: "
                "the weights have no single answer",
                "leave it out, or leave out one it is made of",
            )
        fit = fit_weights(question.squared, MODEL, wanted)
        whole = fit_weights(question.total[None], MODEL, wanted)
        found = Candidate(tuple(wanted), float(fit.residual.sum()), tuple(whole.weights[0]))
        verdict = _verdict(question, MODEL, found, max_unexplained, asked=True)
    else:
        found, rivals, verdict = _search(question, max_unexplained)
    if found is not None and verdict != "none" and _uneven(question, found):
        verdict = "none"
        question.notes.append(
            "it lies near the line of these models, but in each layer elsewhere on it, as an "
            "epoch lies between others: no merge leaves that"
        )
    elif found is not None and verdict == "none" and parents is None:
        question.notes += _other_reading(question, found)
    return _describe(question, found, rivals, verdict, tuple(same))


def _search(
    question: Question, max_unexplained: float
) -> tuple[Candidate | None, list[Candidate], str]:
    """Return the claimed or best set, its rivals, and the verdict."""
    # What lies between others is no parent. The model counts among those: what was merged from
    # it explains nothing of it.
    ends = hull_ends(question.total, lambda m, parents: 2 * question.noise(m, parents), [MODEL])
    pool = set(ends) - {MODEL}
    chosen, rivals, verdict = _choose(question, MODEL, pool, max_unexplained)
    passed_over: list[Candidate] = []
    while chosen is not None and verdict != "none":
        # Where a weight is negative, a parent may be a merge made with the model.
        explainers = pool if verdict == "merge" else pool | {MODEL}
        inside: dict[int, Candidate] = {}
        for parent in chosen.parents:
            its = _itself_merged(question, parent, explainers - {parent}, max_unexplained)
            if its is not None:
                inside[parent] = its
        if not inside:
            break
        made_of_it = any(MODEL in found.parents for found in inside.values())
        pool -= set(inside)
        again, its_rivals, its_verdict = _choose(question, MODEL, pool, max_unexplained)
        limit = 2 * (chosen.residual + question.noise(MODEL, chosen.parents))
        worse = again is None or its_verdict == "none" or again.residual > limit
        names = ", ".join(printable(question.names[p], 60) for p in sorted(inside))
        if worse and not made_of_it:
            question.notes.append(f"itself a merge: {names}")
            break
        if not made_of_it:
            question.notes.append(f"in place of {names}, itself a merge, stand its own parents")
            passed_over.append(chosen)
        chosen, rivals, verdict = again, its_rivals, its_verdict
    return chosen, [*rivals, *passed_over] if verdict != "none" else rivals, verdict


def _itself_merged(
    question: Question, parent: int, explainers: set[int], max_unexplained: float
) -> Candidate | None:
    """Return what a parent is the weighted sum of, or leaving only noise the add-difference of."""
    found, _, verdict = _choose(question, parent, explainers, max_unexplained)
    if found is None or verdict not in ("merge", "add-difference"):
        return None
    noise = 2 * question.noise(parent, found.parents)
    return found if verdict == "merge" or found.residual <= noise else None


def _choose(
    question: Question, model: int, pool: set[int], max_unexplained: float
) -> tuple[Candidate | None, list[Candidate], str]:
    """Return the smallest set that no further parent betters, those near it, and the verdict."""
    if len(pool) < 2:
        return None, [], "none"
    total = question.total
    left = float(total[model, sorted(pool)].min())
    best: Candidate | None = None
    level: list[Candidate] = []
    # Where all models together do not explain enough, near pairs are tried only to be shown.
    hopeless = least_residual(question.squared, model, pool) > (1 - LEAST_GAIN) * left
    if hopeless:
        pool = set(sorted(pool, key=lambda p: (total[model, p], p))[:SHOWN_POOL])
    found = search_parents(
        question.squared,
        model,
        pool,
        noise=question.dependence(pool),
        most=2 if hopeless else MOST_PARENTS,
    )
    for candidates in found:
        if best is not None and best.residual <= 2 * question.noise(model, best.parents):
            break
        if candidates[0].residual <= (1 - LEAST_GAIN) * left:
            # Of sets that explain all but noise, the one that reaches farthest: every point of
            # a line of merges explains its neighbours, and only its ends are parents.
            ceiling = 2 * question.noise(model, sorted(pool))
            alike = [
                c
                for c in candidates
                if c.residual <= ceiling and c.residual <= 2 * question.noise(model, c.parents)
            ]
            best = max(alike, key=lambda c: question.reach(model, c.parents), default=candidates[0])
            level, left = candidates, best.residual
        elif best is None:
            level = level or candidates
    if best is None:
        return (level[0] if level else None), level[1:], "none"
    near = 2 * (best.residual + question.noise(model, best.parents))
    rivals = [
        c for c in level if c is not best and c.residual <= near and not _within(question, c, best)
    ]
    return best, rivals, _verdict(question, model, best, max_unexplained)


def _within(question: Question, other: Candidate, best: Candidate) -> bool:
    """Return whether a set only puts in a point between the best parents for one of them."""
    for parent in set(other.parents) - set(best.parents):
        fit = fit_weights(question.total[None], parent, best.parents)
        noise = 2 * question.noise(parent, best.parents)
        if fit.residual[0] <= noise and fit.weights[0].min() >= NOT_NEGATIVE:
            return True
    return False


def _verdict(
    question: Question,
    model: int,
    found: Candidate,
    max_unexplained: float,
    *,
    asked: bool = False,
) -> str:
    """Return what a set of parents proves of the model."""
    nearest = float(question.total[model, list(found.parents)].min())
    noise = question.noise(model, found.parents)
    if nearest <= noise:
        return "none"
    beyond = max(0.0, found.residual - noise) / nearest
    if beyond > max_unexplained or not bool(natural(np.array(found.weights))):
        return "none"
    if min(found.weights) >= NOT_NEGATIVE:
        return "merge"
    if asked:
        return "add-difference"
    sums = _likeliest_sums(question, model, found)
    if model not in sums:
        return "none"
    return "ambiguous" if len(sums) > 1 else "add-difference"


def _other_reading(question: Question, found: Candidate) -> list[str]:
    """Return the note that one of the models tried is the sum, if that explains all of them."""
    noise = 2 * question.noise(MODEL, found.parents)
    if found.residual > noise or min(found.weights) >= NOT_NEGATIVE:
        return []
    sums = _likeliest_sums(question, MODEL, found) - {MODEL}
    names = " or ".join(printable(question.names[i], 60) for i in sorted(sums))
    return [f"rather {names} is the add-difference of it and the others tried"] if sums else []


def _likeliest_sums(question: Question, model: int, found: Candidate) -> set[int]:
    """Return which of the model and a set is the add-difference of the rest: one, or those alike.

    m = a + k(b − c) can be read the other way round, e.g. as a = m + k(c − b). The base that
    is subtracted is the one nearest to all models, since the others came from it.
    """
    dependency = {model: -1.0, **dict(zip(found.parents, found.weights, strict=True))}
    central = np.sqrt(question.total).sum(axis=1)
    readings: list[tuple[float, int]] = []
    for merged, share in dependency.items():
        if abs(share) < abs(NOT_NEGATIVE):
            continue
        weights = {p: -w / share for p, w in dependency.items() if p != merged}
        if natural(np.array(list(weights.values()))):
            base = min(weights, key=lambda p: weights[p])
            readings.append((float(central[base]), merged))
    nearest = min((c for c, _ in readings), default=0.0)
    return {merged for c, merged in readings if c <= 1.02 * nearest}


def _describe(
    question: Question,
    found: Candidate | None,
    rivals: list[Candidate],
    verdict: str,
    same: tuple[str, ...],
) -> Recipe:
    """Return the result with errors, blocks and rivals."""
    total, model = question.total, MODEL
    if found is None:
        return Recipe(
            question.names[model], question.component, verdict, (), 1.0, float("nan"), False,
            (), (), same, question.source, tuple(question.notes),
        )  # fmt: skip
    heaviest = sorted(
        zip(found.weights, found.parents, strict=True), key=lambda x: (-x[0], question.names[x[1]])
    )
    parents = [p for _, p in heaviest]
    nearest = float(total[model, parents].min())
    whole = fit_weights(total[None], model, parents)
    fit = fit_weights(question.squared, model, parents)
    single, by_block = float(whole.residual[0]), float(fit.residual.sum())
    noise = question.noise(MODEL, parents)
    blockwise = len(question.blocks) > 1 and single > 2 * (by_block + noise)
    residual = by_block if blockwise else single
    errors = _weight_errors(question, parents, whole.weights[0], single, whole.inverse[0])
    spreads = _layer_spread(question, parents)
    block_weights = tuple(
        BlockWeights(
            name,
            tuple(float(w) for w in fit.weights[b]),
            _ratio(float(fit.residual[b]), float(question.squared[b, model, parents].min())),
        )
        for b, name in enumerate(question.blocks)
    )
    claimed = verdict != "none"
    shown = rivals if claimed else [found, *rivals]
    described = tuple(
        Rival(
            tuple((question.names[p], w) for p, w in zip(c.parents, c.weights, strict=True)),
            _ratio(c.residual, float(total[model, list(c.parents)].min())),
        )
        for c in shown[:5]
    )
    told = question.rounding[MODEL] > 0
    return Recipe(
        model=question.names[model],
        component=question.component,
        verdict=verdict,
        parents=tuple(
            Parent(question.names[p], float(w), float(e), float(s))
            for p, w, e, s in zip(parents, whole.weights[0], errors, spreads, strict=True)
            if claimed
        ),
        unexplained=_ratio(residual, nearest),
        rounding=_ratio(question.rounding[MODEL] ** 2, nearest) if told else float("nan"),
        blockwise=blockwise and claimed,
        blocks=block_weights if question.layers is not None and claimed else (),
        rivals=described,
        same=same,
        source=question.source,
        notes=tuple(question.notes),
    )


def _uneven(question: Question, found: Candidate) -> bool:
    """Return whether something is left unexplained and the layers disagree on the weights."""
    nearest = float(question.total[MODEL, list(found.parents)].min())
    left = found.residual - question.noise(MODEL, found.parents)
    if left <= NEARLY_ALL * nearest:
        return False
    return bool(np.nanmax(_layer_spread(question, found.parents), initial=0.0) > UNEVEN)


def _weight_errors(
    question: Question, parents: Sequence[int], weights: Floats, residual: float, inverse: Floats
) -> Floats:
    """Return (k,) standard errors of the weights.

    With layers, each is a replicate: the sandwich H⁻¹ (Σ s sᵀ) H⁻¹ of the scores s of each
    layer, which assumes nothing about the residual but that layers are independent. Without,
    the residual is taken as isotropic in as many dimensions as the distances rest on. Beside
    it, the precision of the distances themselves.
    """
    others = list(parents[1:])
    reach = float(question.total[np.ix_(list(parents), list(parents))].max())
    numeric = question.precision * reach / 2 * inverse
    covariance = numeric @ numeric.T
    if question.layers is not None and len(question.layers) >= FEWEST_LAYERS:
        products = gram(question.layers, parents[0])
        inner = products[:, others][:, :, others]
        scores = products[:, others, MODEL] - inner @ weights[1:]
        covariance = covariance + inverse @ (scores.T @ scores) @ inverse
    elif np.isfinite(question.dimensions):
        covariance = covariance + residual / max(question.dimensions, 1.0) * inverse
    elif residual > 2 * question.noise(MODEL, parents):
        return np.full(len(parents), np.nan)
    variances = [covariance.sum(), *np.diag(covariance)]
    return np.sqrt(np.maximum(variances, 0.0))


def _layer_spread(question: Question, parents: Sequence[int]) -> Floats:
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


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole > 0 else float("nan")
