"""Codes of float8 and int8 times scales, against torch."""

from __future__ import annotations

from pathlib import Path

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given

from megasim.representation.opening import open_model
from tests.models import write_model
from tests.representation.logical_models import check_ranges, logical, problem_of, read_values

FLOAT8 = (torch.float8_e4m3fn, torch.float8_e5m2, torch.float8_e4m3fnuz, torch.float8_e5m2fnuz)


def random_codes(seed: int, *shape: int, dtype: torch.dtype = torch.float8_e4m3fn) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator).mul(3).to(dtype)


def spread(scales: torch.Tensor, rows: int, columns: int, block: tuple[int, int]) -> torch.Tensor:
    """Return the scale of every element, as torch repeats it."""
    tall = scales.float().repeat_interleave(block[0], 0)[:rows]
    return tall.repeat_interleave(block[1], 1)[:, :columns]


@pytest.mark.parametrize("dtype", FLOAT8)
@pytest.mark.parametrize("name", ["scale_weight", "weight_scale", "weight_scale_inv"])
def test_one_scale(tmp_path: Path, dtype: torch.dtype, name: str) -> None:
    codes = random_codes(1, 24, 40, dtype=dtype)
    for scale in (torch.tensor(0.37), torch.tensor([0.37]), torch.tensor([[0.37]]).bfloat16()):
        found = read_values(
            write_model(tmp_path / "m.safetensors", {"a.weight": codes, f"a.{name}": scale})
        )
        assert list(found) == ["a.weight"]
        assert np.array_equal(found["a.weight"], (codes.float() * scale.float()).numpy())


@given(
    rows=st.integers(1, 300),
    columns=st.integers(1, 300),
    block=st.sampled_from([(128, 128), (64, 64), (1, 32), (1, 128), (128, 1), (1, 1000)]),
    dtype=st.sampled_from([torch.float32, torch.bfloat16]),
)
def test_blocks(
    tmp_path_factory: pytest.TempPathFactory,
    rows: int,
    columns: int,
    block: tuple[int, int],
    dtype: torch.dtype,
) -> None:
    codes = random_codes(rows, rows, columns)
    scales = torch.rand(-(-rows // block[0]), -(-columns // block[1]), dtype=dtype) + 0.5
    expected = codes.float() * spread(scales, rows, columns, block)
    folder = tmp_path_factory.mktemp("blocks")
    tensors = {"a.weight": codes, "a.weight_scale_inv": scales}
    found = read_values(write_model(folder / "m.safetensors", tensors))
    assert np.array_equal(found["a.weight"], expected.numpy())


def test_rows_of_int8(tmp_path: Path) -> None:
    codes = torch.randint(-128, 128, (20, 30), dtype=torch.int8)
    scales = torch.rand(20, 1, dtype=torch.float16) + 0.1
    ref = logical(tmp_path, {"a.weight": codes, "a.weight_scale": scales}, "a.weight")
    expected = codes.float() * scales.float()
    assert np.array_equal(read_values(tmp_path / "m.safetensors")["a.weight"], expected.numpy())
    check_ranges(ref)


def test_powers_of_two_kept_as_bytes(tmp_path: Path) -> None:
    """MXFP8: torch has E8M0, many files keep it as uint8."""
    codes = random_codes(3, 16, 96)
    powers = torch.randint(110, 140, (16, 3), dtype=torch.uint8)
    expected = codes.float() * spread(powers.view(torch.float8_e8m0fnu).float(), 16, 96, (1, 32))
    for scales in (powers, powers.view(torch.float8_e8m0fnu)):
        ref = logical(tmp_path, {"a.weight": codes, "a.weight_scale": scales}, "a.weight")
        assert ref.decoder is not None
        assert ref.decoder.scheme == "mxfp8_e4m3fn"
        assert np.array_equal(read_values(tmp_path / "m.safetensors")["a.weight"], expected)


@pytest.mark.parametrize("shape", [(4,), (4, 1, 1), (4, 200, 1), (4, 2, 3), (4, 200)])
def test_fused_experts(tmp_path: Path, shape: tuple[int, ...]) -> None:
    """Blocks end with their expert: 200 rows are two blocks of each, not a part of the next."""
    codes = random_codes(4, 4, 200, 300)
    scales = torch.rand(shape) + 0.5
    tall, wide = (1, 1000)
    if shape == (4, 2, 3):
        tall, wide = 128, 128
    elif len(shape) == 1 or shape[1] == 1:
        tall = 1000
    expected = torch.stack(
        [
            codes[e].float()
            * spread(
                scales[e].reshape(-1, shape[2] if len(shape) > 2 else 1), 200, 300, (tall, wide)
            )
            for e in range(4)
        ]
    )
    tensors = {"experts.gate_up_proj": codes, "experts.gate_up_proj_scale_inv": scales}
    ref = logical(tmp_path, tensors, "experts.gate_up_proj")
    found = read_values(tmp_path / "m.safetensors")
    assert np.array_equal(found["experts.gate_up_proj"], expected.numpy())
    check_ranges(ref)


def test_a_scale_of_the_input_stays_a_key(tmp_path: Path) -> None:
    tensors = {
        "a.weight": random_codes(5, 8, 8),
        "a.weight_scale": torch.tensor(2.0),
        "a.input_scale": torch.tensor(3.0),
    }
    opened = open_model(write_model(tmp_path / "m.safetensors", tensors))
    assert sorted(opened.tensors) == ["a.input_scale", "a.weight"]


def test_a_cast_without_scales_is_plain(tmp_path: Path) -> None:
    opened = open_model(
        write_model(tmp_path / "m.safetensors", {"a.weight": random_codes(6, 8, 8)})
    )
    assert opened.tensors["a.weight"].decoder is None
    assert opened.tensors["a.weight"].dtype == "float8_e4m3fn"


@pytest.mark.parametrize(
    "scales",
    [torch.ones(7), torch.ones(3, 3), torch.ones(0), torch.ones(2, 8, 8), torch.arange(8)],
)
def test_scales_that_do_not_fit(tmp_path: Path, scales: torch.Tensor) -> None:
    tensors = {"a.weight": random_codes(7, 8, 8), "a.weight_scale": scales}
    problem = problem_of(tmp_path, tensors, "a.weight")
    assert problem.startswith("its scales, ")
    assert problem.endswith("fit no blocks of its 8x8 codes")
