"""Heatmaps: every model labelled, missing pairs marked, the same bytes every time."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from megasim.matrix.distance_matrix import DistanceMatrix
from megasim.plots.figure_files import figure_bytes
from megasim.plots.heatmap import cluster_order, heatmap_figure
from megasim.plots.labels import short_label


def matrix(n: int, gaps: int = 0) -> DistanceMatrix:
    rng = np.random.default_rng(n)
    points = rng.normal(size=(n, 8))
    values = np.linalg.norm(points[:, None] - points[None], axis=-1)
    values = (values + values.T) / 2
    for _ in range(gaps):
        i, j = rng.choice(n, 2, replace=False)
        values[i, j] = values[j, i] = np.nan
    return DistanceMatrix.from_values([f"model-{i}" for i in range(n)], values)


@pytest.mark.parametrize("n", [2, 3, 5, 40])
def test_every_model_is_labelled(n: int) -> None:
    axes = heatmap_figure(matrix(n)).axes[0]
    labels = [text.get_text() for text in axes.get_yticklabels()]
    assert sorted(labels) == sorted(f"model-{i}" for i in range(n))
    assert [t.get_text() for t in axes.get_xticklabels()] == labels


def test_missing_pairs_are_marked_and_said() -> None:
    figure = heatmap_figure(matrix(8, gaps=3))
    legend = figure.axes[0].get_legend()
    assert [text.get_text() for text in legend.get_texts()] == ["not compared"]
    assert "25 of 28 pairs" in figure.texts[1].get_text()
    assert heatmap_figure(matrix(8)).axes[0].get_legend() is None


def test_estimated_pairs_are_marked_and_said() -> None:
    exact = matrix(8, gaps=3)
    known = ~np.isnan(exact.values) & ~np.eye(8, dtype=bool)
    sources = np.where(known, "estimated", "").astype("U9")
    i, j = np.argwhere(np.triu(known))[0]
    sources[i, j] = sources[j, i] = "exact"
    some = replace(exact, sources=sources, errors=np.where(known, 0.01, np.nan))
    figure = heatmap_figure(some)
    assert figure.texts[1].get_text() == "25 of 28 pairs, 24 estimated (± 0.33 %), 1 exact"
    legend = figure.axes[0].get_legend()
    assert "estimated" in [text.get_text() for text in legend.get_texts()]
    written = [text.get_text() for text in figure.axes[0].texts]
    assert sum(text.startswith("~") for text in written) == 48


def test_one_far_model_leaves_the_tree_of_the_others_room() -> None:
    points = np.array([0.0, 1.0, 2.5, 4.2, 100.0])
    far = DistanceMatrix.from_values("abcde", np.abs(points[:, None] - points[None]))
    for given, said in ((far, ["log scale"]), (far.subset("abcd"), [""])):
        axes = heatmap_figure(given).axes[-1]
        assert [axes.get_title(loc="left")] == said
    tree = heatmap_figure(far).axes[-1].collections[0].get_paths()
    joins = sorted(path.vertices[:, 0].max() for path in tree)
    assert joins[0] > 0.05 * joins[-1]


def test_near_models_stand_side_by_side() -> None:
    points = np.array([0.0, 10.0, 0.1, 10.1, 0.2, 10.2])
    found = cluster_order(
        DistanceMatrix.from_values("abcdef", np.abs(points[:, None] - points[None]))
    )
    assert {frozenset(found[:3]), frozenset(found[3:])} == {
        frozenset({0, 2, 4}),
        frozenset({1, 3, 5}),
    }


def test_the_same_bytes_every_time() -> None:
    assert figure_bytes(heatmap_figure(matrix(5)), "svg") == figure_bytes(
        heatmap_figure(matrix(5)), "svg"
    )
    assert figure_bytes(heatmap_figure(matrix(5)), "png") == figure_bytes(
        heatmap_figure(matrix(5)), "png"
    )


def test_identical_models_are_drawn() -> None:
    heatmap_figure(DistanceMatrix.from_values("abc", np.zeros((3, 3))))


def test_labels_are_safe() -> None:
    assert "$" not in short_label("$x^2$").replace(r"\$", "")
    assert "\x1b" not in short_label("\x1b[31m")
