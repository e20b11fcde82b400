"""The nearest of many: by blocks as by all pairs, and through folds as without them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

import megasim
from megasim import cli
from megasim.estimate import nearest, neighbours
from megasim.estimate.nearest import nearest_pairs
from megasim.estimate.neighbours import nearest_vectors
from megasim.fingerprint.folded import LENGTH
from tests.models import nudged, random_model, write_model

quick = settings(max_examples=40, deadline=None, derandomize=True)


def all_distances(vectors: np.ndarray) -> np.ndarray:
    wide = vectors.astype(np.float64)
    apart = np.array([np.linalg.norm(wide - x, axis=1) for x in wide])
    np.fill_diagonal(apart, np.inf)
    return apart


@quick
@given(
    count=st.integers(1, 60),
    k=st.integers(1, 9),
    block=st.integers(1, 70),
    shift=st.sampled_from([0.0, 1e3]),
    seed=st.integers(0, 2**32 - 1),
)
def test_blocks_find_what_all_pairs_say(
    count: int, k: int, block: int, shift: float, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    vectors = (rng.standard_normal((count, 16)) + shift).astype(np.float32)
    expected = np.sort(all_distances(vectors), axis=1)[:, :k]
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(neighbours, "_BLOCK", block)
        found = nearest_vectors(vectors.copy(), k)
    there = min(k, count - 1)
    np.testing.assert_allclose(found.distances[:, :there], expected[:, :there], rtol=1e-3)
    assert (found.places[:, there:] == -1).all()
    assert np.isinf(found.distances[:, there:]).all()
    rows = np.arange(count)[:, None]
    assert (found.places[:, :there] != rows).all()


def family(rng: np.random.Generator, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Folds of models that each took a step from an earlier one, and their true distances."""
    parents = [int(rng.integers(0, i)) for i in range(1, count)]
    steps = np.exp(rng.normal(0, 0.6, count))
    folds = np.zeros((count, LENGTH), dtype=np.float32)
    true = np.zeros((count, count))
    for i, parent in enumerate(parents, 1):
        # the fold of a step in a direction of its own: a distance has the error of theory
        direction = rng.standard_normal(LENGTH).astype(np.float32) / np.sqrt(LENGTH)
        folds[i] = folds[parent] + steps[i] * direction
        true[i, :i] = true[:i, i] = true[parent, :i] + steps[i] ** 2
    np.fill_diagonal(true, np.inf)
    return folds, true


def test_folds_keep_the_true_ten_nearest_among_their_candidates() -> None:
    folds, true = family(np.random.default_rng(3), 1500)
    found = nearest_vectors(folds, nearest._candidates(10)).places
    ten = np.argsort(true, axis=1, kind="stable")[:, :10]
    # those that are as near as the tenth are as good
    reach = np.take_along_axis(true, ten[:, -1:], axis=1) * (1 + 1e-9)
    near = np.sort(np.take_along_axis(true, found, axis=1), axis=1)[:, :10]
    assert (near <= reach).mean() >= 0.98


@pytest.fixture(scope="module")
def store_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of a family of models, and two that lack a key."""
    folder = tmp_path_factory.mktemp("many")
    models = [random_model(0, keys=5, shape=(48, 64))]
    rng = np.random.default_rng(1)
    for i in range(1, 14):
        parent = models[int(rng.integers(0, i))]
        models.append(nudged(parent, i, by=float(rng.uniform(0.02, 0.2))))
    for i, model in enumerate(models):
        if i in (5, 9):
            model.popitem()
        write_model(folder / "models" / f"m{i:02}.safetensors", model)
    with megasim.open_store(folder / "s.duckdb") as store:
        store.ingest(folder / "models")
    return folder / "s.duckdb"


def test_through_folds_the_nearest_are_those_of_all_pairs(
    store_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with megasim.open_store(store_path) as store:
        whole = ("m05", "m09")
        names = [name for name in store.store.model_ids() if name not in whole]
        expected = {name: store.nearest(name, ["block"], k=3) for name in names}
        pairs = set(nearest_pairs(store.store, "block", 3))
        monkeypatch.setattr(nearest, "FEW_MODELS", 3)
        ids = store.store.model_ids()
        apart = {ids[name] for name in whole}
        for name in names:
            found = store.nearest(name, ["block"], k=3)
            alike = expected[name][~expected[name]["model"].isin(whole)]
            # the same numbers for the same models; none of other keys is looked at
            both = found.merge(alike, on="model")
            assert len(both) == len(alike)
            assert (both["l2_x"] == both["l2_y"]).all()
            assert not set(found["model"]) & set(whole)
            assert found.attrs == {"passed_over": {"block": 2}}
        shown = CliRunner().invoke(
            cli.megasim, ["--db", str(store_path), "nearest", "m01", "-c", "block"]
        )
        assert "not looked at: 2 models that hold block" in shown.stderr
        through = set(nearest_pairs(store.store, "block", 3))
        assert {pair for pair in pairs if not apart & set(pair)} <= through
        assert (min(apart), max(apart)) in through  # they hold the same keys, in a set of two
        assert store.nearest("m01", ["block"], k=3)["source"].eq("estimated").all()


def test_a_group_of_components_is_the_sum_of_its_folds(
    store_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nearest, "FEW_MODELS", 3)
    with megasim.open_store(store_path) as store:
        assert nearest_pairs(store.store, "all", 2) == nearest_pairs(store.store, "block", 2)
        result = store.compare(nearest=2)
        assert result.pairs_done == len(nearest_pairs(store.store, "all", 2))
