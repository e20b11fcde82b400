"""Fingerprints against torch and numpy in float64, and what the hashes tell apart."""

from __future__ import annotations

import pickle
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
import torch
from blake3 import blake3
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from megasim.checkpoint.tensors import TensorReader, TensorRef, fuse_refs
from megasim.errors import CheckpointError
from megasim.fingerprint import batches
from megasim.fingerprint import tensor as module
from megasim.fingerprint.table import Fingerprint
from megasim.fingerprint.tensor import fingerprint_refs, fingerprint_tensor
from megasim.kernels.state import TILE
from tests.raw_tensors import DTYPES, INTEGERS, tensors, values, write_raw

quick = settings(
    max_examples=60,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


def fingerprint(folder: Path, tensor: torch.Tensor, sketch_size: int = 256) -> Fingerprint:
    return fingerprint_refs([write_raw(folder, tensor)], sketch_size)[0]


def same(a: Fingerprint, b: Fingerprint) -> bool:
    return all(np.array_equal(getattr(a, f.name), getattr(b, f.name)) for f in fields(a))


@quick
@given(tensor=tensors())
def test_norms_and_moments_agree_with_float64(tmp_path: Path, tensor: torch.Tensor) -> None:
    got = fingerprint(tmp_path, tensor)
    x = values(tensor).flatten()
    assert got.numel == len(x)
    assert got.dtype == str(tensor.dtype).removeprefix("torch.")
    assert got.l1 == pytest.approx(float(x.norm(1)), rel=1e-6, abs=0)
    assert got.l2 == pytest.approx(float(x.norm(2)), rel=1e-6, abs=0)
    assert got.linf == (float(x.abs().max()) if len(x) else 0)
    assert got.zeros == int((x == 0).sum())
    assert (got.nans, got.infs) == (0, 0)
    assert got.is_constant == (len(x) == 0 or bool((x == x[0]).all()))
    if len(x) == 0:
        assert got.mean is got.std is got.kurtosis is None
        return
    assert got.mean == pytest.approx(float(x.mean()), rel=0, abs=1e-6 * float(x.abs().mean()))
    assert got.std == pytest.approx(float(x.std(correction=0)), rel=1e-6, abs=1e-15)
    if got.is_constant:
        assert got.std == 0
        assert got.kurtosis is None
    else:
        d = x - x.mean()
        kurtosis = float((d**4).mean() / (d**2).mean() ** 2 - 3)
        assert got.kurtosis == pytest.approx(kurtosis, rel=1e-6, abs=3e-6)


@pytest.mark.parametrize("centre, spread", [(0, 1e-30), (0, 1e25), (1, 1e-5), (-1e4, 1), (0, 4e-9)])
def test_moments_keep_their_digits_at_any_scale(
    tmp_path: Path, centre: float, spread: float
) -> None:
    x = centre + spread * np.random.default_rng(0).standard_normal(50_000)
    tensor = torch.from_numpy(x).float()
    got, x = fingerprint(tmp_path, tensor), tensor.double()
    d = x - x.mean()
    assert got.l1 == pytest.approx(float(x.norm(1)), rel=1e-6)
    assert got.l2 == pytest.approx(float(x.norm(2)), rel=1e-6)
    assert got.mean == pytest.approx(float(x.mean()), abs=1e-6 * float(x.abs().mean()))
    assert got.std == pytest.approx(float(x.std(correction=0)), rel=1e-6)
    assert got.kurtosis == pytest.approx(float((d**4).mean() / (d**2).mean() ** 2 - 3), abs=3e-6)


def test_parts_of_unequal_mean_and_spread(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    x = np.concatenate([np.full(5000, 7.0), rng.standard_normal(3000), 40 + rng.random(2000)])
    got = fingerprint(tmp_path, torch.from_numpy(x).float())
    x = x.astype(np.float32).astype(np.float64)
    d = x - x.mean()
    assert got.mean == pytest.approx(x.mean(), rel=1e-6)
    assert got.std == pytest.approx(x.std(), rel=1e-6)
    assert got.kurtosis == pytest.approx((d**4).mean() / (d**2).mean() ** 2 - 3, rel=1e-6)


def test_content_hash_is_blake3_of_dtype_and_bytes(tmp_path: Path) -> None:
    x = torch.arange(3000, dtype=torch.float32).half()
    expected = blake3(b"float16:" + x.numpy().tobytes()).hexdigest()
    assert fingerprint(tmp_path, x).content_hash == expected
    assert fingerprint(tmp_path, x.reshape(50, 60)).content_hash == expected
    transposed = x.reshape(50, 60).t()
    expected = blake3(b"float16:" + transposed.contiguous().numpy().tobytes()).hexdigest()
    assert fingerprint(tmp_path, transposed).content_hash == expected


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_content_hash_knows_minus_zero(tmp_path: Path, dtype: torch.dtype) -> None:
    """The walk takes −0 for 0 in the hashes of values, not in that of the bytes."""
    x = torch.randn(3 * TILE, generator=torch.Generator().manual_seed(0)).to(dtype)
    x[5], x[TILE + 7] = -0.0, -0.0
    name = str(dtype).removeprefix("torch.")
    raw = x.view(torch.uint8).numpy().tobytes()
    got = fingerprint(tmp_path, x)
    assert got.content_hash == blake3(f"{name}:".encode() + raw).hexdigest()
    positive = fingerprint(tmp_path, x + 0.0)
    assert positive.content_hash != got.content_hash
    assert (positive.value_hash, positive.fp16_hash) == (got.value_hash, got.fp16_hash)


@quick
@given(tensor=tensors())
def test_rounding_hashes_are_those_of_the_rounded_tensor(
    tmp_path: Path, tensor: torch.Tensor
) -> None:
    got = fingerprint(tmp_path, tensor)
    single = values(tensor).float()
    assert got.fp16_hash == fingerprint(tmp_path, single.half()).value_hash
    assert got.bf16_hash == fingerprint(tmp_path, single.bfloat16()).bf16_hash


@quick
@given(tensor=tensors())
def test_value_hash_does_not_see_the_dtype(tmp_path: Path, tensor: torch.Tensor) -> None:
    got = fingerprint(tmp_path, tensor)
    numbers = values(tensor)
    for name in DTYPES:
        other = numbers.to(getattr(torch, name)).contiguous()
        is_same = bool((values(other) == numbers).all())
        assert (fingerprint(tmp_path, other).value_hash == got.value_hash) == is_same, name


def test_value_hash_of_large_integers(tmp_path: Path) -> None:
    def value(numbers: list[int], dtype: torch.dtype) -> str:
        return fingerprint(tmp_path, torch.tensor(numbers, dtype=dtype)).value_hash

    big = 2**53 + 1  # the first that float64 cannot hold
    int64, uint64, float64 = torch.int64, torch.uint64, torch.float64
    assert value([big, 5], int64) == value([big, 5], uint64)
    assert value([big, 5], int64) != value([big - 1, 5], int64)
    assert value([big - 1, 5], int64) == value([big - 1, 5], float64)
    assert value([2**62, -(2**63)], int64) == value([2**62, -(2**63)], float64)
    assert value([2**63], uint64) == value([2**63], float64)
    assert value([2**64 - 1, big], uint64) != value([-1, big], int64)
    assert value([-big], int64) != value([big], int64)


def test_signs_of_zero_and_kinds_of_nan_do_not_matter(tmp_path: Path) -> None:
    plus = torch.tensor([0.0, 1.0, float("nan")])
    minus = torch.tensor([-0.0, 1.0, float("nan")])
    minus.view(torch.int32)[2] = -1  # a NaN with sign and payload
    for dtype in (torch.float32, torch.float64, torch.float16, torch.bfloat16):
        a, b = fingerprint(tmp_path, plus.to(dtype)), fingerprint(tmp_path, minus.to(dtype))
        assert a.content_hash != b.content_hash
        assert (a.value_hash, a.fp16_hash, a.bf16_hash) == (b.value_hash, b.fp16_hash, b.bf16_hash)
        assert a.value_hash == fingerprint(tmp_path, plus).value_hash


def test_every_element_and_the_length_are_in_the_hashes(tmp_path: Path) -> None:
    x = torch.zeros(2 * TILE + 5, dtype=torch.float16)
    seen = {fingerprint(tmp_path, x).value_hash, fingerprint(tmp_path, x[:-1].clone()).value_hash}
    where = (0, 1, 2, 3, 511, TILE - 1, TILE, 2 * TILE, 2 * TILE + 4)
    for i in where:
        y = x.clone()
        y[i] = 1
        seen.add(fingerprint(tmp_path, y).value_hash)
    assert len(seen) == 2 + len(where)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64", "float8_e5m2"])
def test_nan_and_inf_leave_hashes_and_counts(tmp_path: Path, dtype: str) -> None:
    x = torch.ones(2000)
    x[3], x[1500], x[1501], x[7] = float("nan"), float("inf"), -float("inf"), 0
    got = fingerprint(tmp_path, x.to(getattr(torch, dtype)))
    assert (got.zeros, got.nans, got.infs) == (1, 1, 2)
    assert [got.l1, got.l2, got.linf, got.mean, got.std, got.kurtosis] == [None] * 6
    assert got.sketch.shape == (0,)
    assert got.value_hash == fingerprint(tmp_path, x).value_hash
    assert not got.is_constant


def test_numbers_that_float32_cannot_hold(tmp_path: Path) -> None:
    got = fingerprint(tmp_path, torch.tensor([1e200, 1.0], dtype=torch.float64))
    assert got.linf == 1e200
    assert got.sketch.shape == (0,)
    got = fingerprint(tmp_path, torch.tensor([1e300, 1.0], dtype=torch.float64))
    assert got.l1 == 1e300
    assert got.l2 is None


@pytest.mark.parametrize("dtype", [torch.float16, torch.int64, torch.float32])
def test_pieces_do_not_matter(tmp_path: Path, monkeypatch, dtype: torch.dtype) -> None:
    x = (100 * torch.randn(20 * TILE + 77, generator=torch.Generator().manual_seed(0))).to(dtype)
    whole = fingerprint(tmp_path, x)
    monkeypatch.setattr(batches, "PIECE", 3 * TILE)
    assert same(fingerprint(tmp_path, x), whole)
    first, second = write_raw(tmp_path, x[:1000].clone()), write_raw(tmp_path, x[1000:].clone())
    assert same(fingerprint_refs([fuse_refs("both", [first, second])])[0], whole)


def test_threads_share_nothing(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(1)
    refs = [write_raw(tmp_path, torch.randn(4000 + i, generator=generator)) for i in range(8)]
    refs = pickle.loads(pickle.dumps(refs))
    alone = [fingerprint_refs([ref])[0] for ref in refs]
    with ThreadPoolExecutor(4) as executor:
        side_by_side = list(executor.map(lambda _: fingerprint_refs(refs), range(8)))
    for found in side_by_side:
        assert all(same(a, b) for a, b in zip(alone, found, strict=True))
    with TensorReader() as reader:
        assert same(fingerprint_tensor(reader, refs[0]), alone[0])


@pytest.mark.parametrize("turned, most", [(False, 10 << 20), (True, 30 << 20)])
def test_memory_does_not_grow_with_the_tensor(tmp_path: Path, turned: bool, most: int) -> None:
    ref = write_raw(tmp_path, torch.ones(5_000, 2_000).T if turned else torch.ones(5_000_000))
    fingerprint_refs([ref])
    tracemalloc.start()
    try:
        fingerprint_refs([ref])
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < most


def test_a_file_that_is_gone_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"gone\.bin"):
        fingerprint_refs([TensorRef("k", "float32", (3,), str(tmp_path / "gone.bin"), 0)])


@pytest.mark.parametrize("dtype", INTEGERS)
def test_position_ids_fit_float16(tmp_path: Path, dtype: str) -> None:
    got = fingerprint(tmp_path, torch.arange(77).to(getattr(torch, dtype)))
    assert got.value_hash == got.fp16_hash
    assert got.sketch.tolist() == list(range(77))


def test_fingerprints_are_the_same_for_ever(tmp_path: Path) -> None:
    """Stores keep fingerprints: whoever changes one of these raises FINGERPRINT_VERSION."""
    x = (torch.arange(3000, dtype=torch.float32) ** 2 % 1009 - 500) / 3
    got = fingerprint(tmp_path, x, sketch_size=4)
    assert module.FINGERPRINT_VERSION == 4
    assert got.content_hash == ("6cffff8a9676d036cb7191b119489d1c5801444c27f8c2930a9ea28d00d2e331")
    assert got.value_hash == "a2e1d6f1fe883392c1072bacdec15db0"
    assert got.fp16_hash == "720914ed9dcf67f12c6f221559db0786"
    assert got.bf16_hash == "00de17a08a4e0e15d498dad95266d8c9"
    assert got.sketch.tolist() == pytest.approx([-1169.33, -2524.67, 1362.33, 562.33], abs=1e-2)
    matrix = fingerprint(tmp_path, x.reshape(3, 2, 500), sketch_size=4)
    assert matrix.content_hash == got.content_hash
    assert matrix.row_norms.tolist() == [0.99462890625, 1.0009765625, 1.0048828125]
    assert matrix.column_norms.tolist() == [1.0068359375, 0.9931640625]


@quick
@given(many=st.lists(tensors(), min_size=2, max_size=12), seed=st.integers(0, 99))
def test_many_in_one_file_are_as_each_alone(
    tmp_path: Path, many: list[torch.Tensor], seed: int
) -> None:
    """Side by side in one file, with gaps or none, in any order, two of them the same bytes."""
    rng = np.random.default_rng(seed)
    alone = [write_raw(tmp_path, x) for x in many]
    data, refs = bytearray(rng.bytes(int(rng.integers(0, 9)))), []
    with TensorReader() as reader:
        for ref in alone:
            raw = reader.read(ref)
            data += bytes(int(rng.choice([0, 0, 1, 64, 5000])))
            place = len(data)
            data += raw.tobytes()
            refs.append(TensorRef(ref.key, ref.dtype, ref.shape, str(tmp_path / "all"), place))
    (tmp_path / "all").write_bytes(data)
    refs.append(refs[0])
    order = rng.permutation(len(refs))
    together = fingerprint_refs([refs[i] for i in order])
    expected = [*fingerprint_refs(alone[:1]), *(fingerprint_refs([r])[0] for r in alone[1:])]
    expected.append(expected[0])
    for place, got in zip(order, together, strict=True):
        assert same(got, expected[place])


def test_more_small_tensors_than_one_call_takes(tmp_path: Path) -> None:
    x = torch.randn(1500, 8, generator=torch.Generator().manual_seed(2)).half()
    whole = write_raw(tmp_path, x)
    places = [whole.offset + 16 * i for i in range(1500)]
    refs = [TensorRef(str(i), "float16", (8,), whole.path, at) for i, at in enumerate(places)]
    prints = fingerprint_refs(refs)
    for i in (0, 511, 512, 1499):
        assert same(prints[i], fingerprint_refs([refs[i]])[0])
        assert prints[i].sketch.tolist() == x[i].tolist()


def test_of_small_tensors_the_one_that_is_cut_short_is_named(tmp_path: Path) -> None:
    path = tmp_path / "short.bin"
    path.write_bytes(bytes(100))
    refs = [TensorRef(f"key{i}", "float16", (16,), str(path), 32 * i) for i in range(5)]
    with pytest.raises(CheckpointError, match="key3"):
        fingerprint_refs(refs)
