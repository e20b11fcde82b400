"""Which tensors of a file are the model's, and what tells one file from another."""

from __future__ import annotations

import collections
import os
import shutil
import sys
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from megasim.checkpoint.opening import (
    TensorReader,
    default_name,
    open_checkpoint,
)
from megasim.words import PartRole
from tests.checkpoint.saved_tensors import (
    SAVERS,
    W,
    assert_same,
)


@pytest.fixture(params=SAVERS)
def save(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[Any], Path]:
    def write(content: Any) -> Path:
        path = tmp_path / "model.ckpt"
        SAVERS[request.param](content, path)
        return path

    return write


STATE = collections.OrderedDict({"a.weight": W, "a.bias": W[0]})

PLACES: dict[str, tuple[Any, set[str]]] = {
    "the top": (STATE, {"a.weight", "a.bias"}),
    "state_dict": ({"state_dict": STATE, "ema": {"x": W}}, {"a.weight", "a.bias"}),
    "model": ({"model": STATE, "optimizer": {"state": {0: {"m": W}}}}, {"a.weight", "a.bias"}),
    "model.state_dict": ({"model": {"state_dict": STATE}}, {"a.weight", "a.bias"}),
    "EMA only": ({"params_ema": {"w": W}}, {"w"}),
    "two wrappers": (
        {"params": {"w": W}, "params_ema": {"w": W}},
        {"w"},
    ),
    "dicts of dicts": ({"unet": {"in": {"w": W}}, "vae": {"w": W}}, {"unet.in.w", "vae.w"}),
    "one part only": ({"encoder": {"w": W}}, {"encoder.w"}),
    "a list": ([W, [W, W]], {"0", "1.0", "1.1"}),
    "a tensor": (W, {"tensor"}),
    "numbered": ({0: W, 1: {"w": W}}, {"0", "1.w"}),
    "a parameter": ({"w": torch.nn.Parameter(W)}, {"w"}),
}


@pytest.mark.parametrize("place", PLACES)
def test_the_state_dict_is_found(save: Callable[[Any], Path], place: str) -> None:
    content, keys = PLACES[place]
    assert set(open_checkpoint(save(content)).tensors) == keys


def test_training_state_is_left_out_and_said(save: Callable[[Any], Path]) -> None:
    optimizer = {"state": {0: {"exp_avg": W, "exp_avg_sq": W.clone()}}}
    content = {
        "state_dict": STATE,
        "epoch": 7,
        "global_step": 1234,
        "loss": float("nan"),
        "pytorch-lightning_version": "1.4.2",
        "huge": 1 << 80,
        "long": "x" * 9999,
        "optimizer_states": [optimizer],
        "callbacks": {("a", 1): {"best": None}},
    }
    checkpoint = open_checkpoint(save(content))
    assert checkpoint.metadata == {
        "epoch": 7,
        "global_step": 1234,
        "loss": "nan",
        "pytorch-lightning_version": "1.4.2",
        "huge": hex(1 << 80),
        "long": "(9999 characters, left out)",
    }
    assert [(b.place, b.role, len(b.tensors)) for b in checkpoint.beside] == [
        ("optimizer_states", PartRole.OPTIMIZER, 2)
    ]


def test_what_is_no_text_for_a_key_is_said(save: Callable[[Any], Path]) -> None:
    checkpoint = open_checkpoint(save({"good": W, "none": None, "number": 3, (1, 2): W}))
    assert set(checkpoint.tensors) == {"good"}
    assert [(b.place, b.role, len(b.tensors)) for b in checkpoint.beside] == [
        ("(0)", PartRole.OTHER, 1)
    ]


@pytest.fixture
def vanishing_module() -> Iterator[types.ModuleType]:
    """A module that exists while a checkpoint is written, and is gone when it is read."""
    module = types.ModuleType("pytorch_lightning_of_old")
    sys.modules[module.__name__] = module
    yield module
    sys.modules.pop(module.__name__, None)


