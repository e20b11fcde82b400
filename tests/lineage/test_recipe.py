"""Recipes: the published merges, and simulated models of known history."""

from __future__ import annotations

import json
import re
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from megasim.errors import NoAnswerError, UsageError
from megasim.lineage.inner_products import Floats, direction, gram
from megasim.lineage.recipe import recover_recipe
from megasim.lineage.recipe_result import Recipe
from megasim.lineage.recipe_search import hull_distances
from megasim.lineage.rounding import rounding_l2
from megasim.matrix.distance_matrix import DistanceMatrix, LayerMatrices

BLOCKS = 25
LAYERS = 3  # to a block
NUMEL = 400
SKETCH = 256


class World:
    """Models of 25 blocks whose weights and history are known."""

    def __init__(self, seed: int, sketch: int = SKETCH) -> None:
        self.rng = np.random.default_rng(seed)
        self.sketch = sketch
        self.weights: dict[str, Floats] = {}

    def random(self, scale: float) -> Floats:
        # Layers change by unequal amounts, as real ones do.
        sizes = self.rng.lognormal(0, 0.5, (BLOCKS, LAYERS, 1))
        return np.asarray(self.rng.normal(0, scale, (BLOCKS, LAYERS, NUMEL)) * sizes)

    def add(self, name: str, weights: Floats) -> Floats:
        """Store a model in half precision."""
        self.weights[name] = weights.astype(np.float16).astype(np.float64)
        return self.weights[name]

    def fine_tune(self, name: str, base: Floats) -> Floats:
        return self.add(name, base + self.random(float(self.rng.uniform(0.001, 0.004))))

    def matrices(self, *, sketched: bool = False) -> tuple[DistanceMatrix, LayerMatrices]:
        flat = np.stack(list(self.weights.values())).reshape(-1, BLOCKS * LAYERS, NUMEL)
        if sketched:
            maps = self.rng.normal(0, self.sketch**-0.5, (BLOCKS * LAYERS, NUMEL, self.sketch))
            flat = np.einsum("nkd,kds->nks", flat, maps)
        values = np.stack(
            [np.sqrt(np.square(x[:, None] - x[None]).sum(-1)) for x in flat.swapaxes(0, 1)]
        )
        names = tuple(self.weights)
        block_names = tuple(f"B{i:02d}" for i in range(BLOCKS) for _ in range(LAYERS))
        layers = LayerMatrices(
            models=names,
            component="unet",
            metric="l2",
            keys=tuple(f"{b}.{i % LAYERS}" for i, b in enumerate(block_names)),
            blocks=block_names,
            roles=("",) * len(block_names),
            numels=np.full(len(block_names), NUMEL, dtype=np.int64),
            values=values,
        )
        source = "estimated" if sketched else "exact"
        matrix = DistanceMatrix.from_values(names, layers.total(), source=source)
        if sketched:
            relative = 1 / np.sqrt(2 * self.sketch * BLOCKS * LAYERS)
            np.copyto(matrix.errors, matrix.values * relative)
        return matrix, layers

    def rounding(self) -> dict[str, float]:
        return {
            n: rounding_l2(float(np.linalg.norm(w)), "float16") for n, w in self.weights.items()
        }


RATIOS = np.random.default_rng(7).uniform(0, 1, BLOCKS)
TRUTH: dict[str, dict[str, float]] = {
    "two": {"t0": 0.3, "t1": 0.7},
    "three": {"t2": 0.5, "t3": 0.3, "t4": 0.2},
    "four": {"t5": 0.4, "t6": 0.25, "t7": 0.2, "t8": 0.15},
    "difference": {"t9": 1.0, "t10": 1.0, "base": -1.0},
    "half_difference": {"t11": 1.0, "t12": 0.5, "base": -0.5},
    "blockwise": {"t13": 1 - float(RATIOS.mean()), "t14": float(RATIOS.mean())},
    "again": {"t0": 0.18, "t1": 0.42, "t15": 0.4},  # 0.6 × two + 0.4 × t15
}


