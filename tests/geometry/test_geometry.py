"""The map: embedding, walk, completion, layers, and the published figures."""

from __future__ import annotations

import json
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from megasim.errors import NoAnswerError, UsageError
from megasim.geometry.completion import COMPLETED, complete_matrix
from megasim.geometry.embedding import (
    classical_mds,
    metric_mds,
    negative_mass,
    planarity_error,
    share,
    spectrum,
    spread,
    squared_values,
)
from megasim.geometry.layer_geometry import layer_figures
from megasim.geometry.map import MapResult, map_models
from megasim.geometry.walk import PathSquares, find_walk, orthogonal_walk, unrelated_walks
from megasim.matrix.distance_matrix import DistanceMatrix, Floats, LayerMatrices

KEYS = {
    "component", "metric", "models", "coordinates", "eigenvalues", "stress", "planarity",
    "orthogonal_walk", "spread", "negative_mass", "path", "coherence", "turn_cosines", "layers",
    "verdict", "evidence", "left_out", "quantised",
}  # fmt: skip


def matrix_of(points: Floats, names: Sequence[str] | None = None) -> DistanceMatrix:
    distances = np.sqrt(np.square(points[:, None] - points[None]).sum(axis=-1))
    labels = [f"m{i}" for i in range(len(points))] if names is None else names
    return DistanceMatrix.from_values(labels, (distances + distances.T) / 2)


def layers_of(points: Floats, roles: Sequence[str]) -> LayerMatrices:
    """Return layers from (K, N, dimensions) points."""
    distances = np.sqrt(np.square(points[:, :, None] - points[:, None]).sum(axis=-1))
    k, n = distances.shape[:2]
    return LayerMatrices(
        models=tuple(f"m{i}" for i in range(n)),
        component="unet",
        metric="l2",
        keys=tuple(f"key{i:03}" for i in range(k)),
        blocks=tuple(f"IN{i % 3:02}" for i in range(k)),
        roles=tuple(roles),
        numels=np.ones(k, dtype=np.int64),
        values=distances,
    )


def published(shared: Path, name: str) -> DistanceMatrix:
    content = json.loads((shared / "published" / "v2" / f"{name}.json").read_text())
    return DistanceMatrix.from_values(content["ml"], content["dm"]["unet"], source="imported")


ORDERS = {
    "ccbp": range(6),
    "aobp": [9, *range(9)],
    "cwd": [12, *range(12), 13],
}


@pytest.mark.parametrize(
    ("name", "models", "planarity", "on_tree", "on_path", "coherence", "verdict"),
    [
        ("ccbp", 6, 0.9260, 0.9279, 0.9287, -0.013, "no more than unrelated steps give"),
        ("aobp", 10, 0.9417, 0.9092, 0.9092, 0.164, "plane"),
        ("cwd", 14, 1.0000, 0.8820, 0.8820, 1.000, "line"),
    ],
)
def test_published_figures(
    shared: Path,
    name: str,
    models: int,
    planarity: float,
    on_tree: float,
    on_path: float,
    coherence: float,
    verdict: str,
) -> None:
    matrix = published(shared, name)
    along = map_models(matrix, path=[matrix.models[i] for i in ORDERS[name]])
    assert len(along.models) == models
    assert round(along.planarity, 4) == planarity
    assert round(along.orthogonal_walk, 4) == on_path
    assert round(along.coherence, 3) == coherence
    assert along.verdict == verdict
    tree = map_models(matrix)
    assert round(tree.planarity, 4) == planarity
    assert round(tree.orthogonal_walk, 4) == on_tree
    assert tree.verdict == verdict


def test_published_epochs_persist_early_on(shared: Path) -> None:
    matrix = published(shared, "aobp")
    result = map_models(matrix, path=[matrix.models[i] for i in ORDERS["aobp"]])
    turns = [0.231, 0.205, 0.103, 0.067, 0.060, 0.032, 0.003, -0.057]
    np.testing.assert_array_equal(result.turn_cosines.round(3), turns)
    assert result.direction == "persistent early on"
    assert any("persistent early on" in sentence for sentence in result.evidence)
    # read off the distances alone, the tree is the same chain, begun at the base
    assert map_models(matrix).path == result.path


