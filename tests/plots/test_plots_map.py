"""The figures of maps and trajectories: what they say, and that labels keep off each other."""

from __future__ import annotations

import io
from itertools import combinations, pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch
from matplotlib.text import Text

from megasim.errors import NoAnswerError
from megasim.geometry.map import MapResult, map_models
from megasim.geometry.trajectory import Trajectory, layer_groups, layer_trajectories, trajectory
from megasim.matrix.distance_matrix import DistanceMatrix, Floats, LayerMatrices
from megasim.plots.label_placement import place_labels
from megasim.plots.labels import drawable, figure_names, minus_signs
from megasim.plots.map import map_figure
from megasim.plots.trajectory import trajectory_figure


def distances(points: Floats) -> Floats:
    squared = np.square(points[..., :, None, :] - points[..., None, :, :]).sum(axis=-1)
    return np.sqrt((squared + np.swapaxes(squared, -1, -2)) / 2)


def tree_of_fine_tunes(n: int, seed: int = 0) -> DistanceMatrix:
    """Return models that each start from an earlier one, by steps of very unequal length."""
    rng = np.random.default_rng(seed)
    points = np.zeros((n, 80))
    for i in range(1, n):
        parent = 0 if rng.random() < 0.3 else int(rng.integers(0, i))
        points[i] = points[parent] + rng.normal(size=80) * np.exp(rng.normal())
    return DistanceMatrix.from_values([f"model-{i}_v{i % 7}" for i in range(n)], distances(points))


def texts(figure: Figure) -> list[str]:
    return [t.get_text() for t in figure.findobj(Text) if t.get_text()]


def png(figure: Figure) -> bytes:
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=60, metadata={"Software": None})
    return stream.getvalue()


def walk_map() -> MapResult:
    rng = np.random.default_rng(1)
    points = np.cumsum(rng.normal(size=(6, 300)), axis=0)
    matrix = DistanceMatrix.from_values([f"epoch{i}" for i in range(6)], distances(points))
    return map_models(matrix, path=matrix.models)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 40), st.integers(0, 2**32 - 1))
