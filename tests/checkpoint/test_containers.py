"""Checkpoints within other files and folders: shards of ranks, archives."""

from __future__ import annotations

import io
import pickle
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed.checkpoint as dcp

from megasim.checkpoint.opening import find_checkpoints, open_checkpoint, open_stored
from megasim.checkpoint.tensors import TensorReader, TensorRef
from megasim.errors import CheckpointError
from megasim.words import PartRole, Unread
from megasim.workspace import open_store
from tests.checkpoint.distributed_zoo import tensors
from tests.models import random_model, write_model

GOLDEN = Path(__file__).parents[1] / "golden" / "distributed"


def values(ref: TensorRef) -> np.ndarray:
    with TensorReader() as reader:
        return reader.read(ref).reshape(ref.shape)


def as_stored(tensor: torch.Tensor) -> np.ndarray:
    is_bfloat16 = tensor.dtype is torch.bfloat16
    return tensor.view(torch.uint16).numpy() if is_bfloat16 else tensor.numpy()


def test_a_folder_of_deepspeed_is_the_states_of_its_module(tmp_path: Path) -> None:
    """As DeepSpeed's ZeRO-1 and 2 save it: 16-bit weights, and beside them a file for each rank."""
    model = {k: v.bfloat16() for k, v in random_model(0, keys=3).items()}
    write_model(tmp_path / "global_step5" / "mp_rank_00_model_states.pt", {"module": model})
    for rank in range(2):
        states = {"optimizer_state_dict": {"single_partition_of_fp32_groups": [torch.ones(96)]}}
        name = f"bf16_zero_pp_rank_{rank}_mp_rank_00_optim_states.pt"
        torch.save(states, tmp_path / "global_step5" / name)
    opened = open_checkpoint(tmp_path)
    assert opened.tensors.keys() == model.keys()
    assert {ref.dtype for ref in opened.tensors.values()} == {"bfloat16"}


def test_pieces_of_ranks_are_whole_tensors() -> None:
    """Written by two ranks, by torch 2.13.0: see distributed_zoo."""
    checkpoint = open_checkpoint(GOLDEN)
    expected = tensors()
    assert checkpoint.format == "distributed"
    assert checkpoint.tensors.keys() | checkpoint.unread.keys() == expected.keys()
    for key, ref in checkpoint.tensors.items():
        np.testing.assert_array_equal(values(ref), as_stored(expected[key]))
    assert list(checkpoint.unread) == ["turned.weight"]
    turned = checkpoint.unread["turned.weight"]
    assert turned.reason is Unread.LAYOUT and "tensor parallelism: not decoded" in turned.note
    assert (turned.shape, len(turned.stored)) == ((4, 6), 2)
    assert [(held.place, held.role) for held in checkpoint.beside] == [
        ("optim", PartRole.OPTIMIZER)
    ]


def test_a_folder_of_one_rank_is_its_model_and_its_average(tmp_path: Path) -> None:
    model, average = random_model(0), random_model(1)
    dcp.save({"model": model, "ema": average, "epoch": 4}, checkpoint_id=tmp_path / "run")
    write_model(tmp_path / "plain.safetensors", model)
    assert [p.name for p in find_checkpoints(tmp_path)] == ["plain.safetensors", "run"]
    with open_store(tmp_path / "s.duckdb") as workspace:
        result = workspace.ingest(tmp_path)
        assert not (result.failed or result.passed_over)
        workspace.compare()
        assert set(workspace.models()["name"]) == {"plain", "run", "run#ema"}
        (verdict,) = {f.verdict for f in workspace.pair_findings("plain", "run")}
        assert verdict == "identical"


def test_keys_without_a_wrapper_are_the_model(tmp_path: Path) -> None:
    model = random_model(0)
    dcp.save(dict(model), checkpoint_id=tmp_path / "run")
    assert open_checkpoint(tmp_path / "run").tensors.keys() == model.keys()


