"""Which set of parents is taken for a model: the simplest that no further parent betters."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np

from megasim.lineage.parent_search import CandidateSets, search_parents
from megasim.lineage.recipe_question import Question
from megasim.lineage.recipe_search import Candidate, least_residual
from megasim.lineage.recipe_verdict import Judgement, judge, lies_within
from megasim.words import RecipeVerdict


@dataclass(frozen=True)
class Choice:
    """The set of parents that is taken, or came nearest, among those tried.

    Attributes:
        found: None where fewer than two models could be tried, or no set has weights to merge by.
        judgement: what `found` proves.
        tried: all sets with weights that a person merges by, of each size those together.
    """

    found: Candidate | None
    judgement: Judgement
    tried: tuple[CandidateSets, ...] = ()

    @property
    def claimed(self) -> bool:
        """Whether the set proves anything."""
        return self.judgement.verdict != RecipeVerdict.NONE


def choose_parents(
    question: Question, model: int, pool: Collection[int], max_unexplained: float
) -> Choice:
    """Return the smallest set of a pool that no further parent betters."""
    if len(pool) < 2:
        text = "fewer than two other models can be compared with it"
        return Choice(None, Judgement(RecipeVerdict.NONE, text))
    total, settings, everything = question.total, question.settings, pool
    left = float(total[model, sorted(pool)].min())
    best: Candidate | None = None
    tried: list[CandidateSets] = []
    # Where all models together do not explain enough, near pairs are tried only to be shown.
    hopeless = least_residual(question.squared, model, pool) > (1 - settings.least_gain) * left
    if hopeless:
        pool = sorted(pool, key=lambda p: (total[model, p], p))[: settings.shown_pool]
    found = search_parents(
        question.squared,
        model,
        pool,
        noise=question.dependence_with,
        most=2 if hopeless else None,
        settings=settings,
    )
    for candidates in found:
        if best is not None and best.residual <= question.noise_ceiling(model, best.parents):
            break
        tried.append(candidates)
        enough = candidates.up_to((1 - settings.least_gain) * left)
        better = [c for c in enough if _betters(question, model, c, best, left)]
        if better:
            # Of sets that explain all but noise, the one that reaches farthest: every point of
            # a line of merges explains its neighbours, and only its ends are parents.
            alike = [c for c in better if c.residual <= question.noise_ceiling(model, c.parents)]
            best = max(alike, key=lambda c: question.reach(model, c.parents), default=better[0])
            left = best.residual
    if best is None:
        nearest = min((c[0] for c in tried), key=lambda c: (c.residual, c.parents), default=None)
        if nearest is None:
            text = "no weights that a person merges by bring others near it"
            return Choice(None, Judgement(RecipeVerdict.NONE, text))
        # Nothing takes away a quarter of what the nearest model leaves: no sum explains it.
        most = min(max_unexplained, 1 - settings.least_gain)
        judged = judge(question, model, nearest, most, pool=everything)
        return Choice(nearest, judged.refused(), tuple(tried))
    judged = judge(question, model, best, max_unexplained, pool=everything)
    return Choice(best, judged, tuple(tried))


def rivals_of(question: Question, model: int, choice: Choice) -> list[Candidate]:
    """Return the other sets that explain nearly as much, the simplest first.

    Those that leave no more than the share of the settings, or twice what the one taken leaves.
    A set that only puts in a point between the parents, or adds a parent to a simpler set
    without taking away a quarter of what that leaves, says nothing new.
    """
    best, settings = choice.found, question.settings
    if best is None:
        return []
    listed = [best]
    near = settings.rival * (best.residual + question.noise(model, best.parents))
    limit = near if choice.claimed else best.residual
    explaining = [c for sets in choice.tried for c in _explaining(question, model, sets, limit)]
    for candidate in sorted(explaining, key=lambda c: _simplicity(question, c)):
        if candidate.parents == best.parents:
            continue
        adds = any(
            set(known.parents) < set(candidate.parents)
            and candidate.residual > (1 - settings.least_gain) * known.residual
            for known in listed
        )
        if not adds and not (choice.claimed and lies_within(question, candidate, best)):
            listed.append(candidate)
    return listed[1:]


def _explaining(
    question: Question, model: int, sets: CandidateSets, limit: float
) -> list[Candidate]:
    """Return the sets that leave no more than a limit, or than the share that is always listed."""
    nearest = question.total[model][sets.parents].min(axis=1)
    share = np.divide(sets.residual, nearest, out=np.full(len(sets), np.inf), where=nearest > 0)
    listed = (sets.residual <= limit) | (share <= question.settings.rival_unexplained)
    return [sets[place] for place in np.flatnonzero(listed).tolist()]


def _betters(
    question: Question, model: int, candidate: Candidate, best: Candidate | None, left: float
) -> bool:
    """Return whether a set that takes away a quarter of what is left betters a smaller one.

    A plain weighted sum that leaves little gives way to a set that subtracts only where that
    leaves no more than noise, or a tenth: among many candidates one such sum is near by chance.
    """
    settings = question.settings
    subtracts = min(candidate.weights) < settings.not_negative
    if best is None or not subtracts or min(best.weights) < settings.not_negative:
        return True
    if question.unexplained(model, best) > settings.rival_unexplained:
        return True
    ceiling = question.noise_ceiling(model, candidate.parents)
    return candidate.residual <= max(ceiling, settings.subtracting_leaves * left)


def _simplicity(question: Question, candidate: Candidate) -> tuple[int, bool, float, Sequence[int]]:
    subtracts = min(candidate.weights) < question.settings.not_negative
    return len(candidate.parents), subtracts, candidate.residual, candidate.parents