@cache
def zoo(sketched: bool = False) -> tuple[World, DistanceMatrix, LayerMatrices]:
    """Return a base, 50 fine-tunes of it, and merges of some of those."""
    world = World(3)
    base = world.add("base", world.random(0.05))
    for i in range(50):
        world.fine_tune(f"t{i}", base)
    w = world.weights
    for name, parts in TRUTH.items():
        if name == "blockwise":
            r = RATIOS[:, None, None]
            world.add(name, (1 - r) * w["t13"] + r * w["t14"])
        elif name == "again":
            world.add(name, 0.6 * w["two"] + 0.4 * w["t15"])
        else:
            world.add(name, np.asarray(sum(share * w[p] for p, share in parts.items())))
    return world, *world.matrices(sketched=sketched)


def weights_of(recipe: Recipe) -> dict[str, float]:
    return {p.model: p.weight for p in recipe.parents}


@pytest.mark.parametrize("component", ["unet", "te", "vae"])
def test_published_merges_are_recovered(shared: Path, component: str) -> None:
    data = json.loads((shared / "published" / "v2" / "cwd.json").read_text())
    matrix = DistanceMatrix.from_values(
        data["ml"], data["dm"][component], component=component, source="imported"
    )
    for model in matrix.models:
        recipe = recover_recipe(matrix, model)
        named = re.match(r"([\d.]+)\((.*)\) \+ ([\d.]+)\((.*)\)", model)
        if named is None:
            assert not recipe.claimed
            continue
        assert recipe.verdict == "merge"
        share = float(named[1])
        assert weights_of(recipe) == {
            "wd-1-4-anime_e2.ckpt": pytest.approx(share, abs=5e-4),
            "cjd-v2-1-1.safetensors": pytest.approx(1 - share, abs=5e-4),
        }


@pytest.mark.parametrize("name", TRUTH)
@pytest.mark.parametrize("given_layers", [True, False])
def test_merges_of_the_zoo(name: str, given_layers: bool) -> None:
    world, matrix, layers = zoo()
    if name == "blockwise" and not given_layers:
        pytest.skip("one weight for all blocks does not explain it")
    recipe = recover_recipe(
        matrix, name, layers=layers if given_layers else None, rounding=world.rounding()
    )
    assert recipe.claimed
    assert recipe.unexplained < 0.01
    tolerance = 0.05 if name == "blockwise" else 0.01
    assert weights_of(recipe) == pytest.approx(TRUTH[name], abs=tolerance)
    assert recipe.blockwise == (name == "blockwise")
    if given_layers:
        order = [p.model for p in recipe.parents]
        assert len(recipe.blocks) == BLOCKS
        for block, ratio in zip(recipe.blocks, RATIOS, strict=True):
            truth = {"t13": 1 - ratio, "t14": ratio} if name == "blockwise" else TRUTH[name]
            assert block.weights == pytest.approx([truth[m] for m in order], abs=0.01)


@pytest.mark.parametrize("name", TRUTH)
def test_merges_from_sketches_alone(name: str) -> None:
    _, matrix, layers = zoo(sketched=True)
    recipe = recover_recipe(matrix, name, layers=layers)
    assert recipe.claimed
    assert recipe.source == "estimated"
    assert weights_of(recipe) == pytest.approx(TRUTH[name], abs=0.05)


@pytest.mark.parametrize("sketched", [False, True])
def test_no_fine_tune_is_called_a_merge(sketched: bool) -> None:
    world, matrix, layers = zoo(sketched)
    rounding = world.rounding()
    tuned = ["base", *(f"t{i}" for i in range(50))]
    claimed = [t for t in tuned if recover_recipe(matrix, t, rounding=rounding).claimed]
    assert claimed == []
    some = [t for t in tuned[5:20] if recover_recipe(matrix, t, layers=layers).claimed]
    assert some == []


