"""Layers of a model found under other numbers in another, by the order of their hidden units."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from megasim.estimate.layer_origins import layer_origins
from tests.estimate.matrices import matrix, profiles

LAYERS, WIDTH, UNITS = 6, 32, 64
State = dict[str, np.ndarray]


def network(seed: int, layers: int = LAYERS, names: str = "model.layers") -> State:
    state: State = {}
    for layer in range(layers):
        at = 1000 * seed + 10 * layer
        state[f"{names}.{layer}.mlp.up_proj.weight"] = matrix(at, UNITS, WIDTH)
        state[f"{names}.{layer}.mlp.down_proj.weight"] = matrix(at + 1, WIDTH, UNITS)
        state[f"{names}.{layer}.self_attn.q_proj.weight"] = matrix(at + 2, WIDTH, WIDTH)
    return state


def stacked(state: State, order: Sequence[int], names: str = "model.layers") -> State:
    found = {}
    for new, old in enumerate(order):
        start = f"model.layers.{old}."
        layer = {k.removeprefix(start): v for k, v in state.items() if k.startswith(start)}
        found |= {f"{names}.{new}.{key}": value for key, value in layer.items()}
    return found


def trained(state: State, seed: int) -> State:
    return {
        key: value
        + 0.3 * value.std() * np.random.default_rng((seed, at)).standard_normal(value.shape)
        for at, (key, value) in enumerate(state.items())
    }


@pytest.mark.parametrize("is_trained", [False, True])
@pytest.mark.parametrize("names", ["model.layers", "transformer.blocks"])
def test_each_layer_of_a_stack_is_found(is_trained: bool, names: str) -> None:
    base = network(1)
    stack = stacked(base, [0, 1, 2, 1, 2, 3, 4, 5], names)
    found = layer_origins(
        profiles(trained(stack, 3) if is_trained else stack), profiles(base), "base"
    )
    assert found is not None and found.moved
    assert [run.sentence() for run in found.runs] == [
        "layers 0–2 are layers 0–2 of base",
        "layers 3–7 are layers 1–5 of base",
    ]
    assert found.equal != is_trained and found.layers == found.found == 8
    assert 0.5 < found.correlation < 0.999 if is_trained else found.correlation > 0.999


def test_layers_without_an_origin_are_counted() -> None:
    base, other = network(1), network(2)
    mixed = stacked(base, [2, 3, 4]) | {
        key.replace("layers.5", "layers.3"): value
        for key, value in other.items()
        if "layers.5" in key
    }
    found = layer_origins(profiles(trained(mixed, 5)), profiles(base), "base")
    assert found is not None
    assert [run.sentence() for run in found.runs] == ["layers 0–2 are layers 2–4 of base"]
    assert (found.layers, found.found) == (4, 3)


def test_a_fine_tune_holds_its_layers_where_they_were() -> None:
    base = network(1)
    found = layer_origins(profiles(trained(base, 2)), profiles(base), "base")
    assert found is not None and not found.moved


def test_unrelated_models_have_no_layer_in_common() -> None:
    base = profiles(network(1))
    assert all(
        layer_origins(profiles(network(seed)), base, "base") is None for seed in range(2, 40)
    )


def test_models_without_hidden_units_are_not_tested() -> None:
    bare = {"layers.0.norm_table": matrix(1, 20, 20)}
    assert layer_origins(profiles(bare), profiles(bare), "bare") is None
