"""At which level the weights of a merge differ: not at all, by role, by block, in each tensor."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from megasim.lineage.inner_products import Floats
from megasim.lineage.recipe_question import MODEL, Question
from megasim.lineage.recipe_search import WeightFit, fit_weights
from megasim.words import WeightLevel


@dataclass(frozen=True)
class LevelFit:
    """The weights of some parents at one level.

    Attributes:
        groups: G names, in the order of the keys: roles, blocks, blocks with roles, or keys.
        squared: (G, N, N) squared distances of the question's models, summed over each group.
        fit: the weights of the parents in each group.
        left: the squared distance that they leave together.
    """

    level: WeightLevel
    groups: tuple[str, ...]
    squared: Floats
    fit: WeightFit
    left: float


def group_of(level: WeightLevel, key: str, block: str, role: str) -> str:
    """Return the name of the group of a key whose weights are alike.

    >>> group_of(WeightLevel.BLOCK_ROLE, "layers.3.mlp.up.weight", "layer 3", "mlp")
    'layer 3 mlp'
    """
    names = {
        WeightLevel.COMPONENT: "",
        WeightLevel.ROLE: role,
        WeightLevel.BLOCK: block,
        WeightLevel.BLOCK_ROLE: f"{block} {role}".strip(),
        WeightLevel.TENSOR: key,
    }
    return names[level]


def level_fits(question: Question, parents: Sequence[int]) -> list[LevelFit]:
    """Return the weights of parents at each level that tells more groups apart, fewest first."""
    found = [_fit(question, parents, WeightLevel.COMPONENT, ("",), question.total[None])]
    if question.layers is None:
        return found
    rows = list(zip(question.keys, question.key_blocks, question.key_roles, strict=True))
    for level in list(WeightLevel)[1:]:
        named = [group_of(level, *row) for row in rows]
        groups = tuple(dict.fromkeys(named))
        if len(groups) <= 1 or any(len(groups) == len(f.groups) for f in found):
            continue
        at = {name: i for i, name in enumerate(groups)}
        squared = np.zeros((len(groups), *question.total.shape))
        np.add.at(squared, [at[name] for name in named], question.layers)
        found.append(_fit(question, parents, level, groups, squared))
    return sorted(found, key=lambda f: len(f.groups))


def simplest_level(question: Question, fits: Sequence[LevelFit], noise: float) -> LevelFit:
    """Return the level of fewest groups that leaves about as little as any."""
    least = min(fit.left for fit in fits)
    return next(fit for fit in fits if fit.left <= question.settings.rival * (least + noise))


def _fit(
    question: Question,
    parents: Sequence[int],
    level: WeightLevel,
    groups: tuple[str, ...],
    squared: Floats,
) -> LevelFit:
    fit = fit_weights(squared, MODEL, parents, question.settings)
    return LevelFit(level, groups, squared, fit, float(fit.residual.sum()))
