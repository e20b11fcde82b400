"""A quantised tensor is proved to be made of its original, and of nothing near to it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch

from megasim.checkpoint.tensor_refs import ElementReader
from megasim.checkpoint.tensors import TensorReader, TensorRef, fuse_refs
from megasim.representation.boxes import Box, BoxDecoder, Interval, read_box
from megasim.representation.opening import open_model
from megasim.representation.rounding import Rounding, measure_rounding
from tests.models import write_model
from tests.representation.test_golden import GOLDEN, NAMES
from tests.representation.write_golden import weights

# gpt-oss' are random codes, of no original. Some of the others are made of weights in float16.
OF_WEIGHTS = [name for name in NAMES if not name.startswith("gpt_oss")]


def original(name: str) -> torch.Tensor:
    return weights(32, 96) if name == "gptq_int3" else weights()


def rounding(coded: TensorRef, values: torch.Tensor, folder: Path) -> Rounding:
    path = write_model(folder / "plain.safetensors", {"w": values})
    with TensorReader() as reader:
        found = measure_rounding(reader, coded, open_model(path).tensors["w"])
    assert found is not None
    return found


def quantised(name: str) -> TensorRef:
    (ref,) = open_model(GOLDEN / name / "model.safetensors").tensors.values()
    return ref


@pytest.mark.parametrize("name", OF_WEIGHTS)
def test_the_original_lies_within_half_a_step(name: str, tmp_path: Path) -> None:
    values = original(name)
    found = rounding(quantised(name), values, tmp_path)
    assert found == Rounding(values.numel(), values.numel(), 0.0)


# of 2,048 values at the steps of 2 bits, so wide, not one is moved beyond an edge
@pytest.mark.parametrize("name", [name for name in OF_WEIGHTS if name != "gptq_int2"])
def test_one_small_training_step_does_not(name: str, tmp_path: Path) -> None:
    values = original(name)
    noise = torch.randn(values.shape, generator=torch.Generator().manual_seed(3))
    tuned = values + 0.003 * noise * values.norm() / noise.norm()
    found = rounding(quantised(name), tuned, tmp_path)
    assert found.within < values.numel()
    assert found.excess > 0


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_model_may_be_cast_before_it_is_quantised(dtype: torch.dtype, tmp_path: Path) -> None:
    values = weights(300, 400)
    scale = values.to(dtype).float().abs().amax() / 448
    codes = (values.to(dtype).float() / scale).to(torch.float8_e4m3fn)
    path = write_model(
        tmp_path / "q.safetensors", {"a.weight": codes, "a.weight_scale": scale.reshape(1)}
    )
    coded = open_model(path).tensors["a.weight"]
    assert rounding(coded, values, tmp_path).within == values.numel()
    assert rounding(coded, values.to(dtype), tmp_path).within == values.numel()


def test_joined_tensors_and_transposes(tmp_path: Path) -> None:
    values = weights()
    refs = [quantised(name) for name in ("gptq_int4", "bitsandbytes_nf4_nested_uint8")]
    joined = fuse_refs("both", refs)
    found = rounding(joined, torch.cat([values, values]), tmp_path)
    assert found == Rounding(2 * values.numel(), 2 * values.numel(), 0.0)
    decoder = refs[1].decoder
    assert decoder is not None
    turned = TensorRef("t", "float32", (64, 32), "", 0, decoder=decoder.transposed())
    assert rounding(turned, values.T.contiguous(), tmp_path).within == values.numel()


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2])
def test_a_plain_cast_to_eight_bits(dtype: torch.dtype, tmp_path: Path) -> None:
    values = weights(300, 400)
    path = write_model(tmp_path / "q.safetensors", {"w": values.to(dtype)})
    coded = open_model(path).tensors["w"]
    assert rounding(coded, values, tmp_path).within == values.numel()
    assert rounding(coded, values * 1.001, tmp_path).within < values.numel()


def test_what_is_far_beyond_is_not_measured_to_its_end(tmp_path: Path) -> None:
    values = weights(2048, 2048)
    path = write_model(tmp_path / "q.safetensors", {"w": values.to(torch.float8_e4m3fn)})
    found = rounding(open_model(path).tensors["w"], values.flip(0), tmp_path)
    assert 1 << 21 <= found.measured < values.numel()


@pytest.mark.parametrize("name", NAMES)
def test_values_lie_in_their_own_intervals(name: str) -> None:
    (ref,) = open_model(GOLDEN / name / "model.safetensors").tensors.values()
    assert ref.decoder is not None
    with TensorReader() as reader:
        values = reader.read(ref, 5, ref.numel - 7)
        ends = ref.decoder.intervals(reader, 5, ref.numel - 7)
    assert ends is not None
    assert np.all((ends[0] <= values) & (values <= ends[1]))


@dataclass(frozen=True)
class OpenEnds(BoxDecoder):
    """Codes of 0 and 1: all below a half, and all above it."""

    codes: TensorRef

    def interval_box(self, reader: ElementReader, box: Box) -> Interval:
        ones = read_box(reader, self.codes, self.columns, box) > 0
        return np.where(ones, 0.5, -np.inf), np.where(ones, np.inf, 0.5)


def test_intervals_without_an_end(tmp_path: Path) -> None:
    """What lies beyond the one end that there is, lies beyond by something."""
    codes = torch.tensor([[0, 1, 0, 1]], dtype=torch.uint8)
    path = write_model(tmp_path / "codes.safetensors", {"c": codes})
    decoder = OpenEnds(1, 4, "open ends", open_model(path).tensors["c"])
    coded = TensorRef("w", "float32", (1, 4), "", 0, decoder=decoder)
    inside = torch.tensor([[-9.0, 7.0, 0.25, 0.75]])
    assert rounding(coded, inside, tmp_path) == Rounding(4, 4, 0.0)
    found = rounding(coded, inside + torch.tensor([[0.0, 0.0, 1.0, 0.0]]), tmp_path)
    assert (found.measured, found.within) == (4, 3)
    assert 0 < found.excess < np.inf