def test_published_chain_of_five_has_too_few_steps_for_a_direction(shared: Path) -> None:
    matrix = published(shared, "ccbp")
    result = map_models(matrix, path=matrix.models)
    assert result.direction == "not testable"
    assert any("15 of 15 distances were measured by others" in s for s in result.evidence)


def test_mds_gives_the_points_back() -> None:
    points = np.random.default_rng(0).normal(size=(9, 3))
    squared = matrix_of(points).squared()
    embedding = classical_mds(squared)
    found = embedding.coordinates
    np.testing.assert_allclose(
        np.square(found[:, None] - found[None]).sum(axis=-1), squared, atol=1e-9
    )
    assert (embedding.eigenvalues[3:] == 0).all()
    assert (found[np.abs(found).argmax(axis=0), range(3)] > 0).all()
    np.testing.assert_allclose(np.square(found).sum(axis=0), embedding.eigenvalues[:3])


def test_metric_mds_does_not_raise_the_stress_of_its_start() -> None:
    squared = matrix_of(np.random.default_rng(1).normal(size=(20, 8))).squared()
    start = classical_mds(squared, 2).coordinates
    layout, stress = metric_mds(squared, start)

    def stress_of(points: Floats) -> float:
        d = np.sqrt(np.square(points[:, None] - points[None]).sum(axis=-1))
        return float(np.sqrt(np.square(np.sqrt(squared) - d).sum() / np.square(d).sum()))

    assert stress == pytest.approx(stress_of(layout), rel=1e-6)
    assert stress < stress_of(start)
    again, _ = metric_mds(squared * 1e8, start * 1e4)
    np.testing.assert_allclose(again, layout * 1e4, rtol=1e-6)


def test_negative_mass_warns_of_distances_that_no_points_have() -> None:
    broken = np.array([[0.0, 1, 9], [1, 0, 1], [9, 1, 0]])
    assert negative_mass(spectrum(broken)) > 0.1
    points = np.random.default_rng(2).normal(size=(6, 4))
    assert negative_mass(spectrum(matrix_of(points).squared())) == 0


def test_spread_counts_equal_dimensions() -> None:
    assert spread(np.array([2.0, 2.0, 2.0, 0.0])) == pytest.approx(3.0)
    assert share(np.array([2.0, 1.0, 1.0, -1.0]), 2) == pytest.approx(0.75)
    assert np.isnan(share(np.zeros(3), 2))


def test_cosine_similarity_becomes_a_distance() -> None:
    units = np.random.default_rng(3).normal(size=(5, 4))
    units /= np.linalg.norm(units, axis=1, keepdims=True)
    np.testing.assert_allclose(
        squared_values(units @ units.T, "cossim"),
        np.square(units[:, None] - units[None]).sum(axis=-1),
        atol=1e-12,
    )
    similarity = units @ units.T
    matrix = DistanceMatrix.from_values("abcde", (similarity + similarity.T) / 2, metric="cossim")
    assert map_models(matrix).negative_mass < 1e-9


def test_planarity_error_agrees_with_simulated_errors() -> None:
    rng = np.random.default_rng(4)
    exact = matrix_of(rng.normal(size=(8, 8)) * [5, 3, 2, 2, 2, 2, 2, 2])
    errors = 0.001 * exact.values
    noisy = DistanceMatrix(
        models=exact.models,
        values=exact.values,
        component="unet",
        metric="l2",
        sources=exact.sources,
        errors=errors,
        keys_compared=exact.keys_compared,
        coverage=exact.coverage,
    )
    draws = []
    for _ in range(400):
        z = np.triu(rng.normal(size=errors.shape), 1)
        draws.append(float(share(spectrum(np.square(exact.values + errors * (z + z.T))), 2)))
    assert planarity_error(noisy) == pytest.approx(np.std(draws), rel=0.2)
    assert planarity_error(exact) == 0
    assert "±" in map_models(noisy).evidence[0]


