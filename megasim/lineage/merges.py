"""The merges among the models of a family: found by their recipes, no two explained in a circle."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import networkx as nx

from megasim.lineage.angular_methods import LayerNorms
from megasim.lineage.families import FamilyDistances
from megasim.lineage.recipe import recover_recipe
from megasim.lineage.recipe_result import Recipe
from megasim.lineage.recipe_search import explainable
from megasim.lineage.settings import SETTINGS, LineageSettings


@dataclass(frozen=True)
class Merges:
    """Which models of a family are merges.

    Attributes:
        recipes: theirs, in the order of the family's models.
        parents: place of a merge in the family → those of its parents, heaviest first.
    """

    recipes: tuple[Recipe, ...]
    parents: Mapping[int, tuple[int, ...]]


def find_merges(
    family: FamilyDistances,
    rounding: Mapping[str, float],
    norms: Mapping[str, float],
    settings: LineageSettings = SETTINGS,
    layer_norms: LayerNorms | None = None,
) -> Merges:
    """Return the models of a family that are merges of others in it.

    Args:
        rounding: model → the L2 that storing it rounded away.
        norms: model → L2 of its weights, where known.
        layer_norms: gives L2 of single tensors, where known.
    """
    recipes = (
        recover_recipe(
            family.matrix,
            family.names[i],
            layers=family.layers,
            rounding=rounding,
            norms=norms,
            layer_norms=layer_norms,
            max_unexplained=settings.merge_unexplained,
            settings=settings,
        )
        for i in explainable(family.matrix.squared(), family.layers, settings)
    )
    claimed = [recipe for recipe in recipes if recipe.claimed and recipe.likeliest]
    return merges_of(family, _without_steps_from_a_copy(family, claimed))


def _without_steps_from_a_copy(family: FamilyDistances, recipes: list[Recipe]) -> list[Recipe]:
    """Return the merges without those that a near-copy explains as well as their parents do.

    Of merges that are near-copies of each other, the one that its parents explain best stays; to
    another that is no nearer to its own parents' sum than to that one, it is the parent.
    """
    place = {name: i for i, name in enumerate(family.names)}
    squared = family.matrix.squared()

    def left(recipe: Recipe) -> float:
        nearest = min(squared[place[recipe.model], place[p.model]] for p in recipe.parents)
        return float(recipe.unexplained * nearest)

    kept: dict[str, Recipe] = {}
    for recipe in sorted(recipes, key=lambda r: (left(r), r.model)):
        row = squared[place[recipe.model]]
        if not any(row[place[c]] <= left(recipe) for c in recipe.near_copies if c in kept):
            kept[recipe.model] = recipe
    return list(kept.values())


def merges_of(family: FamilyDistances, recipes: Sequence[Recipe]) -> Merges:
    """Return those of the recipes that are of models of the family only, without circles.

    Of merges that explain each other in a circle, the worst explained is dropped.
    """
    place = {name: i for i, name in enumerate(family.names)}
    inside = (r for r in recipes if {r.model, *(p.model for p in r.parents)} <= place.keys())
    own = sorted(inside, key=lambda r: place[r.model])
    parents = {place[r.model]: tuple(place[p.model] for p in r.parents) for r in own}
    left = {place[r.model]: r.unexplained for r in own}
    graph: nx.DiGraph[int] = nx.DiGraph((p, m) for m, ps in parents.items() for p in ps)
    while not nx.is_directed_acyclic_graph(graph):
        cycle = {a for a, _ in nx.find_cycle(graph)}
        worst = max(sorted(cycle & set(parents)), key=lambda i: left[i])
        graph.remove_edges_from([(p, worst) for p in parents.pop(worst)])
    return Merges(tuple(r for r in own if place[r.model] in parents), parents)
