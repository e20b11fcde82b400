"""Folded sketches: linear, with the error of theory, and only where they mean a distance."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from megasim import open_store
from megasim.estimate.folded import folded_distances, save_folded_sketches
from megasim.fingerprint.folded import LENGTH, RELATIVE_ERROR, fold_sketches
from tests.models import random_model, write_model

OF_BLOCK = {"component": "block", "fold_version": 1, "first": 0, "last": 99}
quick = settings(max_examples=40, deadline=None, derandomize=True)


def sketches(rng: np.random.Generator, lengths: list[int]) -> list[np.ndarray]:
    return [rng.standard_normal(n).astype(np.float32) for n in lengths]


@quick
@given(
    lengths=st.lists(st.integers(1, 900), min_size=1, max_size=9),
    k=st.floats(-4, 4, width=32),
    seed=st.integers(0, 2**32 - 1),
)
def test_a_fold_is_linear_and_knows_no_order(lengths: list[int], k: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    keys, shapes = [f"key{i}" for i in range(len(lengths))], ["2x3"] * len(lengths)
    a, b = sketches(rng, lengths), sketches(rng, lengths)
    mixed = [x + np.float32(k) * y for x, y in zip(a, b, strict=True)]
    got = fold_sketches(keys, shapes, mixed)
    expected = fold_sketches(keys, shapes, a) + k * fold_sketches(keys, shapes, b)
    np.testing.assert_allclose(got, expected, atol=1e-4)
    turned = fold_sketches(keys[::-1], shapes, mixed[::-1])
    np.testing.assert_allclose(got, turned, atol=1e-9)


@pytest.mark.parametrize("kind", ["dense", "one large key", "equal numbers", "few"])
def test_the_error_is_that_of_theory(kind: str) -> None:
    """Over 300 folds, as many names of keys: no bias, and 1/√8192 of a distance."""
    rng = np.random.default_rng(1)
    lengths = [3] * 5 if kind == "few" else [4096, *[256] * 60]
    d = sketches(rng, lengths)
    if kind == "one large key":
        d[0] *= 30
    if kind == "equal numbers":
        d = [np.ones_like(x) for x in d]
    norm = np.sqrt(sum(float(x @ x) for x in d))
    ratios = []
    for draw in range(300):
        keys = [f"{draw}.{i}" for i in range(len(d))]
        ratios.append(np.linalg.norm(fold_sketches(keys, ["x"] * len(d), d)) / norm)
    assert abs(np.mean(ratios) - 1) < 4 * RELATIVE_ERROR / np.sqrt(300) + RELATIVE_ERROR**2
    assert np.std(ratios) < RELATIVE_ERROR * (1 + 4 / np.sqrt(600))
    assert pytest.approx(0.01105, abs=1e-5) == RELATIVE_ERROR


@pytest.fixture
def models(tmp_path: Path) -> Path:
    """Three models with counters, and a fourth that lacks a key."""
    for i in range(4):
        tensors = random_model(i, keys=20, shape=(64, 80))
        tensors["block.norm.num_batches_tracked"] = torch.tensor(10**6 * i)
        tensors["block.norm.running_mean"] = torch.zeros(8)
        if i == 3:
            tensors.popitem()
        write_model(tmp_path / "models" / f"m{i}.safetensors", tensors)
    return tmp_path


def test_ingest_folds_and_distances_need_no_file(models: Path) -> None:
    with open_store(models / "s.duckdb") as workspace:
        workspace.ingest(models / "models")
        workspace.compare()
        exact = workspace.matrix("block").values
        for path in (models / "models").iterdir():
            path.unlink()
        store = workspace.store
        assert save_folded_sketches(store) == 0  # nothing is left to do
        names, distances = folded_distances(store, "block")
        assert names == ["m0", "m1", "m2", "m3"]
        apart = ~np.eye(3, dtype=bool)
        off = distances[:3, :3][apart] / exact[:3, :3][apart] - 1
        # 20 keys of 4.4 % each beside the error of folding; a counter would add 10⁶
        assert (np.abs(off) < 4 * np.hypot(RELATIVE_ERROR, 0.044 / np.sqrt(20))).all()
        assert np.isnan(distances[3, :3]).all()
        assert distances[3, 3] == 0
        store.connection.execute("delete from folded_sketch where model_id = 1")
        assert folded_distances(store, "block")[0] == ["m1", "m2", "m3"]
        assert save_folded_sketches(store) == 1
        again = folded_distances(store, "block")[1]
        np.testing.assert_allclose(again[:3, :3], distances[:3, :3], rtol=1e-6)
        lengths = store.rows("folded_sketches", **OF_BLOCK)
        assert {len(fold) for _, fold in lengths} == {LENGTH}


def test_a_model_read_again_is_folded_again(models: Path) -> None:
    with open_store(models / "s.duckdb") as workspace:
        workspace.ingest(models / "models")
        write_model(models / "models" / "m0.safetensors", random_model(9, keys=20, shape=(64, 80)))
        before = workspace.store.rows("folded_sketches", **OF_BLOCK)
        workspace.ingest(models / "models", reread=True)
        after = workspace.store.rows("folded_sketches", **OF_BLOCK)
    assert len(before) == len(after) == 4
    changed = [a[0] for a, b in zip(before, after, strict=True) if a[1] != b[1]]
    assert changed == [1]