def test_orthogonal_walk_is_additive_along_the_tree() -> None:
    walk_points = np.cumsum(np.diag([0.0, 3.0, 2.0, 1.0]), axis=0)
    squared = matrix_of(walk_points).squared()
    walk = find_walk(squared)
    assert walk.order == (0, 1, 2, 3)
    np.testing.assert_allclose(orthogonal_walk(squared, walk), squared, atol=1e-12)
    np.testing.assert_allclose(unrelated_walks(squared, walk)[1], squared, atol=1e-12)


def test_own_changes_explain_a_star_whose_centre_is_missing() -> None:
    squared = matrix_of(np.diag([1.0, 2.0, 3.0, 4.0])).squared()
    plain, own = unrelated_walks(squared, find_walk(squared))
    np.testing.assert_allclose(own, squared, atol=1e-12)
    assert not np.allclose(plain, squared)


def test_models_off_the_path_hang_on_it() -> None:
    points = np.array([[0.0, 0], [10, 0], [20, 0], [10.5, 1], [19, 1]])
    walk = find_walk(matrix_of(points).squared(), [2, 1, 0])
    assert walk.order == (2, 1, 0)
    assert walk.edges.tolist() == [[2, 1], [1, 0], [1, 3], [2, 4]]
    assert walk.parents.tolist() == [1, 2, -1, 1, 2]


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(2, 12))
def test_the_tree_is_minimal_and_spans(seed: int, n: int) -> None:
    import networkx as nx

    squared = matrix_of(np.random.default_rng(seed).normal(size=(n, 3))).squared()
    walk = find_walk(squared)
    assert sorted([*walk.edges[:, 1].tolist(), walk.order[0]]) == list(range(n))
    graph = nx.from_numpy_array(squared)
    least = nx.minimum_spanning_tree(graph).size(weight="weight")
    assert squared[tuple(walk.edges.T)].sum() == pytest.approx(least)


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_path_figures_follow_from_the_steps(seed: int) -> None:
    rng = np.random.default_rng(seed)
    steps = rng.normal(size=(5, 3))
    points = np.vstack([np.zeros(3), np.cumsum(steps, axis=0)])
    path = PathSquares.along(matrix_of(points).squared(), range(6))
    lengths = np.linalg.norm(steps, axis=1)
    cosines = (steps[:-1] * steps[1:]).sum(axis=1) / (lengths[:-1] * lengths[1:])
    np.testing.assert_allclose(path.turn_cosines(), cosines, atol=1e-9)
    products = steps @ steps.T
    off = ~np.eye(5, dtype=bool)
    expected = products[off].sum() / np.outer(lengths, lengths)[off].sum()
    assert float(path.coherence()) == pytest.approx(expected, abs=1e-9)


def test_a_step_of_length_zero_has_no_turn() -> None:
    squared = matrix_of(np.array([[0.0], [1.0], [1.0], [2.0], [3.0]])).squared()
    path = PathSquares.along(squared, range(5))
    np.testing.assert_array_equal(path.turn_cosines(), [np.nan, np.nan, 1.0])
    assert float(path.coherence()) == pytest.approx(1.0)


def test_gaps_are_an_answer_only_when_asked() -> None:
    points = np.random.default_rng(5).normal(size=(7, 3))
    values = matrix_of(points).values
    values[0, 6] = values[6, 0] = np.nan
    matrix = DistanceMatrix.from_values("abcdefg", values)
    with pytest.raises(NoAnswerError, match=r"1 of 21 pairs have no l2 distance.*a × g"):
        map_models(matrix)
    result = map_models(matrix, complete=True)
    assert any("1 of 21 pairs were missing" in sentence for sentence in result.evidence)
    assert result.matrix.sources[0, 6] == COMPLETED
    squared = np.square(values)
    over_one = np.nanmin(squared[0, 1:6] + squared[1:6, 6])
    assert 0 < result.matrix.values[0, 6] ** 2 <= over_one + 1e-9


