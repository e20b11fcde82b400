"""Which files of a folder make one model."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from megasim.checkpoint.opening import (
    Checkpoint,
    TensorReader,
    default_name,
    find_checkpoints,
    open_checkpoint,
)
from megasim.errors import CheckpointError, UsageError
from megasim.words import Unread


def put(path: Path, **values: float) -> None:
    """A weights file of one-element tensors."""
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {key: torch.tensor([value]) for key, value in values.items()}
    if path.suffix == ".safetensors":
        save_file(content, path, {"format": "pt"})
    else:
        torch.save(content, path)


def put_json(path: Path, content: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def values(checkpoint: Checkpoint) -> dict[str, float]:
    with TensorReader() as reader:
        return {key: float(reader.read(ref)[0]) for key, ref in checkpoint.tensors.items()}


def found(folder: Path) -> list[str]:
    return [str(path.relative_to(folder)) for path in find_checkpoints(folder)]


@pytest.fixture
def pipeline(tmp_path: Path) -> Path:
    folder = tmp_path / "sd-tiny"
    put_json(
        folder / "model_index.json",
        {
            "_class_name": "StableDiffusionPipeline",
            "unet": ["diffusers", "UNet2DConditionModel"],
            "vae": ["diffusers", "AutoencoderKL"],
            "scheduler": ["diffusers", "PNDMScheduler"],
            "safety_checker": ["stable_diffusion", "StableDiffusionSafetyChecker"],
            "feature_extractor": [None, None],
        },
    )
    put(folder / "unet" / "diffusion_pytorch_model.bin", w=1)
    put(folder / "unet" / "diffusion_pytorch_model.safetensors", w=2)
    put(folder / "unet" / "diffusion_pytorch_model.fp16.safetensors", w=3)
    put(folder / "unet" / "diffusion_pytorch_model.non_ema.safetensors", w=4)
    put_json(folder / "unet" / "config.json", {"sample_size": 64})
    put(folder / "vae" / "diffusion_pytorch_model.fp16.bin", w=5)
    put(folder / "text_encoder" / "pytorch_model.bin", w=6)
    put_json(folder / "scheduler" / "scheduler_config.json", {})
    return folder


def test_a_pipeline_is_one_model(pipeline: Path) -> None:
    checkpoint = open_checkpoint(pipeline)
    assert checkpoint.format == "diffusers"
    assert values(checkpoint) == {"unet/w": 2, "vae/w": 5, "text_encoder/w": 6}
    assert checkpoint.metadata["unet/config"] == {"sample_size": 64}
    assert checkpoint.skipped == {
        "safety_checker/": "model_index.json names it, but its weights are not there"
    }
    assert checkpoint.size == sum(
        Path(ref.path).stat().st_size for ref in checkpoint.tensors.values()
    )
    assert find_checkpoints(pipeline.parent) == [pipeline]
    assert default_name(pipeline) == "sd-tiny"


def test_a_pipeline_without_its_index_and_with_single_files_beside(pipeline: Path) -> None:
    (pipeline / "model_index.json").unlink()
    put(pipeline / "v1-5-pruned.safetensors", w=7)
    put(pipeline / "extra" / "lora.safetensors", w=8)
    assert found(pipeline) == [".", "v1-5-pruned.safetensors", "extra/lora.safetensors"]
    assert open_checkpoint(pipeline).format == "diffusers"


def test_the_identity_of_a_pipeline_is_that_of_its_files(pipeline: Path, tmp_path: Path) -> None:
    first = open_checkpoint(pipeline).identity
    moved = pipeline.rename(tmp_path / "moved")
    assert open_checkpoint(moved).identity == first
    put(moved / "vae" / "diffusion_pytorch_model.fp16.bin", w=9)
    assert open_checkpoint(moved).identity != first


@pytest.fixture(params=["safetensors", "bin"])
def shards(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    folder, suffix = tmp_path / "large", request.param
    put(folder / f"model-00001-of-00002.{suffix}", a=1, b=2)
    put(folder / f"model-00002-of-00002.{suffix}", c=3)
    first, second = (f"model-0000{i}-of-00002.{suffix}" for i in (1, 2))
    put_json(
        folder / f"model.{suffix}.index.json",
        {"metadata": {"total_size": 12}, "weight_map": {"a": first, "b": first, "c": second}},
    )
    return folder


def index_of(folder: Path) -> Path:
    return next(folder.glob("*.index.json"))


def test_shards_are_one_model(shards: Path) -> None:
    checkpoint = open_checkpoint(shards)
    assert checkpoint.format == "sharded"
    assert values(checkpoint) == {"a": 1, "b": 2, "c": 3}
    assert checkpoint.metadata["total_size"] == 12
    assert find_checkpoints(shards.parent) == [shards]
    by_index = open_checkpoint(index_of(shards))
    assert by_index.tensors == checkpoint.tensors
    assert by_index.identity == checkpoint.identity
    assert default_name(index_of(shards)) == default_name(shards) == "large"


def test_shards_inside_of_a_pipeline(pipeline: Path, shards: Path) -> None:
    shards.rename(pipeline / "text_encoder_2")
    assert values(open_checkpoint(pipeline))["text_encoder_2/c"] == 3
    assert find_checkpoints(pipeline) == [pipeline]


def test_other_files_beside_shards_are_models_of_their_own(shards: Path) -> None:
    put(shards / "consolidated.pt", w=1)
    put(shards / "part.safetensors", d=4)
    index = json.loads(index_of(shards).read_text())
    index["weight_map"]["d"] = "part.safetensors"
    put_json(index_of(shards), index)
    assert found(shards) == [".", "consolidated.pt"]
    assert values(open_checkpoint(shards))["d"] == 4


@pytest.mark.parametrize(
    ("key", "name", "expected"),
    [
        ("a", "../secret.safetensors", "outside of the folder"),
        ("a", "/etc/passwd", "outside of the folder"),
        ("a", "..", "outside of the folder"),
        ("a", "C:\\x.bin", "outside of the folder"),
        ("a", "", "outside of the folder"),
        ("a", 3, "outside of the folder"),
        ("a", "absent.bin", "not there"),
    ],
)
def test_bad_indexes(shards: Path, key: str, name: object, expected: str) -> None:
    index = json.loads(index_of(shards).read_text())
    index["weight_map"][key] = index["weight_map"]["a"] if name is None else name
    put_json(index_of(shards), index)
    with pytest.raises(CheckpointError, match=expected):
        open_checkpoint(shards)
    assert shards in find_checkpoints(shards.parent)  # so that it is said to be bad


def test_a_key_that_only_the_index_names_is_absent(shards: Path) -> None:
    """As where a tied head is left out of the shards, and not out of the index."""
    index = json.loads(index_of(shards).read_text())
    before = open_checkpoint(shards)
    index["weight_map"]["z"] = index["weight_map"]["a"]
    put_json(index_of(shards), index)
    checkpoint = open_checkpoint(shards)
    assert checkpoint.tensors == before.tensors
    assert {key: t.reason for key, t in checkpoint.unread.items()} == {"z": Unread.ABSENT}


@pytest.mark.parametrize("content", [[], {}, {"weight_map": {}}, {"weight_map": [1]}])
def test_indexes_of_another_form(shards: Path, content: object) -> None:
    put_json(index_of(shards), content)
    with pytest.raises(CheckpointError, match="weight_map"):
        open_checkpoint(shards)


def test_a_key_in_two_shards_is_refused_unless_the_index_decides(shards: Path) -> None:
    suffix = index_of(shards).name.split(".")[1]
    put(shards / f"model-00002-of-00002.{suffix}", a=9, c=3)
    assert values(open_checkpoint(shards)) == {"a": 1, "b": 2, "c": 3}
    put(shards / f"model-00001-of-00002.{suffix}", a=1, b=2, x=1)
    put(shards / f"model-00002-of-00002.{suffix}", c=3, x=2)
    with pytest.raises(CheckpointError, match="two shards"):
        open_checkpoint(shards)


def test_a_folder_is_walked_in_order(tmp_path: Path) -> None:
    for name in (
        "b.ckpt",
        "a.pt",
        "c/d.safetensors",
        "c/e.pth",
        "bert/model.safetensors",
        "bert/pytorch_model.bin",
        "bert/model.fp16.bin",
        "run/optimizer.pt",
        "run/training_args.bin",
        "run/last.th",
        ".hidden.pt",
        ".cache/x.pt",
    ):
        put(tmp_path / name, w=1)
    (tmp_path / "notes.txt").write_text("not weights")
    (tmp_path / "c" / "loop").symlink_to(tmp_path)
    (tmp_path / "dead.pt").symlink_to(tmp_path / "absent.pt")
    assert found(tmp_path) == [
        "a.pt",
        "b.ckpt",
        "bert/model.fp16.bin",
        "bert/model.safetensors",
        "c/d.safetensors",
        "c/e.pth",
        "run/last.th",
    ]
    names = [default_name(path) for path in find_checkpoints(tmp_path)]
    assert names == ["a", "b", "bert.fp16", "bert", "d", "e", "last"]


def test_a_folder_of_one_checkpoint_can_be_opened_and_one_of_two_cannot(tmp_path: Path) -> None:
    put(tmp_path / "deep" / "only.pt", w=1)
    assert open_checkpoint(tmp_path).path == tmp_path / "deep" / "only.pt"
    put(tmp_path / "second.pt", w=1)
    with pytest.raises(CheckpointError, match="a folder of 2 checkpoints"):
        open_checkpoint(tmp_path)


def test_a_folder_without_a_checkpoint(tmp_path: Path) -> None:
    for question in (find_checkpoints, open_checkpoint):
        with pytest.raises(CheckpointError, match="no checkpoint in this folder") as caught:
            question(tmp_path)
        assert ".safetensors" in caught.value.remedy


def test_a_path_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="nothing at"):
        find_checkpoints(tmp_path / "absent")


def test_a_folder_that_cannot_be_listed_loses_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(tmp_path / "good.pt", w=1)
    put(tmp_path / "locked" / "bad.pt", w=1)
    iterdir = Path.iterdir

    def refuse(path: Path) -> object:
        if path.name == "locked":
            raise PermissionError(13, "Permission denied", str(path))
        return iterdir(path)

    monkeypatch.setattr(Path, "iterdir", refuse)  # a test may run as root, whom chmod stops not
    assert found(tmp_path) == ["good.pt", "locked"]
    with pytest.raises(CheckpointError, match="Permission denied"):
        open_checkpoint(tmp_path / "locked")


def test_an_explicit_file_needs_no_ending(tmp_path: Path) -> None:
    put(tmp_path / "weights.pt", w=3)
    path = (tmp_path / "weights.pt").rename(tmp_path / "weights")
    assert find_checkpoints(path) == [path]
    assert values(open_checkpoint(path)) == {"w": 3}
    assert np.isfinite(values(open_checkpoint(str(path)))["w"])
