"""Distances against torch in float64, for every dtype, shape and way of running."""

from __future__ import annotations

import itertools
import pickle
import tracemalloc
from pathlib import Path

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings

from megasim.checkpoint.tensors import TensorRef, transpose_ref
from megasim.compare import piece as pair_pass
from megasim.compare.piece import PairDistances, PairPiece, Position, run_pair_piece
from megasim.errors import CheckpointError, UsageError
from tests.raw_tensors import DTYPES, shapes, tensors, values, write_raw

METRICS = ("l0", "l1", "l2", "linf", "cossim")
quick = settings(
    max_examples=60,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


def every_pair(n: int) -> np.ndarray:
    pairs = list(itertools.combinations(range(n), 2))
    return np.array(pairs, dtype=np.int32).reshape(-1, 2)


def compare(
    folder: Path,
    contents: list[torch.Tensor],
    metrics: tuple[str, ...] = METRICS,
    memory: int = 1 << 26,
    device: str | None = None,
) -> PairDistances:
    refs = tuple(write_raw(folder, x) for x in contents)
    shape = contents[0].shape
    position = Position(refs, every_pair(len(refs)), shape[0] if shape else 1, metrics)
    return run_pair_piece(PairPiece((position,), memory, device))[0]


def reference(a: torch.Tensor, b: torch.Tensor) -> dict[str, float]:
    """What torch says in float64."""
    a, b = values(a), values(b)
    if not a.numel():
        return {"l0": 0, "l1": 0, "l2": 0, "linf": 0, "cossim": float("nan")}
    a, b = (x.reshape(x.shape[0] if x.dim() else 1, -1) for x in (a, b))
    found = {"cossim": float(torch.cosine_similarity(a, b, dim=0, eps=1e-8).mean())}
    for metric, p in (("l0", 0), ("l1", 1), ("l2", 2), ("linf", float("inf"))):
        found[metric] = float(torch.dist(a, b, p))
    return found


def check(got: PairDistances, contents: list[torch.Tensor], rel: float = 1e-6) -> None:
    for k, (i, j) in enumerate(itertools.combinations(range(len(contents)), 2)):
        expected = reference(contents[i], contents[j])
        for metric in METRICS:
            value = float(getattr(got, metric)[k])
            least = 1e-9 if metric == "cossim" else 0  # a cosine near 0 has fewer digits
            assert value == pytest.approx(expected[metric], rel=rel, abs=least, nan_ok=True), metric


@quick
@given(data=st.data())
def test_distances_agree_with_float64(tmp_path: Path, data: st.DataObject) -> None:
    shape = data.draw(shapes())
    contents = [data.draw(tensors(shape=shape)) for _ in range(3)]
    got = compare(tmp_path, contents)
    check(got, contents)
    assert got.l0.dtype == np.int64
    assert got.rows == (shape[0] if shape else 1)


@pytest.mark.parametrize("device", [None, "cpu"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_every_dtype_with_every_other(tmp_path: Path, dtype: str, device: str | None) -> None:
    rng = np.random.default_rng(0)
    numbers = torch.from_numpy(rng.integers(0, 100, (37, 61)))
    other = torch.from_numpy(rng.integers(0, 100, (37, 61)))
    contents = [numbers.to(getattr(torch, dtype))] + [other.to(getattr(torch, d)) for d in DTYPES]
    check(compare(tmp_path, contents, device=device), contents)


@pytest.mark.parametrize("scale", [1e-30, 1e-20, 1e15, 1e30])
def test_differences_beyond_the_squares_of_float32(tmp_path: Path, scale: float) -> None:
    rng = np.random.default_rng(1)
    contents = [torch.from_numpy(scale * rng.standard_normal((40, 30))).float() for _ in range(2)]
    contents[1][:20] = contents[0][:20]
    check(compare(tmp_path, contents), contents)
    largest = [torch.full((9,), sign * 3e38) for sign in (1, -1)]
    assert compare(tmp_path, largest).linf[0] == pytest.approx(6e38, rel=1e-6)
    assert compare(tmp_path, largest).l2[0] == pytest.approx(1.8e39, rel=1e-6)


def test_constant_differences_do_not_drift(tmp_path: Path) -> None:
    """Adding one number over and over in float32 rounds the same way each time."""
    zero = torch.zeros(100_000)
    contents = [zero, zero + 0.1, zero + 1 / 3, zero + 1e-7]
    check(compare(tmp_path, contents), contents)


def test_one_step_of_float16_is_seen_and_negative_zero_is_not(tmp_path: Path) -> None:
    a = torch.zeros(3000, dtype=torch.float16)
    a[0], b = -0.0, a.clone()
    b[0], b[2999] = 0.0, 2**-24
    got = compare(tmp_path, [a, b])
    assert got.l0.tolist() == [1]
    assert got.l1.tolist() == got.l2.tolist() == got.linf.tolist() == [2**-24]


def test_cossim_of_zero_and_tiny_columns(tmp_path: Path) -> None:
    a, b = torch.randn(2, 50, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    a[:, 0], b[:, 1] = 0, 0
    a[:, 2] *= 1e-12
    b[:, 3] *= 1e-30
    contents = [a, b]
    check(compare(tmp_path, contents), contents)


def _mixed(seed: int = 2) -> list[torch.Tensor]:
    rng = np.random.default_rng(seed)
    base = rng.standard_normal((60, 70))
    dtypes = ("float16", "float16", "bfloat16", "float32", "float64", "int8")
    return [
        torch.from_numpy(base + 0.01 * rng.standard_normal(base.shape)).to(getattr(torch, d))
        for d in dtypes
    ]


@pytest.mark.parametrize("metrics", [("l0", "l1", "l2"), ("linf",), ("cossim",), METRICS])
def test_memory_does_not_change_a_value(tmp_path: Path, metrics: tuple[str, ...]) -> None:
    contents = [x.flatten().repeat(2).reshape(120, 70) for x in _mixed()]
    plenty = compare(tmp_path, contents, metrics)
    for memory in (1 << 18, 1 << 14):
        scarce = compare(tmp_path, contents, metrics, memory)
        for metric in METRICS:
            a, b = getattr(plenty, metric), getattr(scarce, metric)
            if metric not in metrics:
                assert a is b is None
            elif metric == "cossim":
                np.testing.assert_allclose(a, b, rtol=1e-13)
            else:
                np.testing.assert_array_equal(a, b)


def test_other_contents_do_not_change_a_value(tmp_path: Path) -> None:
    contents = _mixed()
    together = compare(tmp_path, contents)
    for k, (i, j) in enumerate(every_pair(len(contents))):
        alone = compare(tmp_path, [contents[i], contents[j]])
        for metric in METRICS:
            assert getattr(alone, metric)[0] == getattr(together, metric)[k]


def test_float16_is_the_same_converted_in_the_cache_or_before(tmp_path: Path) -> None:
    contents = [x for x in _mixed() if x.dtype in (torch.float16, torch.bfloat16)]
    narrow = compare(tmp_path, contents, ("l0", "l1", "l2"))
    converted = compare(tmp_path, contents, ("l0", "l1", "l2", "linf"))
    for metric in ("l0", "l1", "l2"):
        np.testing.assert_array_equal(getattr(narrow, metric), getattr(converted, metric))


def test_more_than_a_chunk(tmp_path: Path, monkeypatch) -> None:
    contents = _mixed()
    whole = compare(tmp_path, contents)
    monkeypatch.setattr(pair_pass, "MAX_CHUNK", pair_pass.TILE)
    check(compare(tmp_path, contents), contents)
    np.testing.assert_array_equal(compare(tmp_path, contents).l2, whole.l2)


def test_torch_agrees_with_the_compiled_loops(tmp_path: Path) -> None:
    contents = _mixed()
    compiled = compare(tmp_path, contents)
    for memory in (1 << 26, 1 << 16):
        by_torch = compare(tmp_path, contents, memory=memory, device="cpu")
        np.testing.assert_array_equal(by_torch.l0, compiled.l0)
        for metric in METRICS[1:]:
            np.testing.assert_allclose(getattr(by_torch, metric), getattr(compiled, metric), 1e-6)
    check(compare(tmp_path, contents, device="cpu"), contents)


def test_a_device_that_is_not_there(tmp_path: Path) -> None:
    for device in ("nonsense", "cuda:99"):
        with pytest.raises(UsageError, match="no device"):
            compare(tmp_path, _mixed(), device=device)


def test_pieces_travel_and_keep_their_order(tmp_path: Path) -> None:
    x = _mixed()
    refs = [write_raw(tmp_path, t) for t in x]
    tied = Position((refs[0], refs[0]), every_pair(2), 60, ("l0", "cossim"))
    turned = Position(
        (transpose_ref(refs[0]), write_raw(tmp_path, x[1].t())), every_pair(2), 70, ("l2",)
    )
    some = Position(tuple(refs), np.array([[4, 1], [0, 3]], dtype=np.int32), 60, ("l2",))
    none = Position(tuple(refs[:2]), np.empty((0, 2), dtype=np.int32), 60, ("l0", "l2"))
    piece = pickle.loads(pickle.dumps(PairPiece((tied, turned, some, none), 1 << 20)))
    first, second, third, fourth = run_pair_piece(piece)
    assert first.l0.tolist() == [0]
    assert first.cossim[0] == pytest.approx(1)
    assert first.l1 is first.l2 is None
    expected = float(torch.dist(x[0].double(), x[1].double()))
    assert second.l2[0] == pytest.approx(expected, rel=1e-6)
    expected = [reference(x[4], x[1])["l2"], reference(x[0], x[3])["l2"]]
    assert third.l2.tolist() == pytest.approx(expected, rel=1e-6)
    assert fourth.l2.shape == (0,)
    assert run_pair_piece(PairPiece((), 0)) == []


def test_memory_stays_within_the_budget(tmp_path: Path) -> None:
    contents = [torch.full((1000, 800), float(i)) for i in range(4)]
    compare(tmp_path, contents)
    refs = tuple(write_raw(tmp_path, x) for x in contents)
    piece = PairPiece((Position(refs, every_pair(4), 1000, METRICS),), 2 << 20)
    tracemalloc.start()
    try:
        run_pair_piece(piece)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 3 << 20


def test_a_file_that_is_gone_is_named(tmp_path: Path) -> None:
    gone = TensorRef("k", "float32", (3,), str(tmp_path / "gone.bin"), 0)
    piece = PairPiece((Position((gone, gone), every_pair(2), 3, ("l2",)),), 0)
    with pytest.raises(CheckpointError, match=r"gone\.bin"):
        run_pair_piece(piece)