def test_a_changed_piece_is_another_file(tmp_path: Path) -> None:
    shutil.copytree(GOLDEN, tmp_path / "a")
    before = open_checkpoint(tmp_path / "a").identity.header_hash
    piece = tmp_path / "a" / "__1_0.distcp"
    raw = bytearray(piece.read_bytes())
    raw[len(raw) // 2] ^= 1
    piece.write_bytes(raw)
    assert open_checkpoint(tmp_path / "a").identity.header_hash != before


class Call:
    """Pickles as a call that makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self.path,)


def test_metadata_is_not_run(tmp_path: Path) -> None:
    (tmp_path / ".metadata").write_bytes(pickle.dumps(Call(tmp_path / "made")))
    (tmp_path / "__0_0.distcp").write_bytes(b"PK")
    with pytest.raises(CheckpointError, match="no metadata"):
        open_stored(tmp_path)
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize(
    ("metadata", "problem"),
    [
        (b"", "cut short"),
        (b"\x80\x04N.", "no metadata"),
        (pickle.dumps({"state_dict_metadata": {}}), "no metadata"),
    ],
)
def test_bad_metadata_is_refused(tmp_path: Path, metadata: bytes, problem: str) -> None:
    (tmp_path / ".metadata").write_bytes(metadata)
    (tmp_path / "__0_0.distcp").write_bytes(b"PK")
    with pytest.raises(CheckpointError, match=problem):
        open_stored(tmp_path)


def test_missing_and_cut_pieces_are_named(tmp_path: Path) -> None:
    shutil.copytree(GOLDEN, tmp_path / "a")
    piece = tmp_path / "a" / "__1_0.distcp"
    whole = piece.read_bytes()
    piece.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(CheckpointError):
        open_stored(tmp_path / "a")
    piece.unlink()
    with pytest.raises(CheckpointError, match=r"__1_0\.distcp is not there"):
        open_stored(tmp_path / "a")
    with pytest.raises(CheckpointError, match="name its folder"):
        open_stored(tmp_path / "a" / "__0_0.distcp")


@pytest.mark.parametrize("name", ["../__0_0.distcp", "/etc/passwd", ".hidden"])
def test_a_piece_outside_of_the_folder_is_refused(tmp_path: Path, name: str) -> None:
    from torch.distributed.checkpoint.filesystem import _StorageInfo

    dcp.save(random_model(0, 1), checkpoint_id=tmp_path / "run")
    path = tmp_path / "run" / ".metadata"
    told = pickle.loads(path.read_bytes())
    told.storage_data = {
        index: _StorageInfo(name, info.offset, info.length)
        for index, info in told.storage_data.items()
    }
    path.write_bytes(pickle.dumps(told))
    with pytest.raises(CheckpointError, match="outside of the folder"):
        open_stored(tmp_path / "run")


@pytest.mark.parametrize("suffix", ["safetensors", "bin"])
def test_all_shards_of_a_folder_are_one_model_without_an_index(tmp_path: Path, suffix: str) -> None:
    model = random_model(0, 6)
    keys = list(model)
    for i in range(3):
        part = {key: model[key] for key in keys[2 * i : 2 * i + 2]}
        write_model(tmp_path / "m" / f"model-0000{i + 1}-of-00003.{suffix}", part)
    (tmp_path / "m" / "config.json").write_text("{}")
    checkpoint = open_checkpoint(tmp_path / "m")
    assert (checkpoint.format, list(checkpoint.tensors)) == ("sharded", keys)
    assert find_checkpoints(tmp_path) == [tmp_path / "m"]
    with open_store(tmp_path / "s.duckdb") as workspace:
        assert workspace.ingest(tmp_path).added == ["m"]
    # one of them missing: what there is are shards, each by itself
    (tmp_path / "m" / f"model-00002-of-00003.{suffix}").unlink()
    assert len(find_checkpoints(tmp_path)) == 2
    with pytest.raises(CheckpointError, match="a folder of 2 checkpoints"):
        open_checkpoint(tmp_path / "m")


def packed(folder: Path, name: str, members: dict[str, bytes]) -> Path:
    """Write a tar file."""
    with tarfile.open(folder / name, "w") as archive:
        for member, data in members.items():
            info = tarfile.TarInfo(member)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return folder / name


@pytest.mark.parametrize("suffix", [".ckpt", ".safetensors"])
@pytest.mark.parametrize("legacy", [False, True])
def test_the_weights_in_a_nemo_file_are_read_where_they_lie(
    tmp_path: Path, suffix: str, legacy: bool
) -> None:
    model = random_model(0)
    path = write_model(tmp_path / f"model_weights{suffix}", model)
    if legacy and suffix == ".ckpt":
        torch.save(model, path, _use_new_zipfile_serialization=False)
    members = {"./model_config.yaml": b"a: 1", f"./{path.name}": path.read_bytes()}
    checkpoint = open_checkpoint(packed(tmp_path, "m.nemo", members))
    assert checkpoint.tensors.keys() == model.keys()
    for key, ref in checkpoint.tensors.items():
        np.testing.assert_array_equal(values(ref), model[key].numpy())
    path.unlink()
    with open_store(tmp_path / "s.duckdb") as workspace:
        assert workspace.ingest(tmp_path).added == ["m"]


def test_a_tar_of_none_or_of_several_is_refused(tmp_path: Path) -> None:
    model = write_model(tmp_path / "a.pt", random_model(0)).read_bytes()
    with pytest.raises(CheckpointError, match="a tar file of no checkpoint"):
        open_stored(packed(tmp_path, "m.nemo", {"model_config.yaml": b"a: 1"}))
    with pytest.raises(CheckpointError, match=r"2 checkpoints: a\.pt, b\.pt"):
        open_stored(packed(tmp_path, "m.nemo", {"a.pt": model, "b.pt": model}))
    whole = packed(tmp_path, "m.nemo", {"a.pt": model}).read_bytes()
    for end in (600, len(model) // 2, len(model)):
        (tmp_path / "cut.nemo").write_bytes(whole[:end])
        with pytest.raises(CheckpointError):
            open_stored(tmp_path / "cut.nemo")
