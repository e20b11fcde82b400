"""Profiles against numpy in float64: whatever the shape, the dtype and the pieces read."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from megasim.fingerprint import batches, profile
from megasim.fingerprint.profile import absolute_norms
from megasim.fingerprint.table import Fingerprint
from megasim.fingerprint.tensor import fingerprint_refs
from megasim.kernels.state import TILE
from tests.raw_tensors import DTYPES, tensors, values, write_raw

quick = settings(
    max_examples=60,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
HALF = 2.0**-11  # half a unit in the last place of a float16


def fingerprint(folder: Path, x: torch.Tensor) -> Fingerprint:
    return fingerprint_refs([write_raw(folder, x)])[0]


def slices(x: torch.Tensor, dim: int) -> np.ndarray:
    flat = x.double().movedim(dim, 0).reshape(x.shape[dim], -1)
    return flat.norm(dim=1).numpy()


def check(got: Fingerprint, x: torch.Tensor) -> None:
    assert got.l2 is not None
    for norms, dim in ((got.row_norms, 0), (got.column_norms, 1)):
        expected = slices(x, dim)
        least = 2.0**-24 * got.l2 / np.sqrt(len(expected))  # the least number of float16
        np.testing.assert_allclose(
            absolute_norms(norms, got.l2), expected, rtol=1.01 * HALF, atol=least
        )


@quick
@given(x=tensors())
def test_norms_agree_with_float64(tmp_path: Path, x: torch.Tensor) -> None:
    got = fingerprint(tmp_path, x)
    if x.dim() < 2 or x.numel() == 0:
        assert len(got.row_norms) == len(got.column_norms) == 0
    else:
        check(got, values(x))


@quick
@given(
    shape=st.lists(st.integers(1, 70), min_size=2, max_size=4).filter(
        lambda s: np.prod(s) < 300_000
    ),
    dtype=st.sampled_from([d for d in DTYPES if d.startswith(("float", "bfloat"))]),
    seed=st.integers(0, 2**32 - 1),
)
def test_rows_may_begin_and_end_anywhere_in_a_tile(
    tmp_path: Path, shape: list[int], dtype: str, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    scale = torch.randn(shape[:1], generator=generator).exp()
    x = torch.randn(shape, generator=generator) * scale.reshape(-1, *[1] * (len(shape) - 1))
    x = x.to(getattr(torch, dtype))
    check(fingerprint(tmp_path, x), x)


@pytest.mark.parametrize("shape", [(200, 3000), (3000, 200), (700, 100, 3, 3), (3, 200_000)])
def test_pieces_do_not_matter(
    tmp_path: Path, shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    x = torch.randn(shape, generator=torch.Generator().manual_seed(7)).half()
    whole = fingerprint(tmp_path, x)
    monkeypatch.setattr(batches, "PIECE", 4 * TILE)
    cut = fingerprint(tmp_path, x)
    assert np.array_equal(whole.row_norms, cut.row_norms)
    assert np.array_equal(whole.column_norms, cut.column_norms)
    check(whole, x)


def test_hidden_units_may_stand_in_another_order(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(3)
    up, down = torch.randn(900, 300, generator=generator), torch.randn(300, 900)
    conv = torch.randn(64, 48, 3, 3, generator=generator)
    order, channels = torch.randperm(900), torch.randperm(48)
    for x, y, moved in (
        (up, up[order], "row_norms"),
        (down, down[:, order], "column_norms"),
        (conv, conv[:, channels], "column_norms"),
    ):
        a, b = fingerprint(tmp_path, x), fingerprint(tmp_path, y.contiguous())
        for side in ("row_norms", "column_norms"):
            one, other = getattr(a, side), getattr(b, side)
            # sums in another order may round to the number next to it
            np.testing.assert_array_max_ulp(np.sort(one), np.sort(other), 1)
        assert not np.array_equal(getattr(a, moved), getattr(b, moved))


@pytest.mark.parametrize("scale", [1e-30, 1e-12, 1e18, 3e37])
def test_no_scale_is_too_small_or_too_large(tmp_path: Path, scale: float) -> None:
    x = scale * torch.rand(130, 50, dtype=torch.float64).float()
    check(fingerprint(tmp_path, x), x)


def test_a_tensor_of_zeros_has_a_profile_of_zeros(tmp_path: Path) -> None:
    got = fingerprint(tmp_path, torch.zeros(3, 5))
    assert (got.row_norms.tolist(), got.column_norms.tolist()) == ([0] * 3, [0] * 5)


@pytest.mark.parametrize("odd", [float("nan"), float("inf")])
@pytest.mark.parametrize("at", [0, 2500])
def test_without_an_l2_there_is_no_profile(tmp_path: Path, odd: float, at: int) -> None:
    x = torch.ones(50, 60)
    x.view(-1)[at] = odd
    got = fingerprint(tmp_path, x)
    assert got.l2 is None
    assert len(got.row_norms) == len(got.column_norms) == 0


def test_what_is_too_long_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(profile, "LIMIT", 100)
    batches.extent_of.cache_clear()
    x = torch.randn(101, 7)
    got = fingerprint(tmp_path, x)
    assert (len(got.row_norms), len(got.column_norms)) == (0, 7)
    got = fingerprint(tmp_path, x.T.contiguous())
    assert (len(got.row_norms), len(got.column_norms)) == (7, 0)
    got = fingerprint(tmp_path, torch.randn(120, 130))
    assert len(got.row_norms) == len(got.column_norms) == 0
    batches.extent_of.cache_clear()


def test_one_tensor_after_another_in_one_walk(tmp_path: Path) -> None:
    folders = [tmp_path / str(i) for i in range(3)]
    xs = [torch.randn(40, 900), torch.randn(3, 3), torch.randn(900, 40)]
    for folder in folders:
        folder.mkdir()
    refs = [write_raw(folder, x) for folder, x in zip(folders, xs, strict=True)]
    for got, x in zip(fingerprint_refs(refs), xs, strict=True):
        check(got, x)
