"""Folders of DeepSpeed's ZeRO: weights in float32 out of the parts of ranks.

Files are made here in the layout of deepspeed 0.19.8, whose `zero_to_fp32` joins them to the same.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from megasim.checkpoint.folders import default_name
from megasim.checkpoint.opening import find_checkpoints, open_checkpoint
from megasim.checkpoint.tensors import TensorReader, TensorRef
from megasim.errors import CheckpointError

SHAPES = OrderedDict(a=(3, 5), b=(7,), c=(2, 2, 2), d=())


def weights(seed: int = 0) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {key: torch.randn(shape, generator=generator) for key, shape in SHAPES.items()}


def write_zero(folder: Path, stage: int, ranks: int = 2, **said: Any) -> dict[str, torch.Tensor]:
    """Write a checkpoint as `zero_to_fp32` reads it, and return its weights in float32."""
    folder.mkdir(parents=True)
    values = weights()
    module: dict[str, Any] = {k: v.bfloat16() for k, v in values.items()}
    if stage == 3:
        module = {key: torch.empty(0, dtype=torch.bfloat16) for key in values}
    buffer = torch.arange(4.0)
    frozen = torch.full((3, 3), 2.0)
    fragments = {"frozen": frozen}
    for rank in range(ranks):
        if stage == 3:
            filled = torch.cat([frozen.flatten(), torch.zeros(-9 % ranks)])
            fragments = {"frozen": filled.chunk(ranks)[rank].clone()}
        elif rank:
            break
        name = f"zero_pp_rank_{rank}_mp_rank_00" if stage == 3 else "mp_rank_00"
        state = {
            "module": {**module, "mean": buffer},
            "buffer_names": ["mean"],
            "param_shapes": [OrderedDict((k, torch.Size(s)) for k, s in SHAPES.items())],
            "frozen_param_shapes": {"frozen": torch.Size((3, 3))},
            "frozen_param_fragments": fragments,
            "shared_params": {"head": "a"},
            "ds_version": "0.19.8",
        }
        torch.save(state, folder / f"{name}_model_states.pt")
    for rank in range(ranks):
        if stage == 3:
            parts = []
            for value in values.values():
                size = math.ceil(value.numel() / ranks)
                filled = torch.cat([value.flatten(), torch.zeros(size * ranks - value.numel())])
                parts.append(filled[rank * size : (rank + 1) * size])
            whole = torch.cat(parts)
            first = len(parts[0])  # whole parameters may stand in several flat tensors
            parts_of_rank = {"fp32_flat_groups": [whole[:first].clone(), whole[first:].clone()]}
        else:
            flat = torch.cat([value.flatten() for value in values.values()])
            flat = torch.cat([flat, torch.zeros(-len(flat) % (2 * ranks))])
            parts_of_rank = {"single_partition_of_fp32_groups": [flat.chunk(ranks)[rank].clone()]}
        states = {**parts_of_rank, "zero_stage": stage, "partition_count": ranks, **said}
        name = f"bf16_zero_pp_rank_{rank}_mp_rank_00_optim_states.pt"
        torch.save({"optimizer_state_dict": states}, folder / name)
    return {**values, "head": values["a"], "mean": buffer, "frozen": frozen}


def values_of(ref: TensorRef) -> np.ndarray:
    with TensorReader() as reader:
        return reader.read(ref).reshape(ref.shape)


@pytest.mark.parametrize("ranks", [1, 2, 3, 11])
@pytest.mark.parametrize("stage", [1, 2, 3])
def test_weights_are_joined_out_of_the_parts_of_ranks(
    stage: int, ranks: int, tmp_path: Path
) -> None:
    folder = tmp_path / "global_step7"
    expected = write_zero(folder, stage, ranks)
    opened = open_checkpoint(folder)
    assert opened.format == "deepspeed"
    assert opened.tensors.keys() == expected.keys()
    for key, value in expected.items():
        np.testing.assert_array_equal(values_of(opened.tensors[key]), value.numpy(), key)
    assert opened.tied == {"head": "a"}
    assert find_checkpoints(tmp_path) == [folder]
    assert default_name(folder) == "global_step7"


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ({"partition_count": 3}, "the parts of 2 of 3 ranks"),
        ({"zero_stage": 7}, "its stage is not said"),
        ({"single_partition_of_fp32_groups": [torch.ones(3)]}, "6 elements, of which 15"),
        ({"single_partition_of_fp32_groups": [torch.ones(99)]}, "31 elements of parameters in 198"),
        ({"single_partition_of_fp32_groups": [torch.ones(3, 3)]}, "are no flat tensors"),
        ({"single_partition_of_fp32_groups": "none"}, "are no flat tensors"),
        ({"param_alignment_paddings": [[1]]}, "the gaps between parameters are not said"),
    ],
)
def test_where_parts_do_not_add_up_it_is_the_module_in_16_bits(
    said: dict[str, Any], words: str, tmp_path: Path
) -> None:
    write_zero(tmp_path / "step", 2, **said)
    opened = open_checkpoint(tmp_path / "step")
    assert {opened.tensors[key].dtype for key in SHAPES} == {"bfloat16"}
    assert words in opened.skipped["optim_states"]


def test_gaps_between_parameters(tmp_path: Path) -> None:
    expected = write_zero(tmp_path / "step", 1, 1)
    flat = torch.cat([torch.cat([expected[key].flatten(), torch.zeros(3)]) for key in SHAPES])
    state = {
        "single_partition_of_fp32_groups": [flat],
        "zero_stage": 1,
        "partition_count": [1],
        "param_alignment_paddings": [[3, 3, 3, 3]],
    }
    name = "bf16_zero_pp_rank_0_mp_rank_00_optim_states.pt"
    torch.save({"optimizer_state_dict": state}, tmp_path / "step" / name)
    opened = open_checkpoint(tmp_path / "step")
    for key in SHAPES:
        np.testing.assert_array_equal(values_of(opened.tensors[key]), expected[key].numpy(), key)


def test_without_a_rank_stage_3_has_no_values(tmp_path: Path) -> None:
    write_zero(tmp_path / "step", 3)
    next((tmp_path / "step").glob("*rank_1*optim*")).unlink()
    opened = open_checkpoint(tmp_path / "step")
    assert set(opened.unread) == set(SHAPES)
    assert opened.tensors.keys() == {"mean"}


def test_a_damaged_part_is_said(tmp_path: Path) -> None:
    write_zero(tmp_path / "step", 2)
    part = next((tmp_path / "step").glob("*rank_1*optim*"))
    part.write_bytes(part.read_bytes()[:-300])
    opened = open_checkpoint(tmp_path / "step")
    assert {opened.tensors[key].dtype for key in SHAPES} == {"bfloat16"}
    assert "no weights in float32" in opened.skipped["optim_states"]


def test_parts_of_a_model_over_several_ranks_are_models_of_their_own(tmp_path: Path) -> None:
    """Tensor parallelism: each `mp_rank` has a part of each weight."""
    write_zero(tmp_path / "step", 2)
    for path in list((tmp_path / "step").iterdir()):
        other = path.with_name(path.name.replace("mp_rank_00", "mp_rank_01"))
        other.write_bytes(path.read_bytes())
    with pytest.raises(CheckpointError, match="a folder of 2 checkpoints"):
        open_checkpoint(tmp_path / "step")
