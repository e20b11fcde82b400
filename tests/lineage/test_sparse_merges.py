"""Merges that sparsify, told from exact elements of files: made here as the papers define them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from safetensors.numpy import save_file

from megasim.errors import printable
from megasim.lineage.recipe_result import Recipe
from megasim.words import MergeMethod
from megasim.workspace import Workspace, open_store

Floats = npt.NDArray[np.float64]
Weights = dict[str, Floats]

SHAPES = {"layers.0.mlp.up_proj.weight": (160, 96), "layers.1.mlp.up_proj.weight": (160, 96)}
PARENTS = ("base", "A", "B", "C")


def kept(change: Floats, chosen: npt.NDArray[np.bool_]) -> Floats:
    """Return a change without what was not chosen, its L1 as it was, as mergekit rescales."""
    return np.asarray(change * chosen * np.abs(change).sum() / np.abs(change * chosen).sum())


def ranks(change: Floats) -> Floats:
    flat = np.abs(change).ravel()
    rank = np.empty(flat.size)
    rank[np.argsort(flat)] = (np.arange(flat.size) + 0.5) / flat.size
    return rank.reshape(change.shape)


def largest(change: Floats, density: float, gamma: float = 0.0) -> Floats:
    rank = ranks(change)
    return np.asarray(change * ((rank > 1 - density - gamma) & (rank < 1 - gamma)))


def elected(changes: list[Floats], weights: list[float], *, normalise: bool) -> Floats:
    """Return the weighted sum of the changes that have the sign of the sum of all."""
    stacked = np.stack(changes) * np.array(weights)[:, None, None]
    agree = (np.sign(stacked) == np.sign(stacked.sum(axis=0))) & (stacked != 0)
    total = (stacked * agree).sum(axis=0)
    if normalise:
        total = total / np.maximum((agree * np.array(weights)[:, None, None]).sum(axis=0), 1e-9)
    return np.asarray(total)


def merges(models: Mapping[str, Weights], rng: np.random.Generator) -> dict[str, Weights]:
    """Return a merge of each method."""

    def make(mix: Callable[[Floats, Floats, Floats], Floats]) -> Weights:
        return {
            key: base + mix(*(models[n][key] - base for n in "ABC"))
            for key, base in models["base"].items()
        }

    def drawn(change: Floats, density: float, epsilon: float = 0.0) -> npt.NDArray[np.bool_]:
        chance = density + epsilon * (2 * ranks(change) - 1)
        return np.asarray(rng.random(change.shape) < chance)

    def rows(a: Floats, b: Floats, _: Floats) -> Floats:
        return np.concatenate([a[:70], b[70:]])

    def dare(density: float, epsilon: float = 0.0) -> Callable[[Floats, Floats, Floats], Floats]:
        return lambda a, b, _: (
            0.6 * kept(a, drawn(a, density, epsilon)) + 0.3 * kept(b, drawn(b, density, epsilon))
        )

    return {
        "ties": make(
            lambda a, b, _: elected([largest(a, 0.4), largest(b, 0.4)], [0.7, 0.3], normalise=True)
        ),
        "trimmed": make(lambda a, b, _: 0.7 * largest(a, 0.4) + 0.5 * largest(b, 0.4)),
        "dare": make(dare(0.3)),
        "della": make(dare(0.5, 0.25)),
        "dare-ties": make(
            lambda a, b, _: elected(
                [kept(a, drawn(a, 0.5)), kept(b, drawn(b, 0.5))], [0.6, 0.4], normalise=False
            )
        ),
        "breadcrumbs": make(
            lambda a, b, _: 0.5 * largest(a, 0.5, 0.05) + 0.4 * largest(b, 0.5, 0.05)
        ),
        "rows": make(rows),
        "crossed": make(lambda a, b, _: np.where(rng.random(a.shape) < 0.35, a, b)),
        "one": make(lambda a, b, c: 0.8 * kept(c, drawn(c, 0.25))),
    }


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Workspace]:
    """A store for each merge, with a base and three fine-tunes beside; and one with all."""
    folder = tmp_path_factory.mktemp("sparse")
    rng = np.random.default_rng(1)
    base = {key: rng.normal(0, 0.05, shape) for key, shape in SHAPES.items()}
    models: dict[str, Weights] = {"base": base}
    for name in "ABC":
        models[name] = {key: w + rng.normal(0, 0.004, w.shape) for key, w in base.items()}
    models = {
        n: {k: w.astype(np.float16).astype(np.float64) for k, w in m.items()}
        for n, m in models.items()
    }
    made = merges(models, rng)
    made["trained"] = {k: w + rng.normal(0, 0.003, w.shape) for k, w in models["A"].items()}
    made["sparsely-trained"] = {
        k: w + rng.normal(0, 0.004, w.shape) * (rng.random(w.shape) < 0.3) for k, w in base.items()
    }
    for name, weights in {**models, **made}.items():
        save_file(
            {key: w.astype(np.float16) for key, w in weights.items()},
            folder / f"{name}.safetensors",
        )
    opened = {}
    for name in (*made, "all"):
        store = open_store(folder / f"{printable(name)}.duckdb")
        some = [*PARENTS, *(made if name == "all" else [name])]
        store.ingest(*(folder / f"{n}.safetensors" for n in some))
        store.compare()
        opened[name] = store
    return opened


def weights_of(recipe: Recipe) -> dict[str, float]:
    return {p.model: p.weight for p in recipe.parents if not math.isnan(p.weight)}


@pytest.mark.parametrize("beside", ["alone", "all"])
@pytest.mark.parametrize(
    ("name", "method", "weights", "numbers"),
    [
        ("ties", MergeMethod.TIES, {"A": 0.7, "B": 0.3}, {"density of A": 0.4}),
        ("trimmed", MergeMethod.TRIMMED, {"A": 0.7, "B": 0.5}, {"density of B": 0.4}),
        ("dare", MergeMethod.DARE, {"A": 0.6, "B": 0.3}, {"density of A": 0.3}),
        ("della", MergeMethod.DELLA, {"A": 0.6, "B": 0.3}, {"density of A": 0.5, "epsilon": 0.25}),
        ("dare-ties", MergeMethod.DARE_TIES, {"A": 0.6, "B": 0.4}, {"density of B": 0.5}),
        (
            "breadcrumbs",
            MergeMethod.BREADCRUMBS,
            {"A": 0.5, "B": 0.4},
            {"density of A": 0.5, "gamma": 0.05},
        ),
        ("rows", MergeMethod.WHOLE_ELEMENTS, {"A": 70 / 160, "B": 90 / 160}, {}),
        ("crossed", MergeMethod.WHOLE_ELEMENTS, {"A": 0.35, "B": 0.65}, {}),
        ("one", MergeMethod.DARE, {"C": 0.8}, {"density of C": 0.25}),
    ],
)
def test_the_method_its_parents_and_its_parameters_are_found(
    stores: Mapping[str, Workspace],
    name: str,
    method: MergeMethod,
    weights: dict[str, float],
    numbers: dict[str, float],
    beside: str,
) -> None:
    recipe = stores[name if beside == "alone" else "all"].recipe(name)
    assert recipe.method == method
    assert weights_of(recipe) == pytest.approx(weights, abs=0.02)
    found = dict(recipe.numbers)
    assert {n: found[n] for n in numbers} == pytest.approx(numbers, abs=0.02)
    assert recipe.base == ("" if method == MergeMethod.WHOLE_ELEMENTS else "base")
    assert recipe.unexplained < 0.01
    assert str(method) in recipe.sentence()


@pytest.mark.parametrize("name", ["trained", "sparsely-trained"])
def test_a_training_is_no_merge_however_few_elements_it_moves(
    stores: Mapping[str, Workspace], name: str
) -> None:
    assert not stores[name].recipe(name).claimed
    assert not any(stores["all"].recipe(n).claimed for n in (name, *PARENTS))


@pytest.mark.parametrize("name", ["ties", "dare", "dare-ties", "della", "breadcrumbs", "crossed"])
def test_a_sparsified_merge_is_no_parent_of_what_it_was_made_from(
    stores: Mapping[str, Workspace], name: str
) -> None:
    lineage = stores[name].lineage()
    assert [r.model for r in lineage.recipes] == [name]
    assert not any(edge.parent == name for edge in lineage.edges)
    assert {e.parent for e in lineage.edges if e.child == name} >= {"A", "B"}


def test_files_that_are_gone_are_told(stores: Mapping[str, Workspace], tmp_path: Path) -> None:
    store = open_store(tmp_path / "s.duckdb")
    folder = Path(str(stores["ties"].store.models()[0].path)).parent
    copies = []
    for name in (*PARENTS, "ties"):
        copy = tmp_path / f"{name}.safetensors"
        copy.write_bytes((folder / copy.name).read_bytes())
        copies.append(copy)
    store.ingest(*copies)
    store.compare()
    copies[-1].unlink()
    recipe = store.recipe("ties")
    assert not recipe.claimed
    assert any("were not sought" in note and "gone" in note for note in recipe.notes)
    assert any("were not sought" in note for note in store.lineage().notes)
