"""Merges with weights of their own by role or tensor, along an arc, and stocks: from distances."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pytest
import torch
from scipy.spatial.distance import pdist, squareform

from megasim.lineage.angular_methods import arc_slope
from megasim.lineage.evidence import ModelFacts
from megasim.lineage.family_tree import build_lineage
from megasim.lineage.inner_products import Floats
from megasim.lineage.recipe import recover_recipe
from megasim.lineage.recipe_result import Recipe
from megasim.matrix.distance_matrix import DistanceMatrix, LayerMatrices
from megasim.words import MergeMethod, WeightLevel

ROLES = ("attn", "mlp", "norm")
BLOCKS = 4
SIZE = 900
Weights = dict[str, Floats]


def keys() -> list[tuple[str, str, str]]:
    """Return key, block and role of each tensor."""
    return [(f"layers.{b}.{r}.weight", f"layer {b}", r) for b in range(BLOCKS) for r in ROLES]


class Family:
    """A base and fine-tunes of it whose changes are far from small, and models made of them."""

    def __init__(self, seed: int, step: float = 0.3) -> None:
        rng = np.random.default_rng(seed)
        base = {key: rng.normal(size=SIZE) for key, _, _ in keys()}
        self.models: dict[str, Weights] = {"base": base}
        for name in "ABCDE":
            sizes = {key: step * rng.uniform(0.5, 1.5) for key in base}
            way = {key: base[key] + rng.normal(0, sizes[key], SIZE) for key in base}
            self.models[name] = way

    def make(self, name: str, mix: Callable[[str, str, str], Floats]) -> None:
        self.models[name] = {key: mix(key, block, role) for key, block, role in keys()}

    def layers(self) -> LayerMatrices:
        rows = keys()
        return LayerMatrices(
            models=tuple(self.models),
            component="all",
            metric="l2",
            keys=tuple(key for key, _, _ in rows),
            blocks=tuple(block for _, block, _ in rows),
            roles=tuple(role for _, _, role in rows),
            numels=np.full(len(rows), SIZE),
            values=np.stack(
                [squareform(pdist([m[key] for m in self.models.values()])) for key, _, _ in rows]
            ),
        )

    def norms(self, names: Sequence[str]) -> Mapping[str, Mapping[str, float]]:
        return {
            n: {key: float(np.linalg.norm(w)) for key, w in self.models[n].items()} for n in names
        }

    def matrix(self) -> tuple[DistanceMatrix, LayerMatrices]:
        layers = self.layers()
        return DistanceMatrix.from_values(layers.models, layers.total(), component="all"), layers

    def recipe(self, model: str, parents: Sequence[str] | None = None) -> Recipe:
        matrix, layers = self.matrix()
        return recover_recipe(matrix, model, layers=layers, layer_norms=self.norms, parents=parents)


def slerp(t: float, a: Floats, b: Floats) -> Floats:
    angle = np.arccos(a @ b / np.linalg.norm(a) / np.linalg.norm(b))
    return np.asarray((np.sin((1 - t) * angle) * a + np.sin(t * angle) * b) / np.sin(angle))


def stock(base: Floats, tuned: Sequence[Floats]) -> Floats:
    changes = [t - base for t in tuned]
    pairs = [(i, j) for i in range(len(tuned)) for j in range(i)]
    cosine = np.mean(
        [
            changes[i] @ changes[j] / np.linalg.norm(changes[i]) / np.linalg.norm(changes[j])
            for i, j in pairs
        ]
    )
    ratio = len(tuned) * cosine / (1 + (len(tuned) - 1) * cosine)
    return np.asarray(ratio * np.mean(tuned, axis=0) + (1 - ratio) * base)


SHARES = {"attn": 0.2, "mlp": 0.7, "norm": 0.5}


@pytest.mark.parametrize("named", [False, True])
def test_weights_that_differ_by_role_are_found(named: bool) -> None:
    family = Family(1)
    a, b = family.models["A"], family.models["B"]
    family.make("m", lambda key, _, role: (1 - SHARES[role]) * a[key] + SHARES[role] * b[key])
    recipe = family.recipe("m", ["A", "B"] if named else None)
    assert (recipe.method, recipe.level) == (MergeMethod.WEIGHTED_SUM, WeightLevel.ROLE)
    assert {p.model for p in recipe.parents} == {"A", "B"}
    at = [p.model for p in recipe.parents].index("B")
    found = {group.block: group.weights[at] for group in recipe.blocks}
    assert found == pytest.approx(SHARES, abs=1e-4)
    assert "weights differ by role" in recipe.sentence()


def test_weights_of_single_tensors_are_claimed_only_where_they_leave_nothing() -> None:
    family = Family(2)
    rng = np.random.default_rng(0)
    a, b = family.models["A"], family.models["B"]
    shares = {key: float(rng.uniform(0, 1)) for key, _, _ in keys()}
    family.make("m", lambda key, _, role: (1 - shares[key]) * a[key] + shares[key] * b[key])
    recipe = family.recipe("m")
    assert (recipe.claimed, recipe.level) == (True, WeightLevel.BLOCK_ROLE)  # a tensor in each
    at = [p.model for p in recipe.parents].index("B")
    truth = {f"{block} {role}": shares[key] for key, block, role in keys()}
    assert {g.block: g.weights[at] for g in recipe.blocks} == pytest.approx(truth, abs=1e-4)
    family.make(
        "trained",
        lambda key, _, role: family.models["m"][key] + rng.normal(0, 0.06, SIZE),
    )
    assert not family.recipe("trained", ["A", "B"]).claimed
    assert not any(family.recipe(name).claimed for name in ("base", *"ABCDE"))


@pytest.mark.parametrize("by_role", [False, True])
def test_slerp_is_told_from_a_weighted_sum(by_role: bool) -> None:
    family = Family(3)
    a, b = family.models["A"], family.models["B"]
    family.make("m", lambda key, _, role: slerp(SHARES[role] if by_role else 0.3, a[key], b[key]))
    recipe = family.recipe("m")
    assert recipe.method == MergeMethod.SLERP
    assert recipe.level == (WeightLevel.ROLE if by_role else WeightLevel.COMPONENT)
    assert recipe.unexplained < 1e-4
    names = [p.model for p in recipe.parents]
    if by_role:
        found = {g.block: g.weights[names.index("B")] for g in recipe.blocks}
        assert found == pytest.approx(SHARES, abs=0.01)
    else:
        assert {p.model: p.weight for p in recipe.parents} == pytest.approx(
            {"A": 0.7, "B": 0.3}, abs=0.01
        )
        assert "slerp of A and B at t = 0.3" in recipe.sentence()


def test_slerp_of_nearly_equal_models_is_a_weighted_sum() -> None:
    family = Family(4, step=0.002)
    a, b = family.models["A"], family.models["B"]
    family.make("m", lambda key, _, role: slerp(0.3, a[key], b[key]))
    recipe = family.recipe("m")
    assert (recipe.method, recipe.level) == (MergeMethod.WEIGHTED_SUM, WeightLevel.COMPONENT)


def test_model_stock_is_named_with_its_base() -> None:
    family = Family(5)
    rng = np.random.default_rng(1)
    # What fine-tunes have in common differs by tensor, and with it how far the stock goes.
    for key, _, _ in keys():
        common = rng.normal(0, rng.uniform(0.1, 0.4), SIZE)
        for name in "ABCDE":
            family.models[name][key] = family.models[name][key] + common
    w = family.models
    family.make("m", lambda key, _, role: stock(w["base"][key], [w[n][key] for n in "ABC"]))
    recipe = family.recipe("m")
    assert (recipe.method, recipe.base) == (MergeMethod.MODEL_STOCK, "base")
    assert {p.model for p in recipe.parents} == {"base", "A", "B", "C"}
    assert recipe.unexplained < 1e-4
    assert "model stock of" in recipe.sentence()


@pytest.mark.parametrize("kind", ["role", "stock"])
def test_what_was_made_by_role_or_as_a_stock_is_no_parent(kind: str) -> None:
    family = Family(6)
    w = family.models

    def mix(key: str, block: str, role: str) -> Floats:
        if kind == "stock":
            return stock(w["base"][key], [w[n][key] for n in "ABC"]) + 0.3 * (
                w["A"][key] + w["B"][key] + w["C"][key] - 3 * w["base"][key]
            )
        return (1 - SHARES[role]) * w["A"][key] + SHARES[role] * w["B"][key]

    family.make("m", mix)
    matrix, layers = family.matrix()
    facts = [
        ModelFacts(n, norms={"all": float(np.linalg.norm(np.concatenate(list(x.values()))))})
        for n, x in w.items()
    ]
    found = build_lineage(matrix, layers=layers, facts=facts, layer_norms=family.norms)
    assert [r.model for r in found.recipes] == ["m"]
    assert not any(e.parent == "m" for e in found.edges)


@pytest.mark.parametrize(("how", "slope"), [("arc", 1.0), ("line", 0.0)])
def test_the_rise_of_an_arc_shows_under_the_rounding_of_bfloat16(how: str, slope: float) -> None:
    """Rounding is larger than the rise here."""
    random = torch.Generator().manual_seed(2)
    squared, norms = [], []
    for _ in range(12):
        base, *steps = torch.randn(3, 40_000, generator=random, dtype=torch.float64)
        a, b = ((base + 0.06 * step).bfloat16().double() for step in steps)
        angle = torch.acos((a @ b) / (a.norm() * b.norm()))
        on_line = 0.63 * a + 0.37 * b
        on_arc = (torch.sin(0.63 * angle) * a + torch.sin(0.37 * angle) * b) / torch.sin(angle)
        m = (on_arc if how == "arc" else on_line).bfloat16().double()
        assert (on_arc - on_line).norm() < (m - on_line).norm()
        squared.append([[float((x - y).square().sum()) for y in (m, a, b)] for x in (m, a, b)])
        norms.append([float(x.norm()) for x in (m, a, b)])
    found, error = arc_slope(np.array(squared), np.array(norms))
    assert found == pytest.approx(slope, abs=0.1)
    assert error < 0.05


@pytest.mark.parametrize("is_line", [True, False])
def test_weights_that_follow_a_line_over_the_layers_are_said_so(is_line: bool) -> None:
    family = Family(8)
    a, b = family.models["A"], family.models["B"]
    shares = np.linspace(0.2, 0.8, BLOCKS) if is_line else np.array([0.2, 0.7, 0.4, 0.8])

    def mix(key: str, block: str, _: str) -> Floats:
        share = shares[int(block.split()[1])]
        return np.asarray((1 - share) * a[key] + share * b[key])

    family.make("m", mix)
    recipe = family.recipe("m")
    said = (
        "weights differ by layer along a line: of B from 0.2 in the first layer to 0.8 in the last"
    )
    assert (said in recipe.sentence()) == is_line
    if is_line:
        model, *ends = recipe.gradient() or ("", 0.0, 0.0)
        assert model == "B" and ends == pytest.approx([0.2, 0.8], abs=1e-3)
    else:
        assert recipe.gradient() is None and "weights differ by block" in recipe.sentence()
