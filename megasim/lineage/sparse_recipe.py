"""Recipes of merges that sparsify: parents proposed by distances, proved on exact elements."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from megasim.compare.elements import ElementFiles, KeyElements
from megasim.errors import NoAnswerError
from megasim.lineage.element_formulas import FormulaFit, formula_fit
from megasim.lineage.inner_products import Floats, source_of
from megasim.lineage.recipe_question import comparable
from megasim.lineage.recipe_result import Parent, Recipe
from megasim.lineage.settings import SETTINGS, LineageSettings
from megasim.lineage.sparse_atoms import ElementChanges
from megasim.lineage.sparse_methods import SparseFit, parents_by_elements, sparse_fit
from megasim.matrix.distance_matrix import DistanceMatrix
from megasim.words import MergeMethod, RecipeVerdict, Source


def sparse_recipe(
    files: ElementFiles,
    matrix: DistanceMatrix,
    model: str,
    *,
    parents: Sequence[str] | None = None,
    norms: Mapping[str, float],
    weight_sets: Mapping[str, str],
    settings: LineageSettings = SETTINGS,
) -> Recipe | None:
    """Return the sparsifying merge that a model is, or None if it is none of these models.

    TIES, DARE and their like keep some of a parent's changes and drop the rest, so no weighted sum
    explains them. Base and parents are sought among the nearest models by exact elements, few at
    first; then more elements tell the method and its parameters.

    Args:
        parents: the only ones to try, the base among them.

    Raises:
        NoAnswerError: a file that is not there, or no longer what was fingerprinted.
    """
    if source_of(matrix) != Source.EXACT:
        return None
    near = comparable(matrix, model, norms, weight_sets, parents=parents, settings=settings)
    names = [model, *near.names[: settings.sparse_pool]]
    if len(names) < 3:
        return None
    (few, few_keys), (many, most_keys) = settings.element_samples
    sample = list(files.shared(names, matrix.component, per_key=few, most_keys=few_keys))
    bases = _likely_bases(sample, matrix.subset(names).values, settings)
    formula = formula_fit(sample, bases, settings)
    if formula is not None:
        return _of_formula(matrix, names, formula, near.same)
    for base in bases:
        others = [i for i in range(1, len(names)) if i != base]
        chosen = parents_by_elements([ElementChanges.of(e, base, others) for e in sample], settings)
        if not chosen:
            continue
        asked = [model, names[base], *(names[others[i]] for i in chosen)]
        shared = files.shared(asked, matrix.component, per_key=many, most_keys=most_keys)
        places = range(2, len(asked))
        found = sparse_fit([ElementChanges.of(e, 1, places) for e in shared], settings)
        if found is not None:
            return _described(matrix, asked, found, near.same)
    return None


def _likely_bases(
    sample: Sequence[KeyElements], distances: Floats, settings: LineageSettings
) -> list[int]:
    """Return which models may be the base of the first, the likeliest first.

    That is what a merge shares most elements with, since what was dropped stays the base's; where
    next to nothing was dropped, it is the model in the middle of the others.
    """
    if not sample:
        return []
    equal = np.sum([(e.values[1:] == e.values[0]).sum(axis=1) for e in sample], axis=0)
    shared = np.argsort(-equal, kind="stable")[: settings.bases].tolist()
    middle = int(np.nansum(distances[1:, 1:], axis=1).argmin())
    return [i + 1 for i in dict.fromkeys([*(i for i in shared if equal[i]), middle])]


def _described(
    matrix: DistanceMatrix, asked: Sequence[str], found: SparseFit, same: tuple[str, ...]
) -> Recipe:
    model, base, *parents = asked
    shares = [
        Parent(parents[i], float(w), float("nan"))
        for i, w in zip(found.parents, found.weights, strict=True)
    ]
    whole = found.method == MergeMethod.WHOLE_ELEMENTS
    if found.with_base and whole:
        shares.append(Parent(base, 1 - sum(found.weights), float("nan")))
    shares.sort(key=lambda p: (-p.weight, p.model))
    if found.with_base and not whole:
        shares.append(Parent(base, float("nan"), float("nan")))
    densities = dict(zip((parents[i] for i in found.parents), found.densities, strict=True))
    numbers = [] if whole else [(f"density of {n}", d) for n, d in sorted(densities.items())]
    numbers += [
        (name, value)
        for name, value in (("gamma", found.gamma), ("epsilon", found.epsilon))
        if not np.isnan(value)
    ]
    notes = [
        f"{100 * found.explained:.1f} % of the elements that tell follow exactly, by chance "
        f"{100 * found.by_chance:.1f} % would"
    ]
    if found.normalised:
        notes.append("the weights of the parents taken in an element were normalised")
    return _recipe(
        matrix,
        model,
        shares,
        found,
        same,
        tuple(notes),
        base=base if found.with_base and not whole else "",
        numbers=tuple(numbers),
        normalised=found.normalised,
    )


def _of_formula(
    matrix: DistanceMatrix, names: Sequence[str], found: FormulaFit, same: tuple[str, ...]
) -> Recipe:
    base = names[found.models[2]] if len(found.models) > 2 else ""
    nan = float("nan")
    shares = [Parent(names[found.models[0]], 1 - found.alpha if not base else 1.0, nan)]
    shares.append(Parent(names[found.models[1]], found.alpha, nan))
    if base:
        shares.append(Parent(base, nan, nan))
    note = (
        f"{100 * found.explained:.1f} % of the elements that tell follow exactly, by chance "
        f"{100 * found.by_chance:.1f} % would"
    )
    return _recipe(matrix, names[0], shares, found, same, (note,), base=base)


def _recipe(
    matrix: DistanceMatrix,
    model: str,
    parents: Sequence[Parent],
    found: FormulaFit | SparseFit,
    same: tuple[str, ...],
    notes: tuple[str, ...],
    *,
    base: str,
    numbers: tuple[tuple[str, float], ...] = (),
    normalised: bool = False,
) -> Recipe:
    return Recipe(
        model=model,
        component=matrix.component,
        verdict=RecipeVerdict.MERGE,
        parents=tuple(parents),
        unexplained=found.unexplained,
        rounding=float("nan"),
        blockwise=False,
        blocks=(),
        rivals=(),
        same=same,
        source=Source.EXACT,
        notes=notes,
        method=found.method,
        base=base,
        numbers=numbers,
        normalised=normalised,
    )


def try_sparse_recipe(
    files: ElementFiles,
    matrix: DistanceMatrix,
    model: str,
    *,
    parents: Sequence[str] | None = None,
    norms: Mapping[str, float],
    weight_sets: Mapping[str, str],
) -> tuple[Recipe | None, str]:
    """Return the recipe of `sparse_recipe`, and a note where the files could not be read."""
    try:
        found = sparse_recipe(
            files, matrix, model, parents=parents, norms=norms, weight_sets=weight_sets
        )
    except NoAnswerError as error:
        why = f"TIES, DARE and other merges that sparsify were not sought: {error.message}"
        return None, why
    return found, ""
