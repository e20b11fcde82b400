"""The sketch against its definition, and its error against the theory."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from megasim.fingerprint.batches import extent_of
from megasim.fingerprint.sketch import (
    estimate_l2,
    plan_folding,
    sign_sequence,
    sketch_length,
)
from megasim.fingerprint.tensor import fingerprint_refs
from megasim.fingerprint.walk import Walker
from megasim.kernels.loops import walk_singles
from megasim.kernels.state import At
from tests.raw_tensors import write_raw

ROWS, COLUMNS = 320, 160


def sketch(folder: Path, x: np.ndarray, size: int = 256) -> np.ndarray:
    tensor = torch.from_numpy(np.ascontiguousarray(x, dtype=np.float32))
    return fingerprint_refs([write_raw(folder, tensor)], size)[0].sketch


def by_definition(x: np.ndarray, size: int) -> np.ndarray:
    """Fold as the module docstring says, one element after another, in float64."""
    plan = plan_folding(x.size, size)
    signs = sign_sequence().astype(float)
    size = plan.buckets
    mask, out = 2**64 - 1, np.zeros(size)
    for b in range(-(-x.size // plan.block)):
        z = (int(plan.seed) + b * 0x9E3779B97F4A7C15) & mask
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & mask
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & mask
        z ^= z >> 31
        offset = (z % 2**32) * size >> 32
        window = (z >> 32) % 2**31 * 1023 >> 31
        sign = -1 if z >> 63 else 1
        for i, value in enumerate(x[b * plan.block : (b + 1) * plan.block].tolist()):
            out[(offset + i) % size] += sign * signs[(window + i) % 1023] * value
    return out


@pytest.mark.parametrize(
    "numel, size", [(257, 256), (5000, 256), (3000, 100), (9000, 1), (9, 3), (2 << 20, 16)]
)
def test_sketch_follows_its_definition(tmp_path: Path, numel: int, size: int) -> None:
    x = np.random.default_rng(0).standard_normal(numel).astype(np.float32)
    got = sketch(tmp_path, x, size)
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, by_definition(x, size), atol=1e-5 * np.linalg.norm(x))


@pytest.mark.parametrize("numel", [0, 1, 256])
def test_a_small_tensor_is_kept_whole(tmp_path: Path, numel: int) -> None:
    x = np.random.default_rng(1).standard_normal(numel).astype(np.float32)
    np.testing.assert_array_equal(sketch(tmp_path, x), x)


def test_a_tensor_of_many_tiles_can_be_kept_whole(tmp_path: Path) -> None:
    x = np.random.default_rng(2).standard_normal(2500).astype(np.float32)
    np.testing.assert_array_equal(sketch(tmp_path, x, 3000), x)


def test_sketch_is_linear_and_does_not_see_shape_or_dtype(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    a, b = (rng.integers(-99, 99, 5000).astype(np.float32) for _ in range(2))
    both = 2 * sketch(tmp_path, a) - sketch(tmp_path, b)
    np.testing.assert_allclose(sketch(tmp_path, 2 * a - b), both, atol=1e-2)
    np.testing.assert_array_equal(sketch(tmp_path, a.reshape(50, 100)), sketch(tmp_path, a))
    for dtype in (torch.float64, torch.float16, torch.int16):
        ref = write_raw(tmp_path, torch.from_numpy(a).to(dtype))
        np.testing.assert_array_equal(fingerprint_refs([ref])[0].sketch, sketch(tmp_path, a))


def test_large_tensors_have_longer_sketches(tmp_path: Path) -> None:
    x = np.ones(2 << 20, dtype=np.float32)
    assert sketch(tmp_path, x, 16).shape == (64,)
    assert sketch(tmp_path, x[:-1], 16).shape == (32,)
    assert [sketch_length(n << 18, 256) for n in (1, 7, 8, 63, 64, 999)] == [
        *(512, 512, 1024, 1024, 4096, 4096)
    ]
    assert sketch_length((1 << 18) - 1, 256) == 256
    assert sketch_length(1 << 18, 1 << 20) == 1 << 18


def test_maps_of_different_sizes_differ() -> None:
    plans = [plan_folding(n, m) for n in (1000, 1001, 5000) for m in (128, 256)]
    assert len({plan.seed for plan in plans}) == len(plans)
    with pytest.raises(ValueError, match="at least one"):
        plan_folding(10, 0)


def _structures() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(4)
    zeros = np.zeros((ROWS, COLUMNS))
    column, row, grid, sparse = (zeros.copy() for _ in range(4))
    column[:, 7] = rng.standard_normal(ROWS)
    row[5] = rng.standard_normal(COLUMNS)
    grid[::2, ::4] = 1
    sparse.flat[rng.integers(0, zeros.size, 40)] = rng.standard_normal(40)
    return {
        "dense": rng.standard_normal((ROWS, COLUMNS)),
        "heavy tails": rng.standard_t(1.5, (ROWS, COLUMNS)),
        "one column": column,
        "a constant column": (column != 0).astype(float),
        "one row": row,
        "constant shift": zeros + 1,
        "grid": grid,
        "alternating": (-1.0) ** np.arange(zeros.size).reshape(zeros.shape),
        "rank 1": np.outer(rng.standard_normal(ROWS), rng.standard_normal(COLUMNS)),
        "rank 4": rng.standard_normal((ROWS, 4)) @ rng.standard_normal((4, COLUMNS)),
        "sparse": sparse,
    }


@pytest.mark.parametrize("structure", _structures())
def test_estimates_have_no_bias_and_the_error_of_theory(structure: str) -> None:
    """Over 400 maps: the mean of ‖S(x)‖²/‖x‖² is 1, its standard deviation at most √(2/m)."""
    x = _structures()[structure].astype(np.float32).ravel()
    m, draws = 256, 400
    walker, extent = Walker(m), extent_of(x.shape, "float32", m)
    ratios = []
    for seed in np.random.default_rng(5).integers(0, 2**63, draws):
        jobs = walker._jobs(["float32"], [extent])
        jobs[0, At.SEED] = seed
        walk_singles(x, jobs, walker._scratch, walker._arenas.sums, walker._digests_given)
        walker._finish(jobs)
        s = walker._arenas._kept.sketch[:m].astype(float)
        ratios.append((s @ s) / (x.astype(float) @ x.astype(float)))
    theory = np.sqrt(2 / m)
    assert abs(np.mean(ratios) - 1) < 4 * theory / np.sqrt(draws)
    assert np.std(ratios) < theory * (1 + 4 / np.sqrt(2 * draws))


def test_close_models_are_told_apart(tmp_path: Path) -> None:
    """A difference of 1e-5 of the norm is still estimated, through float32 sketches."""
    rng = np.random.default_rng(6)
    a = rng.standard_normal(1 << 20)
    b = a + 1e-5 * rng.standard_normal(1 << 20)
    refs = [write_raw(tmp_path, torch.from_numpy(x)) for x in (a, b)]
    a_print, b_print = fingerprint_refs(refs)
    got = np.linalg.norm(a_print.sketch.astype(float) - b_print.sketch)
    assert got == pytest.approx(np.linalg.norm(a - b), rel=0.2)


def test_estimate_over_keys_and_its_error(tmp_path: Path) -> None:
    rng = np.random.default_rng(7)
    sizes = [300 * (k + 1) for k in range(40)] + [10]
    a = [rng.standard_normal(n) for n in sizes]
    b = [x + 0.1 * rng.standard_normal(len(x)) for x in a]
    sketches = [[sketch(tmp_path, x) for x in model] for model in (a, b)]
    got = estimate_l2(*sketches, sizes)
    squares = [float(((x - y) ** 2).sum()) for x, y in zip(a, b, strict=True)]
    exact = np.sqrt(sum(squares))
    expected_error = np.sqrt(sum(2 * s * s / 256 for s in squares[:-1])) / (2 * exact)
    assert got.error == pytest.approx(expected_error, rel=0.3)
    assert abs(got.l2 - exact) < 4 * expected_error


def test_no_estimate_without_sketches() -> None:
    with pytest.raises(ValueError, match="no distance"):
        estimate_l2([np.empty(0, np.float32)], [np.empty(0, np.float32)], [5000])
    with pytest.raises(ValueError, match="no distance"):
        estimate_l2([np.zeros(3, np.float32)], [np.zeros(4, np.float32)], [3])
