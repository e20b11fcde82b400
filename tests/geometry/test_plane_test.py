"""The flat-plane test against published verdicts and simulations of known truth."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from threadpoolctl import threadpool_limits

from megasim.geometry.plane_test import (
    LINE,
    MORE,
    PLANE,
    TOO_FEW,
    UNRELATED,
    PlaneTest,
    distinct_models,
    plane_test,
    sign_flip_test,
)
from megasim.geometry.walk import find_walk
from megasim.matrix.distance_matrix import Floats

MODELS = 10
DRAWS = {"points": 200, "distances": 60}
WIDE = 10_000

Draw = Callable[[np.random.Generator], Floats]


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    with threadpool_limits(limits=1, user_api="blas"):
        yield


def steps(rng: np.random.Generator, n: int) -> Floats:
    return rng.normal(size=(n, WIDE)) / np.sqrt(WIDE)


def line(rng: np.random.Generator) -> Floats:
    return (np.arange(MODELS) + rng.uniform(-0.4, 0.4, MODELS))[:, None]


def plane(rng: np.random.Generator) -> Floats:
    return rng.uniform(size=(MODELS, 2))


def circle(rng: np.random.Generator) -> Floats:
    angles = 2 * np.pi * (np.arange(MODELS) + rng.uniform(-0.3, 0.3, MODELS)) / MODELS
    return np.stack([np.cos(angles), np.sin(angles)], axis=1)


def orthogonal_walk(rng: np.random.Generator) -> Floats:
    lengths = np.exp(rng.normal(0, 0.5, (MODELS, 1)))
    return np.cumsum(lengths * steps(rng, MODELS), axis=0)


def walk_with_drift(rng: np.random.Generator) -> Floats:
    return np.cumsum(steps(rng, MODELS) + 0.5 * steps(rng, 1), axis=0)


def two_clusters(rng: np.random.Generator) -> Floats:
    centres = 5 * steps(rng, 2)
    return centres[np.arange(MODELS) % 2] + steps(rng, MODELS)


def squared_distances(points: Floats) -> Floats:
    products = points @ points.T
    norms = np.diag(products)
    squared = np.maximum(norms[:, None] + norms[None, :] - 2 * products, 0.0)
    np.fill_diagonal(squared, 0.0)
    return (squared + squared.T) / 2


def noisy(points: Floats, noise: str, rng: np.random.Generator) -> Floats:
    """Return squared distances with noise of 1 %: of the points, or of each distance."""
    squared = squared_distances(points)
    if noise == "distances":
        error = np.triu(rng.normal(size=squared.shape), 1)
        return squared * np.square(1 + 0.01 * (error + error.T))
    # every model has a random change of its own, 1 % of the size of the set
    size = np.sqrt(squared.sum() / (2 * MODELS**2))
    if points.shape[1] == WIDE:
        return squared_distances(points + 0.01 * size * steps(rng, MODELS))
    return squared_distances(np.hstack([points, 0.01 * size * steps(rng, MODELS)]))


def is_line(test: PlaneTest) -> bool:
    return test.verdict == LINE


def is_plane(test: PlaneTest) -> bool:
    return test.verdict == PLANE


def is_unrelated(test: PlaneTest) -> bool:
    return test.verdict == UNRELATED and not test.direction.name.startswith("persistent")


def persists(test: PlaneTest) -> bool:
    # how flat a drifting walk is depends on the drift; that it goes somewhere does not
    return test.verdict in (LINE, PLANE, MORE) and test.direction.name == "persistent"


@pytest.mark.parametrize("noise", ["points", "distances"])
@pytest.mark.parametrize(
    ("draw", "ordered", "right"),
    [
        pytest.param(line, True, is_line, id="line"),
        pytest.param(plane, False, is_plane, id="plane"),
        pytest.param(circle, True, is_plane, id="circle"),
        pytest.param(orthogonal_walk, True, is_unrelated, id="orthogonal-walk"),
        pytest.param(walk_with_drift, True, persists, id="walk-with-drift"),
        pytest.param(two_clusters, False, is_unrelated, id="two-clusters"),
    ],
)
def test_simulation_gets_the_right_verdict(
    draw: Draw,
    ordered: bool,
    right: Callable[[PlaneTest], bool],
    noise: str,
    record_property: Callable[[str, object], None],
) -> None:
    rng = np.random.default_rng(7)
    correct = 0
    for _ in range(DRAWS[noise]):
        squared = noisy(draw(rng), noise, rng)
        walk = find_walk(squared, range(MODELS) if ordered else ())
        correct += right(plane_test(squared, walk))
    record_property("right", correct)
    assert correct >= 0.95 * DRAWS[noise]


def test_clusters_visited_to_and_fro_are_no_plane() -> None:
    # along this order the steps are long and turn back; the spanning tree says what is there
    rng = np.random.default_rng(1)
    squared = noisy(two_clusters(rng), "points", rng)
    assert plane_test(squared, find_walk(squared, range(MODELS))).verdict == UNRELATED


def test_fine_tunes_of_a_base_that_is_not_there_are_unrelated() -> None:
    squared = squared_distances(steps(np.random.default_rng(2), MODELS))
    test = plane_test(squared)
    assert test.verdict == UNRELATED
    assert test.direction.coherence < 0


def test_a_cloud_in_three_dimensions_is_more_than_a_plane() -> None:
    rng = np.random.default_rng(3)
    test = plane_test(squared_distances(rng.uniform(size=(16, 3))))
    assert test.verdict == MORE
    assert test.dimensions == 3


def test_three_models_are_too_few_and_copies_do_not_count() -> None:
    points = np.array([[0.0, 0], [1, 0], [0, 1]])
    assert plane_test(squared_distances(points)).verdict == TOO_FEW
    copies = squared_distances(points[[0, 1, 2, 2, 1]])
    assert distinct_models(copies) == 3
    assert plane_test(copies).verdict == TOO_FEW


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5])
def test_few_models_give_a_verdict_and_no_warning(n: int) -> None:
    test = plane_test(squared_distances(np.arange(n, dtype=float)[:, None]))
    assert test.verdict == (TOO_FEW if n < 4 else LINE)


def test_sign_flips_of_unrelated_steps_are_calibrated() -> None:
    # in few dimensions cosines are far from 0, and one-sided p-values are still uniform
    rng = np.random.default_rng(4)
    found = []
    for _ in range(1000):
        vectors = rng.normal(size=(9, 5)) * np.exp(rng.normal(size=(9, 1)))
        points = np.vstack([np.zeros(5), np.cumsum(vectors, axis=0)])
        direction = sign_flip_test(squared_distances(points), range(10))
        found.append(direction.coherence > 0 and direction.p_value <= 0.05)
    assert 0.03 < np.mean(found) < 0.07


def test_all_sign_patterns_are_tried_for_few_steps_and_the_same_drawn_for_many() -> None:
    few = sign_flip_test(squared_distances(np.arange(9.0)[:, None]), range(9))
    assert (few.patterns, few.p_value) == (2**7, 1 / 2**7)
    many = squared_distances(np.cumsum(np.random.default_rng(5).normal(size=(30, 50)), axis=0))
    one, other = sign_flip_test(many, range(30)), sign_flip_test(many, range(30))
    assert one.patterns == 10_000
    assert one.p_value == other.p_value


@pytest.mark.parametrize(
    ("turns", "name"),
    [
        ([0.5, 0.4, 0.3, 0.05, 0.05, 0.05], "persistent early on"),
        ([0.05, 0.05, 0.05, 0.3, 0.4, 0.5], "persistent late"),
        ([0.3] * 6, "persistent"),
        ([-0.3] * 6, "turning back"),
        ([0.0] * 6, "none"),
    ],
)
def test_direction_is_named_after_the_turns(turns: list[float], name: str) -> None:
    # each step has the given cosine with the one before it, and otherwise goes its own way
    vectors = [np.eye(8)[0]]
    for i, turn in enumerate(turns):
        vectors.append(turn * vectors[-1] + np.sqrt(1 - turn**2) * np.eye(8)[i + 1])
    points = np.vstack([np.zeros(8), np.cumsum(vectors, axis=0)])
    direction = sign_flip_test(squared_distances(points), range(8))
    np.testing.assert_allclose(direction.turn_cosines, turns, atol=1e-9)
    assert direction.name == name


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1), st.floats(1e-6, 1e6))
def test_verdict_does_not_hang_on_the_unit_or_the_order_of_models(seed: int, unit: float) -> None:
    rng = np.random.default_rng(seed)
    squared = squared_distances(np.cumsum(rng.normal(size=(7, 4)), axis=0))
    shuffled = rng.permutation(7)
    one = plane_test(squared)
    other = plane_test(unit**2 * squared[np.ix_(shuffled, shuffled)])
    assert one.verdict == other.verdict
    assert one.planarity == pytest.approx(other.planarity)
    assert one.orthogonal_walk == pytest.approx(other.orthogonal_walk)
