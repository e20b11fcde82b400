"""Conversions and hashes, bit by bit."""

from __future__ import annotations

import numba
import numpy as np
import pytest
import torch

from megasim.kernels import compiled, hash_loops, state
from megasim.kernels.compiled import bfloat16_to_single, half_to_single, round_to_half
from megasim.kernels.elements import float8_table, is_wide, to_double, to_single
from tests.raw_tensors import DTYPES, FLOAT8

EVERY_HALF = np.arange(65536, dtype=np.uint16)


def _by(convert, values: np.ndarray, dtype: type) -> np.ndarray:
    @numba.njit
    def run(values, out):
        for i in range(len(values)):
            out[i] = convert(values[i])

    out = np.empty(len(values), dtype)
    run(values, out)
    return out


def _around_every_half() -> np.ndarray:
    """Every float16, what lies midway between neighbours, and the float32 next to all of these."""
    halves = EVERY_HALF.view(np.float16).astype(np.float32)
    halves = np.sort(halves[np.isfinite(halves)])
    middles = (halves[1:].astype(np.float64) + halves[:-1]) / 2
    points = np.concatenate([halves, middles.astype(np.float32), np.float32([65520, -65520, 1e30])])
    near = [np.nextafter(points, np.float32(side)) for side in (-np.inf, np.inf)]
    rng = np.random.default_rng(0)
    anything = rng.integers(0, 2**32, 1 << 18, dtype=np.uint32).view(np.float32)
    return np.concatenate([points, *near, anything, np.float32([np.inf, -np.inf, np.nan, -0.0])])


@pytest.mark.parametrize("convert", [None, compiled._widen_by_bits], ids=["used", "by bits"])
def test_every_float16_widens_as_in_torch(convert) -> None:
    if convert is None:
        got = np.empty(65536, np.float32)
        half_to_single(EVERY_HALF, got)
    else:
        got = _by(convert, EVERY_HALF, np.float32)
    expected = torch.from_numpy(EVERY_HALF.view(np.float16)).float().numpy()
    np.testing.assert_array_equal(got, expected)
    np.testing.assert_array_equal(np.signbit(got), np.signbit(expected))


@pytest.mark.parametrize("convert", [None, compiled._narrow_by_bits], ids=["used", "by bits"])
def test_float32_rounds_to_float16_as_in_torch(convert) -> None:
    x = _around_every_half()
    if convert is None:
        got = np.empty(len(x), np.uint16)
        round_to_half(x, got)
    else:
        got = _by(convert, x, np.uint16)
    expected = torch.from_numpy(x).half().numpy()
    np.testing.assert_array_equal(got.view(np.float16), expected)
    np.testing.assert_array_equal(np.signbit(got.view(np.float16)), np.signbit(expected))


def test_rounding_tells_whether_it_lost_anything() -> None:
    out = np.empty(3, np.uint16)
    assert round_to_half(np.float32([1.5, -0.0, np.inf]), out) == 0
    assert round_to_half(np.float32([1.5, 1 + 2**-12, 0]), out) != 0
    assert round_to_half(np.float32([1e6, 0, 0]), out) != 0


def test_every_bfloat16_widens_as_in_torch() -> None:
    got = np.empty(65536, np.float32)
    bfloat16_to_single(EVERY_HALF, got)
    expected = torch.from_numpy(EVERY_HALF.view(np.int16)).view(torch.bfloat16).float().numpy()
    np.testing.assert_array_equal(got.view(np.uint32), expected.view(np.uint32))