def test_placed_labels_touch_no_label_no_point_and_no_edge(n: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    points = rng.uniform(30, 370, size=(n, 2))
    sizes = np.stack([rng.uniform(10, 60, n), np.full(n, 8.0)], axis=1)
    places = place_labels(points, sizes, (0, 0, 400, 400), marker=3.0)
    assert all(place is not None for place in places)
    centres = np.array([(place.x, place.y) for place in places if place is not None])
    corners = np.hstack([centres - sizes / 2, centres + sizes / 2])
    assert corners.min() >= 0 and corners.max() <= 400
    boxes = corners.tolist()
    for a, b in combinations(boxes, 2):
        assert a[2] <= b[0] or b[2] <= a[0] or a[3] <= b[1] or b[3] <= a[1]
    for x, y in points.tolist():
        assert not any(b[0] < x < b[2] and b[1] < y < b[3] for b in boxes)


@settings(max_examples=40, deadline=None)
@given(st.integers(2, 60), st.integers(0, 2**32 - 1))
def test_no_leader_runs_through_a_label_where_labels_may_be_left_out(n: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    points = rng.uniform(30, 370, size=(n, 2)) * rng.choice([1.0, 0.2])
    sizes = np.stack([rng.uniform(10, 60, n), np.full(n, 8.0)], axis=1)
    placed = place_labels(points, sizes, (0, 0, 400, 400), near=8.0, untangled=True)
    found = [(i, place) for i, place in enumerate(placed) if place is not None]
    assert found
    for i, place in found:
        if place.distance <= 8.0:
            continue
        steps = np.linspace(points[i], (place.x, place.y), 200)
        for j, other in found:
            half = sizes[j] / 2
            inside = (np.abs(steps - (other.x, other.y)) < half).all(axis=1)
            assert i == j or not inside.any()


def test_a_label_without_room_is_none_and_taken_places_are_kept_off() -> None:
    point, size = np.array([[5.0, 5.0]]), np.array([[20.0, 8.0]])
    assert place_labels(point, size, (0, 0, 10, 10)) == [None]
    free = place_labels(point, size, (-50, -50, 60, 60))[0]
    kept_off = place_labels(point, size, (-50, -50, 60, 60), taken=[(6.0, -50.0, 60.0, 60.0)])[0]
    assert free is not None and kept_off is not None
    assert free.x > 5.0 and kept_off.x + 10 <= 6.0


@pytest.mark.parametrize("n", [5, 17, 118, 232])
def test_all_models_are_labelled_and_no_two_labels_collide(n: int) -> None:
    result = map_models(tree_of_fine_tunes(n, seed=n))
    figure = map_figure(result)
    assert isinstance(figure.canvas, FigureCanvasAgg)
    renderer = figure.canvas.get_renderer()
    names = set(figure_names(result.models)) if n <= 40 else {str(i) for i in range(1, n + 1)}
    labelled: list[str] = []
    for axes in figure.axes:
        own = [t for t in axes.texts if t.get_text() in names]
        labelled += [t.get_text() for t in own]
        boxes = [t.get_window_extent(renderer).extents for t in own]
        frame = axes.get_window_extent(renderer).extents
        for box in boxes:
            assert (box[:2] >= frame[:2] - 1).all() and (box[2:] <= frame[2:] + 1).all()
        for a, b in combinations(boxes, 2):
            width = min(a[2], b[2]) - max(a[0], b[0])
            height = min(a[3], b[3]) - max(a[1], b[1])
            assert width <= 1.5 or height <= 1.5
    assert sorted(labelled) == sorted(names)
    if n > 40:
        listed = "\n".join(texts(figure)).splitlines()
        numbered = {line.split("  ")[0].strip("\u2007"): line.split("  ")[-1] for line in listed}
        for i, name in enumerate(figure_names(result.models), start=1):
            assert numbered[str(i)] == name


def test_more_models_than_can_be_read_are_labelled_along_the_path() -> None:
    result = map_models(tree_of_fine_tunes(310))
    figure = map_figure(result)
    labelled = {t.get_text() for axes in figure.axes for t in axes.texts}
    assert labelled == {str(i + 1) for i in result.walk.order}


def test_the_figure_says_what_was_found_and_over_what() -> None:
    result = walk_map()
    figure = map_figure(result)
    said = " ".join(texts(figure))
    assert "UNet: where 6 models lie" in said
    assert "15 of 15 pairs" in said and "L2 distance" in said
    assert f"Verdict: {result.verdict}." in said
    assert "5 steps are too few" in said
    assert f"metric MDS, stress {result.stress:.3f}" in said
    arrows = figure.axes[0].findobj(FancyArrowPatch)
    assert len(arrows) == 5
    for (length, turn), model in zip(
        [(result.matrix.values[i, i + 1], result.turns[i]) for i in range(5)],
        result.models,
        strict=False,
    ):
        assert f"{length:.4g}" in texts(figure)
        assert np.isnan(turn) == (model == "epoch0")


def test_one_unit_is_as_long_in_x_as_in_y() -> None:
    figure = map_figure(walk_map())
    axes = figure.axes[0]
    width, height = axes.get_window_extent().size
    (left, right), (bottom, top) = axes.get_xlim(), axes.get_ylim()
    assert (right - left) / width == pytest.approx((top - bottom) / height)


def test_a_line_has_no_colours_for_a_third_axis() -> None:
    points = np.arange(6.0)[:, None]
    flat = map_figure(map_models(DistanceMatrix.from_values("abcdef", distances(points))))
    assert not any("axis 3" in text for text in texts(flat))
    assert any("axis 3" in text for text in texts(map_figure(walk_map())))


def test_layers_are_drawn_when_there_are_any() -> None:
    rng = np.random.default_rng(2)
    points = np.cumsum(rng.normal(size=(20, 6, 50)), axis=1)
    layers = LayerMatrices(
        tuple(f"e{i}" for i in range(6)),
        "unet",
        "l2",
        tuple(f"k{i:02}" for i in range(20)),
        tuple(["IN01", "M00"] * 10),
        tuple(["attn1"] * 5 + ["ff"] * 15),
        np.ones(20, dtype=np.int64),
        distances(points),
    )
    matrix = DistanceMatrix.from_values(layers.models, layers.total())
    said = texts(map_figure(map_models(matrix, path=matrix.models, layers=layers)))
    assert {"attn1 (5)", "ff (15)", "IN01 (10)", "M00 (10)"} <= set(said)


def test_same_result_same_picture() -> None:
    result = map_models(tree_of_fine_tunes(45))
    assert png(map_figure(result)) == png(map_figure(result))


@pytest.mark.filterwarnings("error")
def test_names_of_any_kind_are_drawn_without_a_warning() -> None:
    names = ["東京", "大阪", "$x^2$", "a\nb", "m" * 300, "\x1b[31m", "", "🎨", "é_2", "%s"]
    points = np.random.default_rng(3).normal(size=(10, 4))
    result = map_models(DistanceMatrix.from_values(names, distances(points)))
    assert png(map_figure(result))
    assert len(set(figure_names(names))) == len(names)
    assert drawable("é東") == "é□"


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("n", [2, 3, 4])
def test_few_models_have_a_figure(n: int) -> None:
    assert png(map_figure(map_models(tree_of_fine_tunes(n))))


@pytest.mark.filterwarnings("error")
def test_copies_of_a_model_share_a_point_and_not_a_label() -> None:
    points = np.array([[0.0, 0], [0, 0], [0, 0], [4, 0], [0, 3], [2, 2]])
    figure = map_figure(map_models(DistanceMatrix.from_values("abcdef", distances(points))))
    assert {"a", "b", "c"} <= {t.get_text() for t in figure.axes[0].texts}
    assert png(figure)


def chain(groups: int, n: int = 5) -> tuple[Trajectory, ...]:
    rng = np.random.default_rng(4)
    points = np.cumsum(rng.normal(size=(2 * groups, n, 30)), axis=1)
    layers = LayerMatrices(
        tuple(f"epoch{i}" for i in range(n)),
        "unet",
        "l2",
        tuple(f"k{i:02}" for i in range(2 * groups)),
        tuple(f"IN{i // 2:02}" for i in range(2 * groups)),
        ("",) * 2 * groups,
        np.ones(2 * groups, dtype=np.int64),
        distances(points),
    )
    return layer_trajectories(layers, layers.models, layer_groups(layers, "block"))


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("groups", [1, 3, 12])
@pytest.mark.parametrize("n", [2, 3, 9])
def test_trajectories_are_drawn_for_few_and_many_parts(groups: int, n: int) -> None:
    found = chain(groups, n)
    figure = trajectory_figure(found, title="UNet")
    said = texts(figure)
    assert "UNet" in said and "coherence" in said
    assert any("L2 distance" in text for text in said)
    if n > 2:
        assert minus_signs(f"{found[0].coherence:.3f}") in said
    assert png(figure) == png(trajectory_figure(found, title="UNet"))


@pytest.mark.filterwarnings("error")
def test_what_was_not_compared_is_said_and_not_drawn() -> None:
    values = np.full((4, 4), np.nan)
    np.fill_diagonal(values, 0.0)
    for a, b in [*pairwise(range(4)), (0, 3)]:
        values[a, b] = values[b, a] = 2.0
    figure = trajectory_figure([trajectory(DistanceMatrix.from_values("abcd", values), "abcd")])
    said = " ".join(texts(figure))
    assert "pairs that were not compared are missing" in said
    assert "no pair two steps" in said
    drawn = np.asarray(figure.axes[0].lines[0].get_ydata(), dtype=float)
    np.testing.assert_array_equal(np.isnan(drawn), [False, False, True, False])
    assert png(figure)


def test_a_trajectory_figure_shows_one_chain() -> None:
    with pytest.raises(NoAnswerError, match="no trajectory"):
        trajectory_figure([])
    with pytest.raises(ValueError, match="one chain"):
        trajectory_figure([*chain(1, 4), *chain(1, 5)])
