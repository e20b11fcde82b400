"""Recipes, directions and the family tree of models in a store, exact or out of sketches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

from megasim.compare.elements import ElementFiles
from megasim.estimate.kinship import kinship_test
from megasim.estimate.points import nearest_by_sketch, sketched_distances
from megasim.findings.missing_pairs import load_missing_pairs
from megasim.lineage.claims import CheckedClaim, Claim, check_claims, claims_of_metadata
from megasim.lineage.evidence import ModelFacts, norms_of, rounding_of
from megasim.lineage.facts import (
    load_compared_models,
    load_ema_copies,
    load_layer_norms,
    load_model_facts,
    load_pair_facts,
    load_statistics,
    load_weight_sets,
    stated_parents,
)
from megasim.lineage.families import alike_pairs
from megasim.lineage.family_tree import build_lineage
from megasim.lineage.inner_products import (
    ChangeSimilarity,
    direction,
    source_of,
    without_mixed_estimates,
)
from megasim.lineage.permuted import joined_sets, permuted_copies
from megasim.lineage.recipe import recover_recipe
from megasim.lineage.recipe_result import Parent, Recipe
from megasim.lineage.result import Lineage
from megasim.lineage.settings import SETTINGS
from megasim.lineage.sparse_recipe import try_sparse_recipe
from megasim.lineage.stacks import Stack, find_stack, find_stacks
from megasim.lineage.step_spectra import SpectraOfFiles
from megasim.matrix.distance_matrix import DistanceMatrix, LayerMatrices
from megasim.progress import NO_PROGRESS, Progress
from megasim.store.matrices import (
    MOST_LAYERED_MODELS,
    layers_beneath,
    load_l2_and_l1_layers,
    load_matrix,
    require_component,
)
from megasim.store.rows import Store
from megasim.words import MergeMethod, RecipeVerdict, Source


def load_recipe(
    store: Store,
    model: str,
    component: str = "unet",
    *,
    parents: Sequence[str] | None = None,
    estimate: bool = False,
    progress: Progress = NO_PROGRESS,
) -> Recipe:
    """Return a model as a weighted sum of others. See `recover_recipe`.

    Args:
        parents: the only ones to try; else they are sought among all models, or among those
            nearest to it where there are more than `MOST_LAYERED_MODELS`.
        estimate: whether to take all distances from the sketches.
    """
    asked = list(dict.fromkeys([model, *(parents or ())]))
    notes: tuple[str, ...] = ()
    if estimate:
        chosen = asked if parents else _nearest_by_sketch(store, model, component, progress)
        matrix, layers = _distances(store, component, chosen, True, progress)
    else:
        require_component(store, component, asked)
        measured, notes = without_mixed_estimates(load_matrix(store, component))
        matrix = _nearest_in(measured, model, parents or ())
        layers = layers_beneath(store, matrix)
    facts = load_model_facts(store, component)
    # The distances of a model with NaN are of fewer elements than those of the others.
    broken = {fact.name for fact in facts if fact.lacks(component)} - set(asked)
    matrix = matrix.subset([name for name in matrix.models if name not in broken])
    sets, norms = load_weight_sets(store, component), norms_of(facts, component)
    recipe = recover_recipe(
        matrix,
        model,
        parents=parents,
        layers=layers,
        rounding=rounding_of(facts, component),
        norms=norms,
        weight_sets=sets,
        layer_norms=partial(load_layer_norms, store, component),
    )
    stack = None if recipe.claimed or parents else find_stack(store, model)
    if stack is not None:
        recipe = _stack_recipe(stack, component)
    elif not (recipe.claimed and recipe.unexplained <= SETTINGS.nearly_all) and not estimate:
        files = ElementFiles(store)
        sparse, note = try_sparse_recipe(
            files, matrix, model, parents=parents, norms=norms, weight_sets=sets
        )
        recipe = sparse or recipe
        notes = (*notes, note) if note else notes
    return replace(recipe, notes=(*recipe.notes, *notes))


def load_direction(
    store: Store,
    models: tuple[str, str, str, str],
    component: str = "unet",
    *,
    estimate: bool = False,
    progress: Progress = NO_PROGRESS,
) -> ChangeSimilarity:
    """Return the cosine between the changes A→B and C→D of four models. See `direction`."""
    some = list(dict.fromkeys(models))
    matrix, layers = _distances(store, component, some, estimate, progress)
    return direction(matrix, *models, layers)


def load_lineage(
    store: Store,
    component: str = "unet",
    *,
    models: Sequence[str] | None = None,
    use_metadata: bool = True,
    claimed: Sequence[Claim] = (),
    estimate: bool = False,
    progress: Progress = NO_PROGRESS,
) -> tuple[Lineage, list[CheckedClaim]]:
    """Return the family tree of the models, and what the weights say of what is claimed.

    See `lineage_and_claims`.

    Args:
        estimate: whether to take all distances from the sketches.
    """
    build = partial(lineage_and_claims, store, use_metadata=use_metadata, claimed=claimed)
    if estimate:
        matrix, layers = _distances(store, component, models, estimate, progress)
        return build(matrix, layers)
    matrix = load_matrix(store, component, models=models)
    layers = l1 = None
    if len(matrix.models) <= MOST_LAYERED_MODELS:
        layers, l1 = load_l2_and_l1_layers(store, component, models=matrix.models)
        if not layers.keys:
            layers = l1 = None
    changed = changed_weights(store, component, matrix.models)
    return build(matrix, layers, l1, changed)


def changed_weights(store: Store, component: str, models: Sequence[str]) -> DistanceMatrix:
    """Return how many elements differ between models, running statistics left aside."""
    apart = bool(load_statistics(store))
    return load_matrix(store, component, "l0", models=models, weights_only=apart)


def lineage_and_claims(
    store: Store,
    matrix: DistanceMatrix,
    layers: LayerMatrices | None,
    layers_l1: LayerMatrices | None = None,
    changed: DistanceMatrix | None = None,
    *,
    use_metadata: bool = True,
    claimed: Sequence[Claim] = (),
) -> tuple[Lineage, list[CheckedClaim]]:
    """Return the family tree of the models of a matrix, and what the weights say of claims.

    Claims are checked against a tree that was built without them. See `build_lineage` and
    `check_claims`.

    Args:
        layers, layers_l1: the L2 and L1 of the same models by layer, where they are known.
        changed: from `changed_weights`, where it is known.
        use_metadata: whether step counts and claims in the metadata count as evidence, and
            whether those claims are checked.
        claimed: more claims to check.
    """
    component = matrix.component
    matrix, notes = without_mixed_estimates(matrix)
    facts = load_model_facts(store, component, models=matrix.models)
    blind = [replace(f, counts={}, metadata={}) for f in facts]
    ema_copies = load_ema_copies(store) if component == "unet" else ()
    kinship = kinship_test(store, component, models=matrix.models)
    permuted = permuted_copies(store, component, kinship, norms_of(facts, component))
    sets = joined_sets(load_weight_sets(store, component, models=matrix.models), permuted)
    files = ElementFiles(store)
    spectra = SpectraOfFiles(files, component) if source_of(matrix) == Source.EXACT else None
    build = partial(
        build_lineage,
        matrix,
        layers=layers,
        layers_l1=layers_l1,
        changed=changed,
        pairs=load_pair_facts(store, alike_pairs(matrix, sets)),
        compared=load_compared_models(store, matrix.models),
        ema_copies=ema_copies,
        weight_sets=sets,
        permuted=permuted,
        kinship=kinship,
        layer_norms=partial(load_layer_norms, store, component),
        statistics=load_statistics(store),
        spectra=spectra,
    )
    from_weights = build(facts=blind)
    sparse, unread = _sparse_recipes(files, store, matrix, from_weights, facts)
    sparse += _stack_recipes(store, from_weights)
    if sparse:
        kept = [r for r in from_weights.recipes if r.model not in {s.model for s in sparse}]
        from_weights = build(facts=blind, merges=[*kept, *sparse])
    notes = (*notes, *unread)
    if spectra is not None and spectra.unread:
        notes = (*notes, spectra.unread)
    lineage = from_weights
    claims = list(claimed)
    if use_metadata:
        written = claims_of_metadata(facts)
        claims = written + claims
        stated = stated_parents(written, list(matrix.models))
        if stated or any(f.counts for f in facts):  # else the tree is the same
            lineage = build(facts=facts, stated=stated, merges=from_weights.recipes)
    rounding = rounding_of(facts, component)
    checked = check_claims(claims, matrix, layers=layers, rounding=rounding, lineage=from_weights)
    lacking = load_missing_pairs(store, matrix.models).sentence()
    notes = (*notes, lacking) if lacking else notes
    return replace(lineage, notes=(*lineage.notes, *notes)), checked


def _stack_recipe(stack: Stack, component: str) -> Recipe:
    """Return a stack as a recipe; the weights are shares of the layers."""
    nan = float("nan")
    shares = sorted(stack.shares.items(), key=lambda item: (-item[1], item[0]))
    return Recipe(
        model=stack.model,
        component=component,
        verdict=RecipeVerdict.MERGE,
        parents=tuple(Parent(name, share, nan) for name, share in shares),
        unexplained=0.0,
        rounding=nan,
        blockwise=False,
        blocks=(),
        rivals=(),
        same=(),
        source=Source.EXACT,
        notes=(),
        method=MergeMethod.STACK,
        pieces=tuple(run.sentence() for run in stack.runs),
    )


def _stack_recipes(store: Store, lineage: Lineage) -> list[Recipe]:
    """Return the stacks among the models of a lineage."""
    merges = {r.model for r in lineage.recipes}
    copies = {edge.child for edge in lineage.edges if edge.kind.same_weights}
    models = {m for family in lineage.families for m in family.models} - merges - copies
    found = find_stacks(store)
    return [_stack_recipe(found[name], lineage.component) for name in found if name in models]


def _sparse_recipes(
    files: ElementFiles,
    store: Store,
    matrix: DistanceMatrix,
    lineage: Lineage,
    facts: Sequence[ModelFacts],
) -> tuple[list[Recipe], tuple[str, ...]]:
    """Return the merges that sparsify among the models of a lineage, and what could not be read."""
    component = matrix.component
    if len(matrix.models) > MOST_LAYERED_MODELS:
        note = (
            "of so many models, merges that sparsify are not sought: `megasim recipe` tells of one"
        )
        return [], (note,)
    exact = {r.model for r in lineage.recipes if r.unexplained <= SETTINGS.nearly_all}
    sets, norms = load_weight_sets(store, component), norms_of(facts, component)
    broken = {fact.name for fact in facts if fact.lacks(component)}
    copies = {edge.child for edge in lineage.edges if edge.kind.same_weights}
    found: list[Recipe] = []
    unread: list[str] = []
    for family in lineage.families:
        own = [name for name in family.models if name not in broken | copies]
        part = matrix.subset(own).largest_complete()
        for model in part.models:
            if model in exact or len(own) < 3:
                continue
            recipe, note = try_sparse_recipe(files, part, model, norms=norms, weight_sets=sets)
            if recipe is not None:
                found.append(recipe)
            if note:
                unread.append(note)
    return found, tuple(sorted(set(unread)))[:1]


def _distances(
    store: Store,
    component: str,
    models: Sequence[str] | None,
    estimate: bool,
    progress: Progress,
) -> tuple[DistanceMatrix, LayerMatrices | None]:
    """Return the L2 distances of a component and, of not too many models, by layer."""
    if not estimate:
        matrix, _ = without_mixed_estimates(load_matrix(store, component, models=models))
        return matrix, layers_beneath(store, matrix)
    count = len(store.model_ids() if models is None else models)
    few = count <= MOST_LAYERED_MODELS
    return sketched_distances(store, component, models=models, with_layers=few, progress=progress)


def _nearest_by_sketch(
    store: Store, model: str, component: str, progress: Progress
) -> list[str] | None:
    """Return a model and those nearest by their sketches; None if all are few enough."""
    if len(store.model_ids()) <= MOST_LAYERED_MODELS:
        require_component(store, component, [model])
        return None
    k = MOST_LAYERED_MODELS - 1
    return [model, *nearest_by_sketch(store, component, model, k, progress=progress)]


def _nearest_in(matrix: DistanceMatrix, model: str, parents: Sequence[str]) -> DistanceMatrix:
    """Return the matrix of a model, its parents and those nearest to it."""
    if model not in matrix.models or len(matrix.models) <= MOST_LAYERED_MODELS:
        return matrix
    row = matrix.values[matrix.models.index(model)]
    near = [matrix.models[i] for i in row.argsort(kind="stable")[:MOST_LAYERED_MODELS]]
    wanted = {model, *parents, *near}
    return matrix.subset([name for name in matrix.models if name in wanted])
