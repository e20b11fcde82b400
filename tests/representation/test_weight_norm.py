"""Weights of weight_norm are those that the layer multiplies by; experts are found one by one."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import megasim
from megasim.findings.relations import model_relations
from megasim.representation.opening import open_model
from tests.models import write_model
from tests.representation.logical_models import check_ranges, problem_of, read_values


def layers() -> nn.Sequential:
    torch.manual_seed(11)
    return nn.Sequential(nn.Linear(40, 24), nn.Conv1d(6, 8, 5), nn.ConvTranspose1d(8, 6, 4))


def old_norm(network: nn.Sequential) -> nn.Sequential:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for layer in network:
            nn.utils.weight_norm(layer)
    return network


def new_norm(network: nn.Sequential) -> nn.Sequential:
    for layer in network:
        nn.utils.parametrizations.weight_norm(layer)
    return network


@pytest.mark.parametrize("norm", [old_norm, new_norm])
def test_values_are_the_weights_of_the_layer(norm: object, tmp_path: Path) -> None:
    network = norm(layers())  # type: ignore[operator]
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(1 + 0.3 * torch.rand(parameter.shape))
    expected = {f"{i}.weight": layer.weight.detach().numpy() for i, layer in enumerate(network)}
    if norm is old_norm:  # it is computed anew before each use
        expected = {
            f"{i}.weight": torch._weight_norm(layer.weight_v, layer.weight_g, 0).detach().numpy()
            for i, layer in enumerate(network)
        }
    path = write_model(tmp_path / "m.safetensors", network.state_dict())
    found = read_values(path)
    assert found.keys() == {f"{i}.{name}" for i in range(3) for name in ("weight", "bias")}
    for key, values in expected.items():
        np.testing.assert_allclose(found[key], values, rtol=1e-6, atol=1e-9)
        check_ranges(open_model(path).tensors[key])


def test_the_folded_model_is_the_same(tmp_path: Path) -> None:
    network = new_norm(layers())
    normed = write_model(tmp_path / "normed.safetensors", network.state_dict())
    for layer in network:
        nn.utils.parametrize.remove_parametrizations(layer, "weight")
    folded = write_model(tmp_path / "folded.safetensors", network.state_dict())
    with megasim.open_store(tmp_path / "s.duckdb") as store:
        store.ingest(normed, folded)
        store.compare()
        rows = store.sql("select status, l2 from layer_distances where key_a like '%weight'")
        assert (rows["l2"] < 1e-5).all()
        told = store.sql("select distinct representation from layers where model = 'normed'")
        assert set(told["representation"]) == {"plain", "weight_norm"}
        relations = model_relations(store.store, [("normed", "folded")])
        assert not any("quantised" in relation.kind for relation in relations)


def test_what_is_normed_over_columns_is_not_decoded(tmp_path: Path) -> None:
    tensors = {"a.weight_g": torch.ones(1, 40), "a.weight_v": torch.ones(24, 40)}
    assert "over another dimension" in problem_of(tmp_path, tensors, "a.weight")


def test_names_alone_make_no_norm(tmp_path: Path) -> None:
    tensors = {"attn.k_g": torch.ones(8, 1), "attn.k_v": torch.ones(8, 8)}
    tensors |= {"a.weight_g": torch.ones(3), "a.weight_v": torch.ones(8, 8)}
    assert open_model(write_model(tmp_path / "m.safetensors", tensors)).tensors.keys() == set(
        tensors
    )


def test_experts_in_one_tensor_are_those_of_their_own(tmp_path: Path) -> None:
    """As transformers 5 stacks them: gates above what they gate."""
    torch.manual_seed(3)
    width, inner, count = 16, 24, 3
    split, gates, down = {}, [], []
    prefix = "model.layers.0.mlp.experts"
    for e in range(count):
        gate, up = torch.randn(inner, width), torch.randn(inner, width)
        back = torch.randn(width, inner)
        split |= {f"{prefix}.{e}.gate_proj.weight": gate, f"{prefix}.{e}.up_proj.weight": up}
        split[f"{prefix}.{e}.down_proj.weight"] = back
        gates.append(torch.cat([gate, up]))
        down.append(back)
    router = {"model.layers.0.mlp.gate.weight": torch.randn(count, width)}
    fused = {f"{prefix}.gate_up_proj": torch.stack(gates), f"{prefix}.down_proj": torch.stack(down)}
    a = write_model(tmp_path / "fused.safetensors", {**router, **fused})
    b = write_model(tmp_path / "split.safetensors", {**router, **split})
    found = read_values(a)
    assert found.keys() == {**router, **split}.keys()
    for key, values in split.items():
        assert np.array_equal(found[key], values.numpy()), key
    with megasim.open_store(tmp_path / "s.duckdb") as store:
        store.ingest(a, b)
        store.compare()
        (relation,) = model_relations(store.store, [("fused", "split")])
        assert relation.kind == "same_weights"


def test_experts_of_inputs_by_outputs_stay_together(tmp_path: Path) -> None:
    tensors = {
        "0.experts.gate_up_proj": torch.ones(2, 16, 48),
        "0.experts.down_proj": torch.ones(2, 24, 16),
    }
    assert open_model(write_model(tmp_path / "m.safetensors", tensors)).tensors.keys() == set(
        tensors
    )
