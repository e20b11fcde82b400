"""Recipes that are refused, hidden or rivalled: each says why, and lists what came nearest."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import pdist, squareform

from megasim.lineage.evidence import ModelFacts
from megasim.lineage.family_tree import build_lineage
from megasim.lineage.inner_products import Floats
from megasim.lineage.recipe import recover_recipe
from megasim.lineage.recipe_result import Recipe
from megasim.matrix.distance_matrix import DistanceMatrix
from megasim.words import RecipeVerdict

SIZE = 4000


def matrix_of(weights: dict[str, Floats]) -> DistanceMatrix:
    return DistanceMatrix.from_values(
        list(weights), squareform(pdist(np.stack(list(weights.values()))))
    )


def weights_of(recipe: Recipe) -> dict[str, float]:
    return {p.model: p.weight for p in recipe.parents}


def step(rng: np.random.Generator, length: float) -> Floats:
    """Return a change of that L2 in a direction of its own."""
    drawn = rng.normal(size=SIZE)
    return drawn * (length / float(np.linalg.norm(drawn)))


def three_merges(seed: int, apart: float) -> dict[str, Floats]:
    """Return two parents, and three merges of them that were trained a little, much alike."""
    rng = np.random.default_rng(seed)
    base = step(rng, 1000)
    w = {"base": base, "a": base + step(rng, 165), "b": base + step(rng, 165)}
    trained = (w["a"] + w["b"]) / 2 + step(rng, 0.9)
    for i in range(3):
        w[f"m{i}"] = trained + step(rng, apart / 2**0.5)
    return w


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 2**32 - 1), st.floats(0.1, 3))
def test_nearly_equal_merges_do_not_hide_each_other(seed: int, apart: float) -> None:
    matrix = matrix_of(three_merges(seed, apart))
    for i in range(3):
        recipe = recover_recipe(matrix, f"m{i}")
        assert recipe.verdict == RecipeVerdict.MERGE
        assert weights_of(recipe) == pytest.approx({"a": 0.5, "b": 0.5}, abs=0.02)
        others = {f"m{j}" for j in range(3)} - {f"m{i}"}
        assert set(recipe.near_copies) == others
        assert not any(others & {m for m, _ in r.parents} for r in recipe.rivals)


def test_in_a_tree_near_copies_hang_on_the_one_that_is_nearest_to_the_merge() -> None:
    w = three_merges(5, 0.3)
    facts = [ModelFacts(n, norms={"unet": float(np.linalg.norm(x))}) for n, x in w.items()]
    found = build_lineage(matrix_of(w), facts=facts)
    (recipe,) = found.recipes
    into = {m: [e for e in found.edges if e.child == m] for m in ("m0", "m1", "m2")}
    assert {e.parent for e in into.pop(recipe.model)} == {"a", "b"}
    for edges in into.values():
        assert {e.parent for e in edges} <= {"m0", "m1", "m2"}


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_merges_of_nearly_one_ratio_are_not_the_same_weights(seed: int) -> None:
    rng = np.random.default_rng(seed)
    base = step(rng, 50)
    w = {"a": base + step(rng, 5), "b": base + step(rng, 5)}
    for share in (0.697, 0.7):
        w[f"m{share}"] = share * w["a"] + (1 - share) * w["b"]
    # What float16 rounds away is more than they differ by.
    rounding = dict.fromkeys(w, float(np.linalg.norm(base)) * 2.0**-10 / 12**0.5)
    matrix = matrix_of(w)
    recipe = recover_recipe(matrix, "m0.7", rounding=rounding)
    assert recipe.same == ()
    assert not any("under another name" in note for note in recipe.notes)
    assert weights_of(recipe) == pytest.approx({"a": 0.7, "b": 0.3}, abs=1e-3)
    assert not any(e.kind.same_weights for e in build_lineage(matrix).edges)
    named = recover_recipe(matrix, "m0.7", weight_sets=dict.fromkeys(("m0.697", "m0.7"), "m0.7"))
    assert named.same == ("m0.697",)


def test_a_refusal_names_its_reason_and_what_came_nearest() -> None:
    rng = np.random.default_rng(3)
    base = step(rng, 100)
    w = {"base": base, **{f"t{i}": base + step(rng, 10) for i in range(6)}}
    w["far"] = (w["t0"] + w["t1"]) / 2 + step(rng, 4)
    matrix = matrix_of(w)
    recipe = recover_recipe(matrix, "far")
    assert not recipe.claimed
    assert recipe.reason.startswith("the best weights, ")
    assert "a merge leaves 10.0 % at most" in recipe.reason
    assert recipe.reason in recipe.sentence()
    assert {m for m, _ in recipe.rivals[0].parents} == {"t0", "t1"}
    assert recipe.decides
    tune = recover_recipe(matrix, "t3")
    assert "even half" in tune.reason
    pair = recover_recipe(matrix.subset(["t0", "t1"]), "t0")
    assert "fewer than two" in pair.reason
    for told in (recipe, tune, pair):
        data = json.loads(json.dumps(told.to_json(), allow_nan=False))
        assert data["reason"] in data["sentence"]


def test_every_rival_that_leaves_little_is_listed_simplest_first() -> None:
    rng = np.random.default_rng(8)
    base = step(rng, 100)
    w = {"a": base + step(rng, 10), "b": base + step(rng, 10)}
    trained = 0.73 * w["a"] + 0.27 * w["b"]
    missing = step(rng, 0.474)  # what no sum of two explains: 1.5 % of the squared distance
    w["m"] = trained + missing
    # x + y − z comes to most of it by chance
    w["x"] = base + step(rng, 10)
    w["y"] = base + step(rng, 10)
    w["z"] = w["x"] + w["y"] - w["m"] + step(rng, 0.97)  # 0.57 %
    matrix = matrix_of(w)
    recipe = recover_recipe(matrix, "m")
    assert recipe.verdict == RecipeVerdict.MERGE
    assert weights_of(recipe) == pytest.approx({"a": 0.73, "b": 0.27}, abs=0.02)
    left = {frozenset(m for m, _ in r.parents): r.unexplained for r in recipe.rivals}
    assert left[frozenset("xyz")] == pytest.approx(0.0057, rel=0.02)
    assert recipe.unexplained == pytest.approx(0.015, rel=0.02)
    assert all(share <= 0.03 for share in left.values())
    sizes = [len(r.parents) for r in recipe.rivals]
    assert sizes == sorted(sizes)
    assert "layer" in recipe.decides
