"""The state dicts of a file are told from what it holds, whatever its makers called them."""

from __future__ import annotations

import collections
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_model
from torch import nn

from megasim.checkpoint.opening import Checkpoint, TensorReader, open_checkpoint
from megasim.words import PartRole

many_times = settings(
    max_examples=50,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    deadline=None,
)


def network(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Linear(4, 2))


def other_network(seed: int = 9) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(5, 3), nn.ReLU(), nn.Linear(3, 1))


A, E, T = (network(seed).state_dict() for seed in range(3))
D = other_network().state_dict()
OPTIMIZER = torch.optim.Adam(network().parameters())
for parameter in OPTIMIZER.param_groups[0]["params"]:
    parameter.grad = torch.ones_like(parameter)
OPTIMIZER.step()


def opened(content: Any, folder: Path) -> Checkpoint:
    torch.save(content, folder / "m.pt")
    return open_checkpoint(folder / "m.pt")


def roles(checkpoint: Checkpoint) -> dict[str, str]:
    return {part.place: str(part.role) for part in checkpoint.parts}


def same(part: Checkpoint, expected: dict[str, torch.Tensor]) -> bool:
    """Whether a part holds exactly some tensors, bit for bit."""
    if set(part.tensors) != set(expected):
        return False
    with TensorReader() as reader:
        return all(
            np.array_equal(reader.read(ref), expected[key].detach().flatten().numpy())
            for key, ref in part.tensors.items()
        )


CASES: dict[str, tuple[Any, dict[str, str]]] = {
    "model and ema": ({"model": A, "ema": E}, {"": "weights", "ema": "ema"}),
    "state_dict_ema": (
        {"state_dict": A, "state_dict_ema": E},
        {"": "weights", "state_dict_ema": "ema"},
    ),
    "ema_state_dict": (
        {"state_dict": A, "ema_state_dict": E, "epoch": 3},
        {"": "weights", "ema_state_dict": "ema"},
    ),
    "params_ema": ({"params": A, "params_ema": E}, {"": "weights", "params_ema": "ema"}),
    "ema first": ({"ema": E, "model": A}, {"": "weights", "ema": "ema"}),
    "ema alone": ({"params_ema": E, "iter": 3}, {"": "ema"}),
    "a callback": (
        {"state_dict": A, "callbacks": {"EMA{}": {"decay": 0.9, "ema_weights": E}, "X": {"n": 1}}},
        {"": "weights", "callbacks.EMA{}.ema_weights": "ema"},
    ),
    "teacher": ({"model": A, "teacher": T}, {"": "weights", "teacher": "teacher"}),
    "student": ({"student": A, "teacher": T}, {"": "weights", "teacher": "teacher"}),
    "adversaries": (
        {"generator": A, "discriminator": D},
        {"": "weights", "discriminator": "discriminator"},
    ),
    "G and D": (
        {"G": A, "D": D, "G_ema": E},
        {"": "weights", "D": "discriminator", "G_ema": "ema"},
    ),
    "deep": (
        {"checkpoint": {"model": {"state_dict": A}, "model_ema": {"module": E}}},
        {"": "weights", "checkpoint.model_ema.module": "ema"},
    ),
    "twins of any name": ({"x": A, "y": E}, {"": "weights", "y": "weights"}),
    "modules": (
        {"epoch": 1, "model": network(0), "ema": network(1)},
        {"": "weights", "ema": "ema"},
    ),
    "gen and dis": ({"gen": A, "dis": D}, {"": "weights", "dis": "discriminator"}),
    "another network": ({"model": A, "loss": D}, {"": "weights", "loss": "other"}),
}


def test_an_average_that_was_saved_as_the_model(tmp_path: Path) -> None:
    """As Lightning's WeightAveraging does: the raw weights stand under another name."""
    content = {
        "state_dict": E,
        "optimizer_states": [OPTIMIZER.state_dict()],
        "current_model_state": A,
        "averaging_state": {"n_averaged": torch.tensor(7)},
    }
    checkpoint = opened(content, tmp_path)
    assert roles(checkpoint) == {"": "weights", "state_dict": "ema"}
    raw, average = checkpoint.parts
    assert same(raw, A)
    assert same(average, E)
    assert {part.place for part in checkpoint.beside} >= {"averaging_state"}


@pytest.mark.parametrize("case", CASES)
def test_parts_and_their_roles(case: str, tmp_path: Path) -> None:
    content, expected = CASES[case]
    checkpoint = opened(content, tmp_path)
    assert roles(checkpoint) == expected
    held = {str(part.role): part for part in checkpoint.parts}
    if "alone" not in case:
        assert same(checkpoint, A)
    if "ema" in held:
        assert same(held["ema"], E)
    assert not checkpoint.beside


def test_pieces_of_one_network_stay_one(tmp_path: Path) -> None:
    content = {"encoder": A, "decoder": D, "optimizer": OPTIMIZER.state_dict()}
    checkpoint = opened(content, tmp_path)
    assert roles(checkpoint) == {"": "weights"}
    assert set(checkpoint.tensors) == {f"encoder.{k}" for k in A} | {f"decoder.{k}" for k in D}
    nested = opened(
        {f"layer{i}": {"w": A["0.weight"], "b": A["0.bias"]} for i in range(3)}, tmp_path
    )
    assert roles(nested) == {"": "weights"}
    assert len(nested.tensors) == 6


