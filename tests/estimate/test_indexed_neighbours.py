"""Candidates by an index of faiss: as many as asked for, the same each time, and the true ones."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest

import megasim
from megasim.estimate import indexed_neighbours, nearest
from megasim.estimate.indexed_neighbours import indexed_candidates
from megasim.estimate.nearest import nearest_pairs
from tests.estimate.test_neighbours import all_distances
from tests.models import nudged, random_model, write_model

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("faiss") is None, reason="needs the extra faiss"
)


def families(rng: np.random.Generator, count: int, of: int) -> np.ndarray:
    """Vectors about so many bases, far from the origin."""
    bases = 100 + 10 * rng.standard_normal((of, 64))
    return (bases[rng.integers(0, of, count)] + rng.standard_normal((count, 64))).astype(np.float32)


@pytest.mark.parametrize(("count", "of", "k"), [(2, 1, 1), (50, 50, 49), (3000, 20, 40)])
def test_candidates_are_others_and_the_near_ones(count: int, of: int, k: int) -> None:
    vectors = families(np.random.default_rng(count), count, of)
    found = indexed_candidates(vectors.copy(), k)
    assert found.shape == (count, k)
    assert (found >= 0).all()
    assert (found != np.arange(count)[:, None]).all()
    assert all(len(set(row)) == k for row in found.tolist())
    np.testing.assert_array_equal(indexed_candidates(vectors.copy(), k), found)
    true = all_distances(vectors)
    ten = min(10, k)
    reach = np.sort(true, axis=1)[:, ten - 1 : ten]
    near = np.sort(np.take_along_axis(true, found, axis=1), axis=1)[:, :ten]
    assert (near <= reach * (1 + 1e-3)).mean() >= 0.98


def test_equal_vectors_find_each_other_and_not_themselves() -> None:
    vectors = np.repeat(families(np.random.default_rng(7), 40, 4), 30, axis=0)
    found = indexed_candidates(vectors.copy(), 5)
    assert (found // 30 == np.arange(len(vectors))[:, None] // 30).all()
    assert (found != np.arange(len(vectors))[:, None]).all()


def test_models_of_another_scale_hide_nothing() -> None:
    rng = np.random.default_rng(3)
    bases = np.repeat(rng.standard_normal((100, 64)), 10, axis=0)
    vectors = (bases + 0.05 * rng.standard_normal((1000, 64))).astype(np.float32)
    vectors[-10:] *= 1e6  # beyond what half precision holds
    found = indexed_candidates(vectors.copy(), 9)
    assert (found // 10 == np.arange(1000)[:, None] // 10).all()


def test_pairs_are_those_of_the_products(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base = random_model(0, keys=3, shape=(40, 50))
    for i in range(12):
        model = nudged(base, i, *base) if i % 4 else random_model(i, keys=3, shape=(40, 50))
        write_model(tmp_path / f"m{i}.safetensors", model)
    with megasim.open_store(tmp_path / "s.duckdb") as store:
        store.ingest(tmp_path)
        monkeypatch.setattr(nearest, "FEW_MODELS", 2)
        expected = nearest_pairs(store.store, "block", 2)
        asked: list[int] = []
        original = indexed_candidates

        def spied(vectors: np.ndarray, k: int, **kwargs: object) -> np.ndarray:
            asked.append(len(vectors))
            return original(vectors, k)

        monkeypatch.setattr(nearest, "indexed_candidates", spied)
        monkeypatch.setattr(indexed_neighbours, "FEW_VECTORS", 2)
        assert nearest_pairs(store.store, "block", 2) == expected
        assert asked == [12]
