"""By which method, and with weights at which level, some parents explain a model best."""

from __future__ import annotations

from collections.abc import Sequence

from megasim.lineage.angular_methods import (
    LayerNorms,
    MethodFit,
    is_on_arc,
    model_stock_fit,
    slerp_fit,
)
from megasim.lineage.recipe_question import MODEL, Question
from megasim.lineage.weight_levels import level_fits, simplest_level
from megasim.words import MergeMethod, Source, WeightLevel

_COARSE = (WeightLevel.COMPONENT, WeightLevel.ROLE, WeightLevel.BLOCK)


def best_method(
    question: Question, parents: Sequence[int], layer_norms: LayerNorms | None
) -> MethodFit:
    """Return the simplest way in which parents explain a model as well as any.

    Weights of their own in single tensors, or in the roles of a block, are taken only where they
    leave next to nothing: so many weights also bring a training a little nearer to others.

    Args:
        question: of the model and these parents alone, or with other candidates beside.
        layer_norms: L2 of single tensors, which slerp shows in.
    """
    fits = level_fits(question, parents)
    noise = question.noise(MODEL, parents)
    exact = exact_limit(question, parents)
    taken = simplest_level(question, [f for f in fits if f.level in _COARSE], noise)
    finest = simplest_level(question, fits, noise)
    if taken.left > exact >= finest.left:
        taken = finest
    found = MethodFit(
        MergeMethod.WEIGHTED_SUM, taken.level, taken.groups, taken.fit.weights, taken.left
    )
    least = min(fit.left for fit in fits)
    if question.source == Source.ESTIMATED:
        return found
    if len(parents) == 2 and layer_norms:
        norms = layer_norms([question.names[i] for i in (MODEL, *parents)])
        slerp = slerp_fit(question, parents, norms, fits, noise)
        clear = slerp is not None and (
            _is_arc(question, parents, slerp.left, least) or is_on_arc(question, parents, norms)
        )
        if slerp and clear and slerp.left <= exact:
            return slerp
    stock = model_stock_fit(question, parents)
    near = question.settings.rival * (least + noise)
    if stock and stock.left <= min(exact, near):
        # It has no parameters; only one weight for all is as simple.
        simple = taken.level == WeightLevel.COMPONENT and taken.left <= near
        return found if simple else stock
    return found


def _is_arc(question: Question, parents: Sequence[int], arc: float, line: float) -> bool:
    """Return whether an arc explains clearly more than a line, of what they leave.

    Rounding is the same to both, and has nothing to do with the direction in which they differ.
    """
    settings = question.settings
    reach = float(question.total[[MODEL, *parents]][:, [MODEL, *parents]].max())
    clear = settings.dependent_precision * question.precision * reach
    return line - arc > max((1 - settings.arc_leaves) * line, clear)


def exact_limit(question: Question, parents: Sequence[int]) -> float:
    """Return the squared distance that a merge leaves at most when nothing was trained since."""
    nearest = float(question.total[MODEL, list(parents)].min())
    ceiling = question.noise_ceiling(MODEL, parents)
    return max(ceiling, question.settings.nearly_all * nearest)