def test_completing_keeps_the_largest_group_and_identical_models() -> None:
    values = np.full((5, 5), np.nan)
    np.fill_diagonal(values, 0.0)
    for i, j, d in ((0, 1, 0.0), (1, 2, 3.0), (3, 4, 1.0)):
        values[i, j] = values[j, i] = d
    found = complete_matrix(DistanceMatrix.from_values("abcde", values))
    assert found.models == ("a", "b", "c")
    assert found.values[0, 2] == 3.0
    result = map_models(DistanceMatrix.from_values("abcde", values), complete=True)
    assert result.evidence[0].startswith("2 of 5 models have no distances that join them")


@pytest.mark.parametrize(
    ("n", "message"),
    [(0, "no model has the component"), (1, "only one model has the component")],
)
def test_too_few_models_for_a_map(n: int, message: str) -> None:
    with pytest.raises(NoAnswerError, match=message):
        map_models(DistanceMatrix.from_values("a"[:n], np.zeros((n, n))))


def test_identical_models_are_said_to_be() -> None:
    with pytest.raises(NoAnswerError, match="all 3 models are identical in unet"):
        map_models(DistanceMatrix.from_values("abc", np.zeros((3, 3))))


@pytest.mark.parametrize("n", [2, 3])
def test_two_or_three_models_have_a_map_and_prove_nothing(n: int) -> None:
    result = map_models(matrix_of(np.random.default_rng(6).normal(size=(n, 3))))
    assert result.verdict == "too few models"
    assert result.coordinates.shape == (n, 3)
    assert "prove nothing" in result.evidence[-1]
    json.dumps(result.to_json(), allow_nan=False)


@pytest.mark.parametrize(
    ("path", "message"),
    [(["m0", "x"], "no such model"), (["m0", "m1", "m0"], "twice"), (["m0"], "no steps")],
)
def test_a_path_that_is_none(path: list[str], message: str) -> None:
    matrix = matrix_of(np.random.default_rng(7).normal(size=(5, 3)))
    with pytest.raises(UsageError, match=message):
        map_models(matrix, path=path)


def walks(seed: int = 8) -> tuple[DistanceMatrix, LayerMatrices]:
    """Return 8 models whose attn1 layers drift, whose ff layers do not; 2 layers are unchanged."""
    rng = np.random.default_rng(seed)
    steps = rng.normal(size=(22, 8, 400)) / 20
    steps[:10] += 0.7 * rng.normal(size=(10, 1, 400)) / 20
    steps[20:] = 0.0
    layers = layers_of(np.cumsum(steps, axis=1), ["attn1"] * 10 + ["ff"] * 12)
    return DistanceMatrix.from_values(layers.models, layers.total()), layers


def test_layers_say_where_a_direction_persists() -> None:
    matrix, layers = walks()
    result = map_models(matrix, path=matrix.models, layers=layers)
    assert result.layers is not None
    by_role = result.layers.summary("role")
    assert by_role.loc["attn1", "persists"] == "yes"
    assert by_role.loc["ff", "persists"] == "no"
    assert by_role.loc["ff", "unchanged"] == 2
    assert by_role.loc["ff", "n"] == 10
    assert by_role.loc["attn1", "positive"] == 1.0
    sentence = next(s for s in result.evidence if s.startswith("By role"))
    assert "persists in attn1" in sentence and "not in ff" in sentence
    found = result.to_json()["layers"]
    assert found["unchanged"] == 2
    assert set(found["by_block"]) == {"IN00", "IN01", "IN02"}