def test_a_merge_trained_further_says_what_is_left() -> None:
    world = World(5)
    base = world.random(0.05)
    a, b = world.add("a", base + world.random(0.003)), world.add("b", base + world.random(0.003))
    world.add("m", (a + b) / 2 + world.random(0.0005))
    matrix, layers = world.matrices()
    recipe = recover_recipe(matrix, "m", layers=layers, rounding=world.rounding())
    assert recipe.verdict == "merge"
    step = 0.0005**2 / (0.003**2 / 2)
    assert recipe.unexplained == pytest.approx(step, rel=0.5)


def test_rounding_is_no_third_parent() -> None:
    world = World(6)
    base = world.random(0.05)
    a = world.add("a", base + world.random(0.0003))
    b = world.add("b", base + world.random(0.0003))
    for i in range(9):
        world.add(f"other{i}", base + world.random(0.0003))
        share = (i + 1) / 10
        world.add(f"m{i}", share * a + (1 - share) * b)
    matrix, layers = world.matrices()
    for i in range(9):
        recipe = recover_recipe(matrix, f"m{i}", layers=layers, rounding=world.rounding())
        assert weights_of(recipe) == {
            "a": pytest.approx((i + 1) / 10, abs=0.01),
            "b": pytest.approx(1 - (i + 1) / 10, abs=0.01),
        }


def test_a_line_of_two_ends_missing_is_spanned_by_the_outer_points() -> None:
    x = np.array([0.2, 0.4, 0.6, 0.8])
    line = DistanceMatrix.from_values(["p", "q", "r", "s"], np.abs(np.subtract.outer(x, x)))
    assert set(weights_of(recover_recipe(line, "q"))) == {"p", "s"}
    assert not recover_recipe(line, "p").claimed


def test_four_corners_alone_are_ambiguous() -> None:
    corner = np.array([[0, 0], [1, 0], [0, 1], [1, 1.0]])
    values = np.sqrt(np.square(corner[:, None] - corner[None]).sum(-1))
    square = DistanceMatrix.from_values(["base", "a", "b", "m"], values)
    recipe = recover_recipe(square, "m")
    assert recipe.verdict == "ambiguous"
    assert "any of these four" in recipe.sentence()
    asked = recover_recipe(square, "m", parents=["a", "b", "base"])
    assert asked.verdict == "add-difference"
    assert weights_of(asked) == pytest.approx({"a": 1, "b": 1, "base": -1})


def test_bad_questions_get_clear_answers() -> None:
    x = np.array([0.0, 1.0, 3.0, 3.0, 0.0])
    values = np.abs(np.subtract.outer(x, x))
    matrix = DistanceMatrix.from_values(["a", "m", "b", "b2", "a2"], values)

    def asked(*parents: str) -> str:
        with pytest.raises(UsageError) as caught:
            recover_recipe(matrix, "m", parents=parents)
        assert caught.value.remedy
        return caught.value.message

    assert "no such model" in asked("a", "zzz")
    assert "the model itself" in asked("a", "m")
    assert "the same unet" in asked("a", "a2")
    assert "at least two" in asked("a")
    with pytest.raises(UsageError, match="under another name"):
        recover_recipe(matrix, "b", parents=["a", "b2"])
    wide = np.array([0.0, 1.0, 2.0, 4.0])
    line = DistanceMatrix.from_values(["m", "a", "b", "c"], np.abs(np.subtract.outer(wide, wide)))
    with pytest.raises(UsageError, match="weighted sum of the other parents"):
        recover_recipe(line, "m", parents=["a", "b", "c"])
    gap = np.array([[0, np.nan, np.nan], [np.nan, 0, 1], [np.nan, 1, 0]])
    with pytest.raises(NoAnswerError, match="no vae distances"):
        recover_recipe(DistanceMatrix.from_values("mab", gap, component="vae"), "m")
    with pytest.raises(UsageError, match="L2"):
        recover_recipe(DistanceMatrix.from_values("ab", [[0, 1], [1, 0]], metric="l1"), "a")
    same = recover_recipe(matrix, "b")
    assert same.same == ("b2",)
    assert "the same weights, cast or quantised at most, no parents: b2" in same.notes