def test_float32_rounds_to_bfloat16_as_in_torch() -> None:
    rng = np.random.default_rng(1)
    bits = rng.integers(0, 2**32, 1 << 18, dtype=np.uint32)
    bits[: 1 << 16] = (np.arange(1 << 16, dtype=np.uint32) << 16) | 0x8000  # ties
    x = bits.view(np.float32)
    x = np.concatenate([x[np.isfinite(x)], np.float32([np.inf, -np.inf, 3.4e38, -1e-45, -0.0])])
    x = np.resize(x, -(-len(x) // 1024) * 1024)
    keys = np.zeros(1024 + state.PASSES, np.uint64)
    packed, out = np.empty(256, np.uint64), np.empty(state.PASSES, np.uint64)
    for tile in x.reshape(-1, 1024):
        hash_loops.hash_bfloat16(tile.view(np.uint64), packed, keys, out)
        lanes = packed.view(np.uint16).reshape(256, 2, 2)  # (word, float32, first or second half)
        got = np.concatenate([lanes[:, :, 1].ravel(), lanes[:, :, 0].ravel()])
        expected = torch.from_numpy(tile).bfloat16().view(torch.int16).numpy().view(np.uint16)
        np.testing.assert_array_equal(got, np.where(expected == 0x8000, 0, expected))  # no −0


def test_a_tile_without_zeros_is_hashed_in_one_go() -> None:
    """As each of its roundings by itself."""
    rng = np.random.default_rng(5)
    halves = np.abs(rng.standard_normal(1024)).astype(np.float16) * np.float16(3) + np.float16(1e-7)
    halves *= rng.choice([-1, 1], 1024).astype(np.float16)
    assert (halves != 0).all()
    single = halves.astype(np.float32).view(np.uint64)
    keys = rng.integers(0, 2**64, 1024 + state.PASSES, dtype=np.uint64)
    one, other, both_one, both_other = np.zeros((4, state.PASSES), np.uint64)
    hash_loops.hash_words(halves.view(np.uint64).copy(), hash_loops.HALF_LANES, keys, one)
    hash_loops.hash_bfloat16(single, np.empty(256, np.uint64), keys, other)
    hash_loops.hash_halves(halves.view(np.uint64), single, keys, both_one, both_other)
    assert one.tolist() == both_one.tolist()
    assert other.tolist() == both_other.tolist()


def test_hash_is_nh_of_words_without_negative_zeros() -> None:
    rng = np.random.default_rng(2)
    halves = rng.standard_normal(1024).astype(np.float16)
    halves[::7] = -0.0
    keys = rng.integers(0, 2**64, 1024, dtype=np.uint64)
    out = np.empty(state.PASSES, np.uint64)
    hash_loops.hash_words(halves.view(np.uint64), hash_loops.HALF_LANES, keys, out)
    words = (halves + np.float16(0)).view(np.uint64).tolist()  # −0 + 0 is 0
    for shift in range(state.PASSES):
        total = 0
        for word, key in zip(words, keys[shift:].tolist(), strict=False):
            both = (word + key) % 2**64
            total += (both % 2**32) * (both >> 32)
        assert int(out[shift]) == total % 2**64


@pytest.mark.parametrize("dtype", [*FLOAT8, "float8_e8m0fnu"])
def test_every_float8_is_as_in_torch(dtype: str) -> None:
    bits = torch.arange(256, dtype=torch.uint8)
    expected = bits.view(getattr(torch, dtype)).float().numpy()
    got = float8_table(dtype)
    np.testing.assert_array_equal(got, expected)
    signs = [np.signbit(x[~np.isnan(x)]) for x in (got, expected)]
    np.testing.assert_array_equal(*signs)


@pytest.mark.parametrize("dtype", DTYPES)
def test_conversion_to_float64_is_exact(dtype: str) -> None:
    x = torch.tensor([0, 1, 3, 100]).to(getattr(torch, dtype))
    raw = x.view(torch.uint16).numpy() if dtype == "bfloat16" else None
    if dtype in FLOAT8:
        raw = x.view(torch.uint8).numpy()
    raw = x.numpy() if raw is None else raw
    double, single = np.empty(4), np.empty(4, np.float32)
    expected = [0, 1, 1, 1] if dtype == "bool" else x.to(torch.float64).tolist()
    to_double(raw, dtype, double)
    assert double.tolist() == expected
    if not is_wide(dtype):
        to_single(raw, dtype, single)
        assert single.tolist() == expected


def test_a_bool_is_one_whatever_the_byte() -> None:
    out = np.empty(2)
    to_double(np.uint8([0, 255]), "bool", out)
    assert out.tolist() == [0, 1]


def test_float16_instructions_are_not_taken_for_granted(monkeypatch) -> None:
    monkeypatch.setattr(numba.config, "CPU_NAME", "generic")
    assert not compiled._converts_halves()


def test_a_function_that_cannot_be_cached_is_compiled_all_the_same() -> None:
    scope: dict = {}
    exec("def double(x):\n    return 2 * x", scope)  # no file, so nowhere to keep it
    with pytest.raises(RuntimeError, match="cannot cache"):
        numba.njit(cache=True)(scope["double"])
    assert compiled.compiled()(scope["double"])(21) == 42
