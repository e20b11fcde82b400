"""Archives of torch.export, written by torch."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from megasim import open_store
from megasim.checkpoint.opening import find_checkpoints, open_checkpoint, open_stored
from megasim.checkpoint.tensors import TensorReader
from megasim.errors import CheckpointError
from megasim.words import Unread
from tests.models import write_model


class Network(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = torch.nn.Linear(8, 4)
        self.again = self.first
        self.last = torch.nn.Linear(4, 4).bfloat16()
        self.rows = torch.nn.Parameter(torch.randn(6, 4)[2:4])  # of a storage that is kept whole
        self.turned = torch.nn.Parameter(torch.randn(4, 3).T)
        self.register_buffer("steps", torch.arange(3))
        self.register_buffer("passing", torch.ones(2), persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        hidden = self.again(self.first(x).repeat(1, 2)).bfloat16() @ self.last.weight
        return hidden + self.rows.sum() + self.turned.sum() + self.steps.sum() + self.passing.sum()


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, torch.Tensor]]:
    torch.manual_seed(5)
    network = Network()
    path = tmp_path_factory.mktemp("exported") / "network.pt2"
    torch.export.save(torch.export.export(network, (torch.randn(2, 8),)), path)
    return path, network.state_dict()


def test_all_keys_have_their_values(exported: tuple[Path, dict[str, torch.Tensor]]) -> None:
    path, state = exported
    assert find_checkpoints(path.parent) == [path]
    opened = open_checkpoint(path)
    assert opened.format == "exported"
    assert opened.tensors.keys() == state.keys()
    assert set(opened.tied.items()) in (
        {("again.weight", "first.weight"), ("again.bias", "first.bias")},
        {("first.weight", "again.weight"), ("first.bias", "again.bias")},
    )
    with TensorReader() as reader:
        for key, tensor in state.items():
            ref = opened.tensors[key]
            assert ref.dtype == str(tensor.dtype).removeprefix("torch.")
            found = reader.read(ref).reshape(ref.shape)
            bits = tensor.view(torch.uint16) if tensor.dtype is torch.bfloat16 else tensor
            assert np.array_equal(found, bits.numpy()), key


def test_it_is_the_same_as_its_state_dict(
    exported: tuple[Path, dict[str, torch.Tensor]], tmp_path: Path
) -> None:
    path, state = exported
    other = write_model(tmp_path / "plain.pt", state)
    with open_store(tmp_path / "s.duckdb") as store:
        store.ingest(path, other)
        store.compare()
        statuses = store.sql("select distinct status from layer_distances")["status"]
        assert list(statuses) == ["identical"]


def changed(path: Path, folder: Path, change: Callable[[dict[str, Any]], None]) -> Path:
    """Return a copy of an archive whose description of `rows` is changed."""
    broken = folder / "broken.pt2"
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(broken, "w") as new:
        for name in old.namelist():
            data = old.read(name)
            if name.endswith("_weights_config.json"):
                said = json.loads(data)
                change(said["config"]["rows"])
                data = json.dumps(said).encode()
            new.writestr(name, data)
    return broken


BROKEN: dict[str, tuple[Callable[[dict[str, Any]], None], str]] = {
    "beyond its storage": (
        lambda rows: rows["tensor_meta"].update(storage_offset={"as_int": 1000}),
        "of a storage of",
    ),
    "negative": (
        lambda rows: rows["tensor_meta"].update(storage_offset={"as_int": -1}),
        "no number",
    ),
    "left open": (
        lambda rows: rows["tensor_meta"].update(sizes=[{"as_expr": "s0"}, {"as_int": 4}]),
        "no number",
    ),
    "another folder": (lambda rows: rows.update(path_name="../../byteorder"), "not in the archive"),
    "no description": (lambda rows: rows.pop("tensor_meta"), "without its description"),
    "ranks": (lambda rows: rows["tensor_meta"].update(strides=[]), "shape or stride"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_what_is_broken_is_said(
    name: str, exported: tuple[Path, dict[str, torch.Tensor]], tmp_path: Path
) -> None:
    change, words = BROKEN[name]
    with pytest.raises(CheckpointError, match=words):
        open_checkpoint(changed(exported[0], tmp_path, change))


def test_what_is_not_known_is_unread(
    exported: tuple[Path, dict[str, torch.Tensor]], tmp_path: Path
) -> None:
    def of_later(rows: dict[str, Any]) -> None:
        rows["tensor_meta"]["dtype"] = 99

    opened = open_stored(changed(exported[0], tmp_path, of_later))
    assert opened.unread["rows"].reason is Unread.DTYPE
    assert "turned" in opened.tensors
    pickled = open_stored(changed(exported[0], tmp_path, lambda rows: rows.update(use_pickle=True)))
    assert "a pickle of its own" in pickled.unread["rows"].note