def test_json_is_plain_and_complete() -> None:
    world, matrix, layers = zoo()
    recipe = recover_recipe(matrix, "two", layers=layers, rounding=world.rounding())
    data = json.loads(json.dumps(recipe.to_json(), allow_nan=False))
    assert {"model", "component", "parents", "unexplained", "rivals", "blocks", "source"} <= set(
        data
    )
    assert [p["model"] for p in data["parents"]] == ["t1", "t0"]
    assert data["parents"][0]["error"] < 0.01
    assert data["parents"][0]["spread"] < 0.01


@settings(max_examples=15, deadline=None)
@given(
    st.lists(st.floats(0.1, 1), min_size=2, max_size=4),
    st.integers(0, 2**32 - 1),
    st.floats(1e-3, 1e3),
)
def test_any_exact_merge_is_recovered_at_any_scale(
    shares: list[float], seed: int, scale: float
) -> None:
    weights = np.array(shares) / sum(shares)
    rng = np.random.default_rng(seed)
    points = rng.normal(size=(len(weights) + 3, 500)) * scale
    points = np.vstack([points, weights @ points[: len(weights)]])
    values = np.sqrt(np.square(points[:, None] - points[None]).sum(-1))
    names = [f"p{i}" for i in range(len(points) - 1)] + ["m"]
    recipe = recover_recipe(DistanceMatrix.from_values(names, values), "m")
    truth = {f"p{i}": w for i, w in enumerate(weights)}
    assert weights_of(recipe) == pytest.approx(truth, abs=1e-3)


def test_gram_equals_inner_products_of_differences() -> None:
    x = np.random.default_rng(0).normal(size=(6, 30))
    squared = np.square(x[:, None] - x[None]).sum(-1)
    np.testing.assert_allclose(gram(squared, 2), (x - x[2]) @ (x - x[2]).T, atol=1e-10)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**32 - 1), st.floats(1e-3, 1e3))
def test_hull_distances_are_those_of_least_squares(seed: int, scale: float) -> None:
    rng = np.random.default_rng(seed)
    points = rng.normal(size=(8, 40)) * scale
    points[3] = 0.6 * points[0] + 0.4 * points[1]
    points[4] = 0.6001 * points[0] + 0.3999 * points[1]
    squared = np.square(points[:, None] - points[None]).sum(-1)
    squared *= 1 + 1e-9 * np.triu(rng.normal(size=(8, 8)))  # as sums are rounded
    squared = np.triu(squared) + np.triu(squared).T
    found = hull_distances(squared)
    for i, distance in enumerate(found):
        others = np.delete(points, i, axis=0)
        steps, toward = (others[1:] - others[0]).T, points[i] - others[0]
        left = toward - steps @ np.linalg.lstsq(steps, toward, rcond=1e-9)[0]
        truth = float(left @ left)
        assert distance == pytest.approx(truth, rel=1e-3, abs=1e-6 * squared.max())


def test_direction_is_the_cosine_of_two_changes() -> None:
    world = World(9)
    base, other = world.add("a", world.random(0.05)), world.add("c", world.random(0.05))
    step = world.random(0.002)
    step[5:10] = 0
    world.add("b", base + step)
    world.add("d", other + step + world.random(0.001))
    matrix, layers = world.matrices()
    found = direction(matrix, "a", "b", "c", "d", layers)
    w = {k: v.ravel() for k, v in world.weights.items()}
    first, second = w["b"] - w["a"], w["d"] - w["c"]
    truth = first @ second / np.linalg.norm(first) / np.linalg.norm(second)
    assert found.cosine == pytest.approx(truth, abs=1e-9)
    assert found.error == 0
    assert {b.block for b in found.blocks} == {f"B{i:02d}" for i in range(25) if not 5 <= i < 10}
    assert json.dumps(found.to_json(), allow_nan=False)
    sketched, _ = world.matrices(sketched=True)
    estimate = direction(sketched, "a", "b", "c", "d")
    assert estimate.error > 0
    assert abs(estimate.cosine - truth) < 6 * estimate.error
    with pytest.raises(NoAnswerError, match="no direction"):
        direction(matrix, "a", "a", "c", "d")


