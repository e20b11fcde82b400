"""The search for parents: what many sets at once give is what each gives by itself."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from megasim.lineage import parent_search
from megasim.lineage.inner_products import Floats
from megasim.lineage.parent_search import CandidateSets, extend, search_parents
from megasim.lineage.recipe_search import fit_weights, natural
from megasim.lineage.settings import SETTINGS


def distances(seed: int, models: int, blocks: int) -> Floats:
    """Return (B, N, N) squared distances of random models, the first a merge of two others."""
    rng = np.random.default_rng(seed)
    points = rng.normal(size=(blocks, models, 20))
    points[:, 0] = 0.3 * points[:, 1] + 0.7 * points[:, 2] + 0.1 * rng.normal(size=(blocks, 20))
    return np.asarray(np.square(points[:, :, None] - points[:, None]).sum(axis=3))


def search(squared: Floats) -> list[CandidateSets]:
    return list(search_parents(squared, 0, range(1, squared.shape[1])))


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**31), st.integers(4, 8), st.integers(1, 3), st.integers(1, 3))
def test_a_further_parent_leaves_and_weighs_what_a_fit_of_the_set_says(
    seed: int, models: int, blocks: int, size: int
) -> None:
    squared = distances(seed, models, blocks)
    bases = np.array(list(combinations(range(1, models), size)))
    residual, weights = extend(squared, bases)
    for base, left, weighed in zip(bases.tolist(), residual, weights, strict=True):
        for further in range(models):
            if further in (0, *base):
                assert left[further] == np.inf
                continue
            fit = fit_weights(squared, 0, [*base, further])
            whole = fit_weights(squared.sum(axis=0, keepdims=True), 0, [*base, further])
            assert left[further] == pytest.approx(fit.residual.sum(), rel=1e-6, abs=1e-9)
            assert weighed[further] == pytest.approx(whole.weights[0], rel=1e-6, abs=1e-9)


def test_all_natural_pairs_are_found_and_the_best_sets_of_three() -> None:
    squared = distances(3, 9, 2)
    total = squared.sum(axis=0, keepdims=True)
    pairs, threes, *_ = search(squared)
    for size, found in ((2, pairs), (3, threes)):
        left = {}
        for parents in combinations(range(1, 9), size):
            weights = fit_weights(total, 0, parents).weights[0]
            if natural(weights) and np.abs(weights).min() > SETTINGS.no_share:
                left[parents] = float(fit_weights(squared, 0, parents).residual.sum())
        known = [found[i] for i in range(len(found))]
        assert {c.parents for c in known} <= left.keys()
        assert [c.residual for c in known] == sorted(c.residual for c in known)
        assert known[0].parents == min(left, key=lambda parents: left[parents])
        if size == 2:
            assert {c.parents for c in known} == left.keys()
    assert [c.parents for c in pairs.up_to(pairs[1].residual)] == [
        pairs[0].parents, pairs[1].parents
    ]  # fmt: skip
    assert pairs[0].parents == (1, 2)
    assert pairs[0].weights == pytest.approx((0.3, 0.7), abs=0.1)


def test_how_many_sets_are_extended_at_once_changes_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    squared = distances(5, 12, 3)
    together = search(squared)
    monkeypatch.setattr(parent_search, "_AT_ONCE", 1)
    one_by_one = search(squared)
    assert len(together) == len(one_by_one) == SETTINGS.most_parents - 1
    for a, b in zip(together, one_by_one, strict=True):
        assert np.array_equal(a.parents, b.parents)
        assert np.array_equal(a.residual, b.residual)
        assert np.array_equal(a.weights, b.weights)


def test_a_parent_no_farther_from_the_plane_of_a_set_than_noise_adds_nothing_to_it() -> None:
    squared = distances(7, 6, 1)
    row = np.sort(squared[0, 1, 2:])
    between = (row[1] + row[2]) / 2
    residual, _ = extend(squared, np.array([[1]]), np.full((1, 6), between))
    assert np.isinf(residual[0, :2]).all()
    assert np.array_equal(np.isinf(residual[0, 2:]), squared[0, 1, 2:] <= between)
