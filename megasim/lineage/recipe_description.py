"""A recipe put together for its reader: weights with errors, blocks and rivals."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from megasim.anatomy.block_order import block_place
from megasim.lineage.angular_methods import LayerNorms, MethodFit
from megasim.lineage.inner_products import Floats, gram
from megasim.lineage.recipe_choice import Choice
from megasim.lineage.recipe_methods import best_method
from megasim.lineage.recipe_question import MODEL, Question
from megasim.lineage.recipe_result import BlockWeights, Parent, Recipe, Rival
from megasim.lineage.recipe_search import Candidate, fit_weights
from megasim.lineage.recipe_verdict import layer_spread
from megasim.lineage.weight_levels import level_fits
from megasim.words import MergeMethod, WeightLevel


def describe(
    question: Question,
    choice: Choice,
    rivals: Sequence[Candidate],
    same: tuple[str, ...],
    near_copies: tuple[str, ...],
    ask_of: Callable[[list[str]], Question],
    layer_norms: LayerNorms | None = None,
) -> Recipe:
    """Return the result with errors, blocks and rivals.

    Args:
        ask_of: gives the question of the model and some parents alone. The weights are of that: of
            all layers that these have in common, whatever other candidates there were.
        layer_norms: L2 of single tensors; see `best_method`.
    """
    found = choice.found
    if found is None:
        return Recipe(
            model=question.names[MODEL],
            component=question.component,
            verdict=choice.judgement.verdict,
            parents=(),
            unexplained=1.0,
            rounding=float("nan"),
            blockwise=False,
            blocks=(),
            rivals=(),
            same=same,
            source=question.source,
            notes=tuple(question.notes),
            reason=choice.judgement.reason,
            near_copies=near_copies,
        )
    searched = question
    question = _alone(searched, found, ask_of)
    total, model = question.total, MODEL
    named = [question.names.index(searched.names[p]) for p in found.parents]
    shares = fit_weights(total[None], model, named).weights[0]
    heaviest = sorted(zip(shares, named, strict=True), key=lambda x: (-x[0], question.names[x[1]]))
    parents = [p for _, p in heaviest]
    nearest = float(total[model, parents].min())
    whole = fit_weights(total[None], model, parents)
    method = best_method(question, parents, layer_norms)
    single, residual = float(whole.residual[0]), method.left
    errors = _weight_errors(question, parents, whole.weights[0], single, whole.inverse[0])
    spreads = layer_spread(question, parents)
    block_weights = _group_weights(question, parents, method)
    claimed = choice.claimed
    told = whole.weights[0]
    if method.method == MergeMethod.SLERP and method.level == WeightLevel.COMPONENT:
        told = method.shares[0]
    described = tuple(
        _rival(searched, c)
        for c in (rivals if claimed else _simplest_first(searched, found, rivals))
    )
    is_known = question.rounding[MODEL] > 0
    return Recipe(
        model=question.names[model],
        component=question.component,
        verdict=choice.judgement.verdict,
        parents=tuple(
            Parent(question.names[p], float(w), float(e), float(s))
            for p, w, e, s in zip(parents, told, errors, spreads, strict=True)
            if claimed
        ),
        unexplained=_ratio(residual, nearest),
        rounding=_ratio(question.rounding[MODEL] ** 2, nearest) if is_known else float("nan"),
        blockwise=claimed and method.level != WeightLevel.COMPONENT,
        blocks=block_weights if question.layers is not None and claimed else (),
        rivals=described,
        same=same,
        source=question.source,
        notes=tuple(searched.notes),
        reason=choice.judgement.reason,
        decides=_what_decides(searched, described, claimed),
        near_copies=near_copies,
        method=method.method if claimed else MergeMethod.WEIGHTED_SUM,
        level=method.level if claimed else WeightLevel.COMPONENT,
        base=_base_of_stock(question, parents, method),
        likeliest=choice.judgement.likeliest,
    )


def _group_weights(
    question: Question, parents: Sequence[int], method: MethodFit
) -> tuple[BlockWeights, ...]:
    """Return the weights of each block, or of what else has weights of its own.

    Of what has the same weights throughout, those of each block are told too.
    """
    groups, shares = method.groups, method.shares
    ratios = [float("nan")] * len(groups)
    if method.method == MergeMethod.WEIGHTED_SUM or method.level == WeightLevel.COMPONENT:
        levels = level_fits(question, parents)
        by_block = method.level == WeightLevel.COMPONENT
        wanted = WeightLevel.BLOCK if by_block else method.level
        fit = next((f for f in levels if f.level == wanted), levels[0])
        groups, shares = fit.groups, fit.fit.weights
        near = fit.squared[:, MODEL, list(parents)].min(axis=1)
        ratios = [_ratio(float(a), float(b)) for a, b in zip(fit.fit.residual, near, strict=True)]
    weights = [
        BlockWeights(name, tuple(float(w) for w in row), ratio)
        for name, row, ratio in zip(groups, shares, ratios, strict=True)
    ]
    if method.level in (WeightLevel.COMPONENT, WeightLevel.BLOCK):
        weights.sort(key=lambda b: block_place(b.block))
    return tuple(weights)


def _base_of_stock(question: Question, parents: Sequence[int], method: MethodFit) -> str:
    """Return the parent whose share is not that of the others; "" of other methods."""
    if method.method != MergeMethod.MODEL_STOCK:
        return ""
    apart = np.abs(method.shares - np.median(method.shares, axis=1, keepdims=True)).sum(axis=0)
    return question.names[parents[int(apart.argmax())]]


def _alone(
    question: Question, found: Candidate, ask_of: Callable[[list[str]], Question]
) -> Question:
    """Return the question of the model and a set of parents alone, if all of it can be asked."""
    names = [question.names[p] for p in found.parents]
    alone = ask_of(names)
    return alone if set(names) < set(alone.names) else question


def _simplest_first(
    question: Question, found: Candidate, rivals: Sequence[Candidate]
) -> list[Candidate]:
    """Return what came nearest, as `rivals_of` orders the others."""
    listed = [found, *rivals]
    few = question.settings.not_negative
    return sorted(
        listed, key=lambda c: (len(c.parents), min(c.weights) < few, c.residual, c.parents)
    )


def _rival(question: Question, other: Candidate) -> Rival:
    spread = layer_spread(question, other.parents)
    return Rival(
        tuple((question.names[p], w) for p, w in zip(other.parents, other.weights, strict=True)),
        question.unexplained(MODEL, other),
        float(np.nanmax(spread)) if np.isfinite(spread).any() else float("nan"),
    )


def _what_decides(question: Question, rivals: Sequence[Rival], claimed: bool) -> str:
    """Return what would tell the rivals apart, or find what a refusal missed."""
    if not rivals or (claimed and rivals[0].unexplained > question.settings.rival_unexplained):
        return ""
    if rivals[0].unexplained > question.settings.worth_telling:
        return ""
    if question.source == "estimated":
        return "exact distances would decide: run `megasim compare`"
    if question.layers is None:
        return (
            "distances by layer would decide: of a merge the weights are the same in each layer, "
            "of a chance sum they are not"
        )
    if not claimed and len(rivals) < 2:
        return "a parent that is not in the store may be missing: ingest more of its relatives"
    return (
        "the scatter of the weights over layers decides: that of a merge is small, unless its "
        "weights differ by block; name the parents with --from to see each set by block"
    )


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
    if question.layers is not None and len(question.layers) >= question.settings.fewest_layers:
        products = gram(question.layers, parents[0])
        inner = products[:, others][:, :, others]
        scores = products[:, others, MODEL] - inner @ weights[1:]
        covariance = covariance + inverse @ (scores.T @ scores) @ inverse
    elif np.isfinite(question.dimensions):
        covariance = covariance + residual / max(question.dimensions, 1.0) * inverse
    elif residual > question.noise_ceiling(MODEL, parents):
        return np.full(len(parents), np.nan)
    variances = [covariance.sum(), *np.diag(covariance)]
    return np.sqrt(np.maximum(variances, 0.0))


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole > 0 else float("nan")