def test_a_merge_by_way_of_an_add_difference_is_told_by_its_ends() -> None:
    world = World(11)
    base = world.add("base", world.random(0.05))
    a, b, c = (world.fine_tune(name, base) for name in "abc")
    world.fine_tune("d", base)
    world.add("full", a + b - base)
    world.add("half", a + (b - base) / 2)
    world.add("mixed", (a + b + c) / 3)
    matrix, layers = world.matrices()
    for given_layers in (None, layers):
        recipes = {
            name: recover_recipe(matrix, name, layers=given_layers, rounding=world.rounding())
            for name in matrix.models
        }
        truths = {
            "full": {"a": 1, "b": 1, "base": -1},
            "half": {"a": 1, "b": 0.5, "base": -0.5},
            "mixed": {"a": 1 / 3, "b": 1 / 3, "c": 1 / 3},
        }
        assert {n for n, r in recipes.items() if r.claimed} == set(truths)
        for name, truth in truths.items():
            assert weights_of(recipes[name]) == pytest.approx(truth, abs=0.01)
        rivals = [dict(r.parents) for r in recipes["half"].rivals]
        assert pytest.approx({"a": 0.5, "full": 0.5}, abs=0.01) in rivals


def test_layers_of_another_family_are_not_missing_from_this_one() -> None:
    world, matrix, layers = zoo()
    n = len(matrix.models)
    alien = np.full((3, n, n), np.nan)
    alien[:, np.arange(n), np.arange(n)] = 0
    wider = LayerMatrices(
        models=layers.models,
        component=layers.component,
        metric=layers.metric,
        keys=(*layers.keys, "x.0", "x.1", "x.2"),
        blocks=(*layers.blocks, "X", "X", "X"),
        roles=(*layers.roles, "", "", ""),
        numels=np.append(layers.numels, [NUMEL] * 3),
        values=np.concatenate([layers.values, alien]),
    )
    recipe = recover_recipe(matrix, "two", layers=wider, rounding=world.rounding())
    assert not any("layers" in note for note in recipe.notes)
    assert len(recipe.blocks) == BLOCKS


@pytest.mark.parametrize(("given_layers", "sketched"), [(True, False), (True, True), (False, True)])
def test_errors_cover_the_truth(given_layers: bool, sketched: bool) -> None:
    """Of merges trained a little further, as many weights are within an error as it states."""
    off: list[float] = []
    for seed in range(150):
        world = World(seed, sketch=32)
        a, b, base = (world.random(0.05) for _ in range(3))
        share = float(world.rng.uniform(0.3, 0.7))
        world.weights = {"a": base + 0.1 * a, "b": base + 0.1 * b}
        w = world.weights
        w["merge"] = share * w["a"] + (1 - share) * w["b"] + 0.01 * world.random(0.05)
        matrix, layers = world.matrices(sketched=sketched)
        recipe = recover_recipe(
            matrix, "merge", parents=["a", "b"], layers=layers if given_layers else None
        )
        assert recipe.claimed
        first = next(p for p in recipe.parents if p.model == "a")
        off.append(abs(first.weight - share) / first.error)
    within = [float(np.mean(np.array(off) < errors)) for errors in (1, 2)]
    assert 0.56 < within[0] < 0.80, within
    assert within[1] > 0.89, within