def test_what_an_optimizer_holds_is_beside(tmp_path: Path) -> None:
    content = {"model": A, "opt_g": OPTIMIZER.state_dict(), "rng_state": torch.get_rng_state()}
    checkpoint = opened(content, tmp_path)
    assert same(checkpoint, A)
    moments = 3 * len(OPTIMIZER.param_groups[0]["params"])
    assert {b.place: (b.role, len(b.tensors)) for b in checkpoint.beside} == {
        "opt_g": (PartRole.OPTIMIZER, moments),
        "rng_state": (PartRole.OTHER, 1),
    }


def test_arrays_of_a_configuration_are_beside(tmp_path: Path) -> None:
    checkpoint = opened({"model": A, "config": {"shift": np.ones(3), "cutoff": 5.0}}, tmp_path)
    assert roles(checkpoint) == {"": "weights"}
    assert [(b.place, b.role) for b in checkpoint.beside] == [("config", PartRole.OTHER)]


def test_a_list_of_a_state_dict_and_its_optimizer(tmp_path: Path) -> None:
    """As fastai saved them."""
    checkpoint = opened([A, OPTIMIZER.state_dict(), 3], tmp_path)
    assert same(checkpoint, A)
    assert [(b.place, b.role) for b in checkpoint.beside] == [("1", PartRole.OPTIMIZER)]


def test_a_list_of_averages_gets_the_keys_of_the_parameters(tmp_path: Path) -> None:
    """As torch_ema keeps them: without the buffers, in the order of the model."""
    shadow = [parameter.detach() for parameter in network(1).parameters()]
    content = {"model": A, "ema": {"decay": 0.9, "num_updates": 7, "shadow_params": shadow}}
    checkpoint = opened(content, tmp_path)
    assert roles(checkpoint) == {"": "weights", "ema.shadow_params": "ema"}
    _, ema = checkpoint.parts
    assert same(ema, {k: v for k, v in E.items() if "running" not in k and "tracked" not in k})


def test_factors_of_low_rank_are_an_adapter(tmp_path: Path) -> None:
    adapter = {f"h.{i}.lora_{x}.weight": torch.randn(4, 2) for i in range(3) for x in "AB"}
    checkpoint = opened({"model": A, "extra": adapter}, tmp_path)
    assert roles(checkpoint) == {"": "weights", "extra": "adapter"}
    assert opened(adapter, tmp_path).role is PartRole.ADAPTER


NAMES = ["model", "state_dict", "net", "ema", "teacher", "student", "G", "x", "best", "a.b"]


@many_times
@given(data=st.data())
def test_no_tensor_of_any_nesting_is_lost(data: st.DataObject, tmp_path: Path) -> None:
    """Every state dict is in some part bit for bit, but for a prefix; nothing is in none."""
    pool = [network(i).state_dict() for i in range(3)] + [D]

    def tree(depth: int) -> st.SearchStrategy[Any]:
        leaf = st.sampled_from(range(len(pool)))
        if depth == 0:
            return leaf
        return leaf | st.dictionaries(
            st.sampled_from(NAMES), tree(depth - 1), min_size=1, max_size=3
        )

    drawn = data.draw(tree(3))
    used: list[int] = []

    def filled(node: Any) -> Any:
        if isinstance(node, dict):
            return {key: filled(value) for key, value in node.items()}
        used.append(node)
        return collections.OrderedDict((k, v.clone()) for k, v in pool[node].items())

    checkpoint = opened(filled(drawn), tmp_path)
    assert not checkpoint.beside
    parts = list(checkpoint.parts)
    assert sum(len(part.tensors) for part in parts) == sum(len(pool[i]) for i in used)
    assert len({part.place for part in parts}) == len(parts)
    for index in used:
        key = "0.weight"
        with TensorReader() as reader:
            values = [
                reader.read(ref).tobytes()
                for part in parts
                for name, ref in part.tensors.items()
                if name.endswith(key)
            ]
        assert pool[index][key].numpy().tobytes() in values


# Tied weights


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(5, 3)
        self.head = nn.Linear(3, 5, bias=False)
        self.head.weight = self.embed.weight


def test_tied_keys_are_told_and_all_there(tmp_path: Path) -> None:
    model = Tied()
    torch.save(model.state_dict(), tmp_path / "m.pt")
    save_model(model, str(tmp_path / "m.safetensors"))
    for name in ("m.pt", "m.safetensors"):
        checkpoint = open_checkpoint(tmp_path / name)
        assert same(checkpoint, model.state_dict())
        ((alias, kept),) = checkpoint.tied.items()
        assert {alias, kept} == {"embed.weight", "head.weight"}
    model.head.weight = nn.Parameter(model.head.weight.detach().clone())
    save_model(model, str(tmp_path / "untied.safetensors"))
    assert not open_checkpoint(tmp_path / "untied.safetensors").tied


def test_a_frozen_script_has_its_weights_among_the_constants(tmp_path: Path) -> None:
    model = other_network().eval()
    traced = torch.jit.trace(model, torch.ones(1, 5))
    torch.jit.save(torch.jit.freeze(traced), tmp_path / "frozen.pt")
    checkpoint = open_checkpoint(tmp_path / "frozen.pt")
    assert checkpoint.format == "torchscript"
    assert {key.partition(".")[0] for key in checkpoint.tensors} == {"constants"}
    with TensorReader() as reader:
        values = {reader.read(ref).tobytes() for ref in checkpoint.tensors.values()}
    assert model[0].weight.detach().numpy().tobytes() in values
