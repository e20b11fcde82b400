"""Stacks: every layer of a model is a layer of another, told with no file read."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from megasim.lineage.stacks import find_stack, find_stacks
from megasim.words import MergeMethod
from megasim.workspace import Workspace, open_store
from tests.models import write_model

LAYERS = 6
SHAPES = {
    "self_attn.q_proj": (32, 32),
    "self_attn.o_proj": (32, 32),
    "mlp.up_proj": (64, 32),
    "mlp.down_proj": (32, 64),
}
State = dict[str, torch.Tensor]


def network(seed: int, start: State | None = None) -> State:
    """Return a network of its own, or trained from another one."""
    random = torch.Generator().manual_seed(seed)
    state: State = {"model.embed_tokens.weight": torch.randn(50, 32, generator=random)}
    for i in range(LAYERS):
        for name, shape in SHAPES.items():
            state[f"model.layers.{i}.{name}.weight"] = torch.randn(shape, generator=random)
        state[f"model.layers.{i}.input_layernorm.weight"] = torch.ones(32)
    if start is not None:
        state = {k: start[k] + 0.1 * v * (v != 1).all() for k, v in state.items()}
    return {k: v.half() for k, v in state.items()}


def stack(*slices: tuple[State, int, int]) -> State:
    """Return layers of networks one above the other, `stop` not included."""
    result: State = {"model.embed_tokens.weight": slices[0][0]["model.embed_tokens.weight"]}
    taken = [(state, i) for state, start, stop in slices for i in range(start, stop)]
    for place, (state, i) in enumerate(taken):
        for key, value in state.items():
            if key.startswith(f"model.layers.{i}."):
                result[key.replace(f".{i}.", f".{place}.", 1)] = value
    return result


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    folder = tmp_path_factory.mktemp("stacks")
    a = network(1)
    b, c = network(2, a), network(3, a)
    rng = np.random.default_rng(0)
    frozen = {k: v if ".0." in k or ".1." in k else c[k] for k, v in a.items()}
    models = {
        "a": a,
        "b": b,
        "c": c,
        "frozen": frozen,
        "two": stack((a, 0, 4), (b, 2, 6)),
        "self": stack((a, 0, 5), (a, 2, 6)),
        "three": stack((b, 0, 2), (c, 1, 3), (a, 4, 6)),
        "short": stack((a, 0, 2), (a, 4, 6)),
        "trained": {
            k: v + torch.from_numpy(0.05 * rng.normal(size=v.shape)).half()
            for k, v in stack((a, 0, 4), (b, 2, 6)).items()
        },
    }
    workspace = open_store(folder / "s.duckdb")
    for name, state in models.items():
        workspace.ingest(write_model(folder / f"{name}.safetensors", state))
    workspace.compare()
    return workspace


@pytest.mark.parametrize(
    ("name", "runs"),
    [
        ("two", ["layers 0–3 of a", "layers 2–5 of b"]),
        ("self", ["layers 0–4 of a", "layers 2–5 of a"]),
        ("three", ["layers 0–1 of b", "layers 1–2 of c", "layers 4–5 of a"]),
        ("short", ["layers 0–1 of a", "layers 4–5 of a"]),
    ],
)
def test_the_origin_of_every_layer_is_named(
    store: Workspace, name: str, runs: Sequence[str]
) -> None:
    found = find_stack(store.store, name)
    assert found is not None
    assert [run.origin() for run in found.runs] == runs
    recipe = store.recipe(name)
    assert recipe.method == MergeMethod.STACK
    assert {p.model for p in recipe.parents} == {run.rsplit(" ", 1)[1] for run in runs}
    assert sum(p.weight for p in recipe.parents) == pytest.approx(1)
    assert all(run in recipe.sentence() for run in runs)
    assert recipe.to_json()["pieces"] == list(recipe.pieces)


@pytest.mark.parametrize("name", ["a", "b", "c", "frozen", "trained"])
def test_what_is_not_made_of_layers_of_others_is_no_stack(store: Workspace, name: str) -> None:
    assert find_stack(store.store, name) is None


def test_what_a_stack_repeats_is_no_stack_of_it(tmp_path: Path) -> None:
    a = network(1)
    twice = stack((a, 0, 4), (a, 2, 6))
    with open_store(tmp_path / "s.duckdb") as workspace:
        for name, state in (("a", a), ("twice", twice)):
            workspace.ingest(write_model(tmp_path / f"{name}.safetensors", state))
        assert find_stack(workspace.store, "a") is None
        found = find_stack(workspace.store, "twice")
    assert found is not None
    assert found.sentence() == ("layers 0–3 are layers 0–3 of a and layers 4–7 are layers 2–5 of a")


def test_a_stack_may_be_shorter_than_what_it_was_made_of(tmp_path: Path) -> None:
    a, b = network(1), network(2)
    with open_store(tmp_path / "s.duckdb") as workspace:
        for name, state in (("a", a), ("b", b), ("cut", stack((a, 3, 5), (b, 0, 2)))):
            workspace.ingest(write_model(tmp_path / f"{name}.safetensors", state))
        found = find_stack(workspace.store, "cut")
        assert found is not None
        assert [run.origin() for run in found.runs] == ["layers 3–4 of a", "layers 0–1 of b"]
        assert find_stack(workspace.store, "a") is find_stack(workspace.store, "b") is None


def test_many_stacks_beside_each_other_are_told_from_what_they_were_made_of(
    tmp_path: Path,
) -> None:
    """All layers of each parent stand in stacks too; what was cut is told by how often."""
    parents = {name: network(seed) for seed, name in enumerate("abc")}
    made = {
        "two": [("a", 0, 4), ("b", 2, 6)],
        "again": [("a", 0, 4), ("b", 2, 6), ("c", 1, 3)],
        "wholes": [("b", 0, 6), ("c", 0, 6)],
        "twice": [("a", 1, 6), ("a", 0, 6)],
        "ends": [("c", 3, 6), ("a", 4, 6)],
        "cut": [("b", 3, 5)],
    }
    with open_store(tmp_path / "s.duckdb") as workspace:
        for name, state in parents.items():
            workspace.ingest(write_model(tmp_path / f"{name}.safetensors", state))
        for name, slices in made.items():
            state = stack(*((parents[p], start, stop) for p, start, stop in slices))
            workspace.ingest(write_model(tmp_path / f"{name}.safetensors", state))
        found = find_stacks(workspace.store)
    told = {
        name: [(run.model, run.start, run.start + run.count) for run in of.runs]
        for name, of in found.items()
    }
    assert told == made
