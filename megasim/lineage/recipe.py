"""The recipe of a model: which weighted sum of other models it is, and whether it is one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from megasim.errors import UsageError, printable
from megasim.lineage.inner_products import require_l2
from megasim.lineage.recipe_description import describe
from megasim.lineage.recipe_question import MODEL, Question, ask, check_parents, comparable
from megasim.lineage.recipe_result import Recipe
from megasim.lineage.recipe_search import (
    Candidate,
    dependent_parent,
    fit_weights,
    hull_ends,
    least_residual,
    search_parents,
)
from megasim.lineage.recipe_verdict import (
    is_uneven,
    lies_within,
    other_reading,
    verdict_of,
)
from megasim.lineage.settings import SETTINGS, LineageSettings
from megasim.matrix.distance_matrix import DistanceMatrix, LayerMatrices
from megasim.words import RecipeVerdict


def recover_recipe(
    matrix: DistanceMatrix,
    model: str,
    *,
    parents: Sequence[str] | None = None,
    layers: LayerMatrices | None = None,
    rounding: Mapping[str, float] | None = None,
    max_unexplained: float | None = None,
    settings: LineageSettings = SETTINGS,
) -> Recipe:
    """Return the model as a weighted sum of others, or say that it is none of these models.

    The weights minimise ‖m − Σ wᵢ pᵢ‖² under Σ wᵢ = 1, from squared distances alone. Parents
    are sought among the nearest models that are not themselves merges of others; the
    smallest set is taken to which a further parent adds less than noise and a quarter of what
    is left. A recipe is claimed when it leaves at most `max_unexplained` beyond the rounding.

    Args:
        matrix: L2 distances of the model and the models it may be made of.
        parents: the parents, when they are known; otherwise they are searched.
        layers: distances by layer, exact or estimated: the weights of each block, their
            spread, and merges whose ratio differs by block need them.
        rounding: model → the L2 that storing it rounded away (see `rounding_l2`); a model
            not named counts as unrounded.
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
    noise = dict(rounding or {})
    names, same, notes = comparable(matrix, model, noise, parents, settings)
    if parents is not None:
        check_parents(matrix, model, parents, same)
        names = [n for n in names if n in set(parents)]
    question = ask(matrix, model, names, layers, noise, notes, settings)
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
        fit = fit_weights(question.squared, MODEL, wanted, settings)
        whole = fit_weights(question.total[None], MODEL, wanted, settings)
        found = Candidate(tuple(wanted), float(fit.residual.sum()), tuple(whole.weights[0]))
        verdict = verdict_of(question, MODEL, found, most_left, asked=True)
    else:
        found, rivals, verdict = _search(question, most_left)
    if found is not None and verdict != RecipeVerdict.NONE and is_uneven(question, found):
        verdict = RecipeVerdict.NONE
        question.notes.append(
            "it lies near the line of these models, but in each layer elsewhere on it, as an "
            "epoch lies between others: no merge leaves that"
        )
    elif found is not None and verdict == RecipeVerdict.NONE and parents is None:
        question.notes += other_reading(question, found)
    return describe(question, found, rivals, verdict, tuple(same))


def _search(
    question: Question, max_unexplained: float
) -> tuple[Candidate | None, list[Candidate], RecipeVerdict]:
    """Return the claimed or best set, its rivals, and the verdict."""
    # What lies between others is no parent. The model counts among those: what was merged from
    # it explains nothing of it.
    ends = hull_ends(question.total, question.noise_ceiling, [MODEL])
    pool = set(ends) - {MODEL}
    chosen, rivals, verdict = _choose(question, MODEL, pool, max_unexplained)
    passed_over: list[Candidate] = []
    while chosen is not None and verdict != RecipeVerdict.NONE:
        # Where a weight is negative, a parent may be a merge made with the model.
        explainers = pool if verdict == RecipeVerdict.MERGE else pool | {MODEL}
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
        limit = question.settings.rival * (chosen.residual + question.noise(MODEL, chosen.parents))
        worse = again is None or its_verdict == RecipeVerdict.NONE or again.residual > limit
        names = ", ".join(printable(question.names[p], 60) for p in sorted(inside))
        if worse and not made_of_it:
            question.notes.append(f"itself a merge: {names}")
            break
        if not made_of_it:
            question.notes.append(f"in place of {names}, itself a merge, stand its own parents")
            passed_over.append(chosen)
        chosen, rivals, verdict = again, its_rivals, its_verdict
    return chosen, [*rivals, *passed_over] if verdict != RecipeVerdict.NONE else rivals, verdict


def _itself_merged(
    question: Question, parent: int, explainers: set[int], max_unexplained: float
) -> Candidate | None:
    """Return what a parent is the weighted sum of, or leaving only noise the add-difference of."""
    found, _, verdict = _choose(question, parent, explainers, max_unexplained)
    if found is None or verdict not in (RecipeVerdict.MERGE, RecipeVerdict.ADD_DIFFERENCE):
        return None
    noise = question.noise_ceiling(parent, found.parents)
    return found if verdict == RecipeVerdict.MERGE or found.residual <= noise else None


def _choose(
    question: Question, model: int, pool: set[int], max_unexplained: float
) -> tuple[Candidate | None, list[Candidate], RecipeVerdict]:
    """Return the smallest set that no further parent betters, those near it, and the verdict."""
    if len(pool) < 2:
        return None, [], RecipeVerdict.NONE
    total, gain = question.total, question.settings.least_gain
    left = float(total[model, sorted(pool)].min())
    best: Candidate | None = None
    level: list[Candidate] = []
    # Where all models together do not explain enough, near pairs are tried only to be shown.
    hopeless = least_residual(question.squared, model, pool) > (1 - gain) * left
    if hopeless:
        pool = set(sorted(pool, key=lambda p: (total[model, p], p))[: question.settings.shown_pool])
    found = search_parents(
        question.squared,
        model,
        pool,
        noise=question.dependence(pool),
        most=2 if hopeless else None,
        settings=question.settings,
    )
    for candidates in found:
        if best is not None and best.residual <= question.noise_ceiling(model, best.parents):
            break
        if candidates[0].residual <= (1 - gain) * left:
            # Of sets that explain all but noise, the one that reaches farthest: every point of
            # a line of merges explains its neighbours, and only its ends are parents.
            ceiling = question.noise_ceiling(model, sorted(pool))
            alike = [
                c
                for c in candidates
                if c.residual <= ceiling and c.residual <= question.noise_ceiling(model, c.parents)
            ]
            best = max(alike, key=lambda c: question.reach(model, c.parents), default=candidates[0])
            level, left = candidates, best.residual
        elif best is None:
            level = level or candidates
    if best is None:
        return (level[0] if level else None), level[1:], RecipeVerdict.NONE
    near = question.settings.rival * (best.residual + question.noise(model, best.parents))
    rivals = [
        c
        for c in level
        if c is not best and c.residual <= near and not lies_within(question, c, best)
    ]
    return best, rivals, verdict_of(question, model, best, max_unexplained)