def test_layers_together_give_the_figures_of_the_whole() -> None:
    matrix, layers = walks()
    result = map_models(matrix, path=matrix.models, layers=layers)
    assert result.layers is not None
    whole = result.layers.summary().iloc[0]
    assert whole["coherence"] == pytest.approx(result.coherence)
    np.testing.assert_allclose(whole["turn_cosines"], result.turn_cosines)
    one = DistanceMatrix.from_values(layers.models, layers.values[3])
    alone = map_models(one, path=one.models)
    row = result.layers.to_frame().iloc[3]
    assert row["planarity"] == pytest.approx(alone.planarity)
    assert row["orthogonal_walk"] == pytest.approx(alone.orthogonal_walk)
    assert row["coherence"] == pytest.approx(alone.coherence)
    assert row["turn at m3"] == pytest.approx(alone.turn_cosines[2])


def test_a_direction_that_one_layer_carries_is_said_to_rest_on_few() -> None:
    rng = np.random.default_rng(9)
    steps = rng.normal(size=(20, 8, 400)) / 20
    steps[4] += 3 * rng.normal(size=400) / 20
    layers = layers_of(np.cumsum(steps, axis=1), ["attn1"] * 20)
    figures = layer_figures(layers, layers.models, find_walk(np.zeros((8, 8)), range(8)))
    row = figures.summary().iloc[0]
    assert row["coherence"] > 0.05
    assert row["persists"] == "in few layers"
    assert row["leading_key"] == "key004"


def test_layers_with_gaps_are_counted_and_never_zero() -> None:
    matrix, layers = walks()
    layers.values[0, 0, 1] = layers.values[0, 1, 0] = np.nan
    figures = layer_figures(layers, matrix.models, find_walk(matrix.squared(), range(8)))
    assert figures.incomplete.tolist() == [True] + [False] * 21
    assert np.isnan(figures.to_frame().loc[0, ["planarity", "coherence"]].astype(float)).all()
    assert figures.summary("role").loc["attn1", "n"] == 9


def test_layers_must_hold_the_models() -> None:
    _, layers = walks()
    other = matrix_of(np.random.default_rng(1).normal(size=(3, 2)), ["m0", "m1", "x"])
    with pytest.raises(UsageError, match="do not include the model 'x'"):
        map_models(other, layers=layers)


def test_json_has_the_promised_keys_and_no_nan() -> None:
    matrix, layers = walks()
    for result in (map_models(matrix), map_models(matrix, path=["m3", "m1"], layers=layers)):
        found = result.to_json()
        assert set(found) == KEYS
        text = json.dumps(found, allow_nan=False)
        assert json.loads(text) == found
        assert len(found["path"]["edges"]) == 7
    assert found["path"]["models"] == ["m3", "m1"]
    assert found["coherence"] is None


def test_frame_has_a_row_for_each_model_and_its_step() -> None:
    matrix, _ = walks()
    frame = map_models(matrix, path=matrix.models).to_frame()
    assert frame.loc["m0", "step_from"] == ""
    assert frame.loc["m4", "step_from"] == "m3"
    assert frame.loc["m4", "step_length"] == pytest.approx(matrix.values[3, 4])
    assert np.isnan(frame.loc["m1", "turn"]) and np.isfinite(frame.loc["m2", "turn"])


def test_same_matrix_same_bytes() -> None:
    matrix, layers = walks()

    def text() -> str:
        return json.dumps(map_models(matrix, layers=layers).to_json())

    assert text() == text()


def test_the_unit_does_not_matter_and_nothing_warns() -> None:
    points = np.random.default_rng(10).normal(size=(9, 4))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        small, large = (map_models(matrix_of(points * unit)) for unit in (1e-7, 1e7))
    assert small.verdict == large.verdict
    np.testing.assert_allclose(small.coordinates * 1e14, large.coordinates, rtol=1e-6)
    assert small.stress == pytest.approx(large.stress, rel=1e-6)


def test_names_cannot_break_out_of_the_notebook_or_the_sentences() -> None:
    names = ["<script>", "a\x1b[31m", "c", "d", "e"]
    result = map_models(matrix_of(np.random.default_rng(11).normal(size=(5, 3)), names))
    assert isinstance(result, MapResult)
    assert "<script>" not in result._repr_html_()
    assert "\x1b" not in " ".join(result.evidence)
