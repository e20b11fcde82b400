"""Add-differences and negative task vectors: which of four models is made of the other three."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial.distance import pdist, squareform

from megasim.lineage.evidence import ModelFacts
from megasim.lineage.family_tree import build_lineage
from megasim.lineage.inner_products import Floats
from megasim.lineage.recipe import recover_recipe
from megasim.lineage.recipe_result import Recipe
from megasim.lineage.rounding import rounding_l2
from megasim.matrix.distance_matrix import DistanceMatrix
from megasim.words import RecipeVerdict

SIZE = 6000
TRAINED = ("A", "B", "C", "D", "E")


def trained(seed: int, alike: float) -> dict[str, Floats]:
    """Return a base and five fine-tunes, whose changes have a cosine of `alike` in common."""
    rng = np.random.default_rng(seed)
    base, way = rng.normal(size=SIZE), rng.normal(size=SIZE)
    w = {"base": base}
    for name in TRAINED:
        own = rng.normal(size=SIZE)
        change = alike**0.5 * way + (1 - alike) ** 0.5 * own
        w[name] = base + float(rng.uniform(0.03, 0.08)) * change
    return w


class Store:
    def __init__(self, weights: dict[str, Floats]) -> None:
        self.names = tuple(weights)
        self.matrix = DistanceMatrix.from_values(
            self.names, squareform(pdist(np.stack(list(weights.values()))))
        )
        self.norms = {n: float(np.linalg.norm(w)) for n, w in weights.items()}
        self.rounding = {n: rounding_l2(x, "float16") for n, x in self.norms.items()}

    def recipe(self, model: str) -> Recipe:
        return recover_recipe(self.matrix, model, rounding=self.rounding, norms=self.norms)

    def merges(self) -> set[str]:
        facts = [ModelFacts(n, norms={"unet": x}, dtype="float16") for n, x in self.norms.items()]
        return {r.model for r in build_lineage(self.matrix, facts=facts).recipes}


def store_of(merges: dict[str, dict[str, float]], seed: int = 0, alike: float = 0.0) -> Store:
    w = trained(seed, alike)
    for name, parts in merges.items():
        w[name] = np.asarray(sum(share * w[p] for p, share in parts.items()))
    return Store({n: x.astype(np.float16).astype(np.float64) for n, x in w.items()})


def weights_of(recipe: Recipe) -> dict[str, float]:
    return {p.model: p.weight for p in recipe.parents}


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("alike", [0.0, 0.3])
@pytest.mark.parametrize("share", [-0.5, -0.3, 0.5, 1.0])
def test_the_model_that_was_made_is_told_of_the_four(seed: int, alike: float, share: float) -> None:
    made = {"A": 1.0, "B": share, "base": -share}
    store = store_of({"made": made}, seed, alike)
    recipe = store.recipe("made")
    assert weights_of(recipe) == pytest.approx(made, abs=0.01)
    assert recipe.likeliest
    assert store.merges() == {"made"}
    for name in ("base", *TRAINED):
        other = store.recipe(name)
        assert not other.claimed or (alike and other.verdict == RecipeVerdict.AMBIGUOUS)
        assert not (other.claimed and other.likeliest)


@pytest.mark.parametrize("seed", range(4))
def test_nothing_is_written_by_way_of_a_full_add_difference(seed: int) -> None:
    merges = {
        "full": {"A": 1.0, "B": 1.0, "base": -1.0},
        "half": {"A": 1.0, "B": 0.5, "base": -0.5},
        "average": {"A": 1 / 3, "B": 1 / 3, "C": 1 / 3},
        "average of four": {"A": 0.25, "B": 0.25, "C": 0.25, "D": 0.25},
        "two": {"C": 0.3, "D": 0.7},
    }
    store = store_of(merges, seed)
    assert store.merges() == set(merges)
    for name, parts in merges.items():
        assert weights_of(store.recipe(name)) == pytest.approx(parts, abs=0.01)
    assert not any(store.recipe(name).claimed for name in ("base", *TRAINED))