def test_a_lightning_checkpoint_without_lightning(
    save: Callable[[Any], Path], vanishing_module: types.ModuleType
) -> None:
    source = """
class AttributeDict(dict): pass
class ModelCheckpoint:
    def __init__(self): self.best_score = None
class DictConfig:
    def __init__(self, content): self.content, self.parent = content, self
    def __reduce__(self): return DictConfig, (self.content,), {"flags": self.content}
"""
    exec(source, vanishing_module.__dict__)
    module: Any = vanishing_module
    callback = module.ModelCheckpoint()
    callback.best_score = torch.tensor(0.25)
    path = save(
        {
            "state_dict": module.AttributeDict(STATE),
            "epoch": 3,
            "callbacks": {module.ModelCheckpoint: callback},
            "hyper_parameters": module.DictConfig({"lr": 1e-4}),
        }
    )
    del sys.modules[vanishing_module.__name__]
    checkpoint = open_checkpoint(path)
    assert_same(checkpoint, STATE)
    assert checkpoint.metadata == {"epoch": 3}
    assert [(b.place, len(b.tensors)) for b in checkpoint.beside] == [
        ("callbacks.ModelCheckpoint.best_score", 1)
    ]
    assert vanishing_module.__name__ not in sys.modules


class Net(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = torch.nn.Linear(2, 3)
        self.again = self.first
        self.norm = torch.nn.BatchNorm1d(3)
        self.register_buffer("kept", torch.ones(2))
        self.register_buffer("passing", torch.ones(2), persistent=False)


def test_a_pickled_module_gives_its_state_dict(save: Callable[[Any], Path]) -> None:
    net = Net()
    assert_same(open_checkpoint(save(net)), net.state_dict())
    assert_same(open_checkpoint(save({"model": net, "epoch": 1})), net.state_dict())


class Scripted(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = torch.nn.Sequential(torch.nn.Conv1d(1, 2, 1), torch.nn.BatchNorm1d(2))
        self.again = self.body
        self.plain = torch.ones(5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.again(self.body(x)) + self.plain[0]
        return y


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_torchscript_keys_are_those_of_its_state_dict(tmp_path: Path) -> None:
    path = tmp_path / "m.pt"
    torch.jit.script(Scripted()).save(str(path))
    checkpoint = open_checkpoint(path)
    assert checkpoint.format == "torchscript"
    assert_same(checkpoint, torch.jit.load(str(path)).state_dict())
    assert [(b.place, b.role, len(b.tensors)) for b in checkpoint.beside] == [
        ("plain", PartRole.OTHER, 1)  # an attribute, neither parameter nor buffer
    ]


# Identity


def test_identity_sees_content_size_and_time_but_no_path(save: Callable[[Any], Path]) -> None:
    path = save({"w": torch.zeros(1 << 20)})
    first = open_checkpoint(path).identity
    moved = path.with_name("moved.pt")
    shutil.move(path, moved)
    assert open_checkpoint(moved).identity == first
    torch_file = moved.read_bytes()
    position = len(torch_file) - 30_000  # among the zeros, within the last sample
    moved.write_bytes(torch_file[:position] + b"\x01" + torch_file[position + 1 :])
    os.utime(moved, ns=(first.mtime_ns, first.mtime_ns))
    changed = open_checkpoint(moved).identity
    assert (changed.size, changed.mtime_ns) == (first.size, first.mtime_ns)
    assert changed.header_hash != first.header_hash


def test_refs_survive_a_change_of_folder(
    save: Callable[[Any], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = save(STATE)
    monkeypatch.chdir(path.parent)
    ref = open_checkpoint(path.name).tensors["a.weight"]
    monkeypatch.chdir("/")
    with TensorReader() as reader:
        assert reader.read(ref).tolist() == [0, 1, 2, 3, 4, 5]
    assert default_name(path) == "model"
