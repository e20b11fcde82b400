"""The recipe of a model: which weighted sum of other models it is, and whether it is one."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

from megasim.errors import UsageError, printable
from megasim.lineage.angular_methods import LayerNorms, arc_parents
from megasim.lineage.inner_products import require_l2
from megasim.lineage.recipe_choice import Choice, choose_parents, rivals_of
from megasim.lineage.recipe_description import describe
from megasim.lineage.recipe_methods import best_method, exact_limit
from megasim.lineage.recipe_question import (
    MODEL,
    Question,
    ask,
    check_parents,
    comparable,
)
from megasim.lineage.recipe_result import Recipe
from megasim.lineage.recipe_search import (
    Candidate,
    dependent_parent,
    fit_weights,
    hull_ends,
    near_copies,
)
from megasim.lineage.recipe_verdict import Judgement, is_uneven, judge
from megasim.lineage.settings import SETTINGS, LineageSettings
from megasim.matrix.distance_matrix import DistanceMatrix, LayerMatrices
from megasim.words import MergeMethod, RecipeVerdict, Source


def recover_recipe(
    matrix: DistanceMatrix,
    model: str,
    *,
    parents: Sequence[str] | None = None,
    layers: LayerMatrices | None = None,
    rounding: Mapping[str, float] | None = None,
    norms: Mapping[str, float] | None = None,
    weight_sets: Mapping[str, str] | None = None,
    layer_norms: LayerNorms | None = None,
    max_unexplained: float | None = None,
    settings: LineageSettings = SETTINGS,
) -> Recipe:
    """Return the model as a weighted sum of others, or say that it is none of these models.

    The weights minimise ‖m − Σ wᵢ pᵢ‖² under Σ wᵢ = 1, from squared distances alone. Parents
    are sought among the nearest models that are not themselves merges of others; the smallest
    set is taken to which a further parent adds less than noise and a quarter of what is left.
    Near-copies of the model are left aside, unless the rest explains it less well. A recipe is
    claimed when it leaves at most `max_unexplained` beyond the rounding. With layers, what no
    weights by block explain is tried with weights of their own in each tensor, and claimed
    where these leave next to nothing; see `best_method`.

    Args:
        matrix: L2 distances of the model and the models it may be made of.
        parents: the parents, when they are known; otherwise they are searched.
        layers: distances by layer, exact or estimated: the weights of each block, their
            spread, and merges whose ratio differs by block need them.
        rounding: model → the L2 that storing it rounded away (see `rounding_l2`); a model
            not named counts as unrounded.
        norms: model → L2 of its weights: models of another scale, or at right angles to it, are
            no parents that are sought. Those not named may be.
        weight_sets: model → a name for the set of models with the same weights, by their hashes;
            of those not named, models at distance 0 are the same.
        layer_norms: gives L2 of single tensors, where known: merges along an arc show in them.
        max_unexplained: that of the settings when None.

    Raises:
        UsageError: a model that is not there; parents that are the model itself, hold the
            same weights, are twice the same, or of which one is a weighted sum of others.
        NoAnswerError: the model has no distances in this component.

    >>> third = DistanceMatrix.from_values(["a", "m", "b"], [[0, 1, 4], [1, 0, 3], [4, 3, 0]])
    >>> recover_recipe(third, "m").sentence()
    'm (unet) = 0.75 × a + 0.25 × b; 0 % unexplained'
    """
    require_l2(matrix.metric)
    matrix.require_models([model, *(parents or [])])
    most_left = settings.max_unexplained if max_unexplained is None else max_unexplained
    candidates = comparable(
        matrix, model, norms or {}, weight_sets or {}, parents=parents, settings=settings
    )
    names = list(candidates.names)
    if parents is not None:
        check_parents(matrix, model, parents, candidates.same)
    question = ask(matrix, model, names, layers, rounding or {}, list(candidates.notes), settings)
    if parents is not None:
        found = _asked_weights(question, parents)
        choice = Choice(found, judge(question, MODEL, found, most_left, asked=True))
        aside: frozenset[int] = frozenset()
        rivals: list[Candidate] = []
    else:
        choice, rivals, aside = _search(question, most_left)
    if choice.found is not None and choice.claimed and is_uneven(question, choice.found):
        text = (
            "it lies near the line of these models, but at another place in each layer, as "
            "an epoch does between two others; a merge does not"
        )
        choice = replace(choice, judgement=replace(choice.judgement.refused(), reason=text))
    if not choice.claimed and layers is not None:
        near = names[: settings.tensor_pool] if parents is None else names
        fine = ask(matrix, model, near, layers, rounding or {}, [], settings, by_tensor=True)
        exact = _exact_by_tensor(fine, parents, layer_norms)
        if exact is not None:
            question, (choice, rivals, aside) = fine, exact
    if layers is not None and layer_norms is not None:
        near = names[: settings.arc_pool] if parents is None else names
        if choice.claimed and choice.found is not None:
            near = [question.names[p] for p in choice.found.parents]
        if not choice.claimed or len(near) > 2:
            fine = ask(matrix, model, near, layers, rounding or {}, [], settings, by_tensor=True)
            arc = _on_arc(fine, choice, layer_norms)
            if arc is not None:
                question, choice, rivals, aside = fine, arc, [], frozenset()
    copies = tuple(question.names[i] for i in sorted(aside))

    def ask_of(names: list[str]) -> Question:
        return ask(matrix, model, names, layers, rounding or {}, [], settings)

    return describe(question, choice, rivals, candidates.same, copies, ask_of, layer_norms)


def _exact_by_tensor(
    question: Question, parents: Sequence[str] | None, layer_norms: LayerNorms | None
) -> tuple[Choice, list[Candidate], frozenset[int]] | None:
    """Return the parents that explain a model with weights of their own in each tensor, or None.

    Args:
        question: one in which each tensor is a block.
    """
    if question.layers is None:
        return None
    most_left = question.settings.merge_unexplained
    aside: frozenset[int] = frozenset()
    rivals: list[Candidate] = []
    if parents is None:
        choice, rivals, aside = _search(question, most_left)
    else:
        found = _asked_weights(question, parents)
        choice = Choice(found, judge(question, MODEL, found, most_left, asked=True))
    if choice.found is None or not choice.claimed:
        return None
    method = best_method(question, choice.found.parents, layer_norms)
    if method.left > exact_limit(question, choice.found.parents):
        return None
    return choice, rivals, aside


def _on_arc(question: Question, choice: Choice, layer_norms: LayerNorms) -> Choice | None:
    """Return the two models on whose arc a model lies, where no sum of as few explains it."""
    if question.source == Source.ESTIMATED or len(question.names) < 3:
        return None
    pair = arc_parents(question, range(1, len(question.names)), layer_norms)
    if pair is None:
        return None
    found = _asked_weights(question, [question.names[i] for i in pair])
    method = best_method(question, pair, layer_norms)
    most = question.settings.rival * question.noise_ceiling(MODEL, pair)
    if choice.found is not None and choice.claimed:
        most = max(most, question.settings.rival * choice.found.residual)
    if method.method != MergeMethod.SLERP or method.left > max(most, exact_limit(question, pair)):
        return None
    return Choice(found, Judgement(RecipeVerdict.MERGE))


def _asked_weights(question: Question, parents: Sequence[str]) -> Candidate:
    """Return the best weights of parents that were named."""
    wanted = [question.names.index(p) for p in parents]
    dependent = dependent_parent(question.total, wanted, question.dependence(wanted))
    if dependent is not None:
        raise UsageError(
            f"{printable(question.names[dependent])} is a weighted sum of the other parents: "
            "the weights have no single answer",
            "leave it out, or leave out one it is made of",
        )
    fit = fit_weights(question.squared, MODEL, wanted, question.settings)
    whole = fit_weights(question.total[None], MODEL, wanted, question.settings)
    return Candidate(tuple(wanted), float(fit.residual.sum()), tuple(whole.weights[0]))


def _search(
    question: Question, max_unexplained: float
) -> tuple[Choice, list[Candidate], frozenset[int]]:
    """Return the set taken, its rivals, and the near-copies of the model that were left aside."""
    everything = range(1, len(question.names))
    copies = near_copies(question.total, MODEL, question.settings)
    if not copies:
        choice, rivals = _search_among(question, everything, max_unexplained)
        return choice, rivals, copies
    notes = list(question.notes)
    choice, rivals = _search_among(question, everything, max_unexplained)
    if choice.found is not None and choice.claimed:
        ceiling = question.noise_ceiling(MODEL, choice.found.parents)
        if choice.found.residual <= ceiling and not copies & set(choice.found.parents):
            return choice, [r for r in rivals if not copies & set(r.parents)], copies
    with_copies = list(question.notes)
    question.notes[:] = notes
    rest = [i for i in everything if i not in copies]
    without, rivals_without = _search_among(question, rest, max_unexplained)
    if without.claimed or not choice.claimed:
        return without, rivals_without, copies
    question.notes[:] = with_copies
    return choice, rivals, frozenset()


def _search_among(
    question: Question, candidates: Collection[int], max_unexplained: float
) -> tuple[Choice, list[Candidate]]:
    """Return the set taken out of some candidates, and its rivals."""
    # What lies between others is no parent. The model counts among those: what was merged from
    # it explains nothing of it.
    at = [MODEL, *candidates]
    ends = hull_ends(
        question.total[at][:, at],
        lambda m, others: question.noise_ceiling(at[m], [at[o] for o in others]),
        [0],
    )
    pool = {at[i] for i in ends} - {MODEL}
    choice = choose_parents(question, MODEL, pool, max_unexplained)
    passed_over: list[Candidate] = []
    while choice.found is not None and choice.claimed:
        # Where a weight is negative, a parent may be a merge made with the model.
        merged = choice.judgement.verdict == RecipeVerdict.MERGE
        explainers = pool if merged else pool | {MODEL}
        inside: dict[int, Candidate] = {}
        for parent in choice.found.parents:
            its = _itself_merged(question, parent, explainers - {parent}, max_unexplained)
            if its is None or its.found is None:
                continue
            # What is made of the model, and the model of it: the one with the more equal angles.
            unlikelier = its.judgement.unequal >= choice.judgement.unequal
            if MODEL not in its.found.parents or not unlikelier:
                inside[parent] = its.found
        if not inside:
            break
        made_of_it = any(MODEL in found.parents for found in inside.values())
        pool -= set(inside)
        again = choose_parents(question, MODEL, pool, max_unexplained)
        noise = question.noise(MODEL, choice.found.parents)
        limit = question.settings.rival * (choice.found.residual + noise)
        worse = again.found is None or not again.claimed or again.found.residual > limit
        names = ", ".join(printable(question.names[p], 60) for p in sorted(inside))
        if worse and not made_of_it:
            question.notes.append(f"itself a merge: {names}")
            break
        if not made_of_it:
            question.notes.append(f"in place of {names}, itself a merge, stand its own parents")
            passed_over.append(choice.found)
        choice = again
    rivals = rivals_of(question, MODEL, choice)
    known = {r.parents for r in rivals}
    return choice, [*rivals, *(c for c in passed_over if c.parents not in known)]


def _itself_merged(
    question: Question, parent: int, explainers: set[int], max_unexplained: float
) -> Choice | None:
    """Return what a parent is the weighted sum of, or leaving only noise the add-difference of.

    What is left of an add-difference is the rounding of all four, where it was made of more
    precise copies than those in the store.
    """
    choice = choose_parents(question, parent, explainers, max_unexplained)
    verdict, found = choice.judgement.verdict, choice.found
    if found is None or verdict not in (RecipeVerdict.MERGE, RecipeVerdict.ADD_DIFFERENCE):
        return None
    shares = zip(found.parents, found.weights, strict=True)
    rounding = sum(float((w * question.rounding[p]) ** 2) for p, w in shares)
    noise = question.noise_ceiling(parent, found.parents)
    noise += question.settings.clear_of_noise * rounding
    return choice if verdict == RecipeVerdict.MERGE or found.residual <= noise else None
