"""Tests of layers × pairs: what is drawn where."""

from __future__ import annotations

from io import BytesIO

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from megasim.errors import NoAnswerError
from megasim.figure_files import figure_bytes
from megasim.plots_layers import RAW, RMS, _spread, block_place, layer_grid, layers_figure


def rows(pairs: int = 2, **changes: object) -> pd.DataFrame:
    """Return rows of three layers in two blocks."""
    layers = [
        ("unet.input_blocks.10.norm.weight", "IN10", "norm", 4),
        ("unet.input_blocks.2.to_q.weight", "IN02", "attn1", 16),
        ("unet.input_blocks.2.to_q.bias", "IN02", "attn1", 4),
    ]
    frame = pd.DataFrame(
        [
            (f"pair {pair}", layer, block, role, 1, numel, 2.0 * (pair + 1))
            for pair in range(pairs)
            for layer, block, role, numel in layers
        ],
        columns=["pair", "layer", "block", "role", "keys", "numel", "l2"],
    )
    return frame.assign(**changes)


def texts(figure: Figure) -> list[str]:
    FigureCanvasAgg(figure).draw()
    found = [text.get_text() for text in figure.texts]
    for axes in figure.axes:
        found += [text.get_text() for text in axes.texts]
        found += [label.get_text() for label in axes.get_xticklabels()]
        if axes.get_legend() is not None:
            found += [text.get_text() for text in axes.get_legend().get_texts()]
    return found


def test_layers_follow_the_network_and_weights_stand_apart_from_biases() -> None:
    grid = layer_grid(rows())
    assert grid.blocks == ("IN02", "IN02", "IN10")
    assert grid.pairs == ("pair 0", "pair 1")
    # the weight of 16 elements first, then its bias of 4, then the norm of 4
    np.testing.assert_allclose(grid.values, [[0.5, 1.0], [1.0, 2.0], [1.0, 2.0]])
    assert grid.scale == RMS and grid.keys == 3


def test_distances_stay_raw_where_sizes_are_not_known() -> None:
    grid = layer_grid(rows(numel=None))
    assert grid.scale == RAW
    np.testing.assert_allclose(grid.values, [[2, 4], [2, 4], [2, 4]])


def test_what_has_no_distance_stays_missing() -> None:
    frame = rows()
    frame.loc[0, "l2"] = None
    grid = layer_grid(frame.drop(index=4))
    assert np.isnan(grid.values).tolist() == [[False, True], [False, False], [True, False]]
    assert "no distance" in texts(layers_figure(grid, title="", component="unet"))
    note = texts(layers_figure(grid, title="", component="unet"))[1]
    assert "2 of 6 cells without a distance" in note


def test_no_layers_is_said_to_be_none() -> None:
    with pytest.raises(NoAnswerError, match="no layers"):
        layer_grid(rows().iloc[:0])


def test_the_figure_says_what_it_is_of() -> None:
    said = texts(layers_figure(layer_grid(rows()), title="a against 2 others", component="unet"))
    assert "UNet: a against 2 others" in said
    assert any("√elements · 3 keys · 2 pairs" in text for text in said)
    assert {"IN02", "IN10", "pair 0", "pair 1", "attn1", "norm"} <= set(said)
    assert "unchanged" not in said and "no distance" not in said


def test_unchanged_is_white_and_missing_is_not() -> None:
    frame = rows(pairs=1)
    frame["l2"] = [0.0, 1.0, None]
    grid = layer_grid(frame)
    figure = layers_figure(grid, title="", component="unet")
    picture = np.asarray(Image.open(BytesIO(figure_bytes(figure, "png"))).convert("RGB"))
    box = figure.axes[0].get_position()
    height, width, _ = picture.shape
    x = int((box.x0 + box.width / 2) * width)

    def shade(row: int) -> np.ndarray:
        tall = box.height / len(grid.blocks)
        top = 1 - (box.y1 - (row + 0.5) * tall)
        part = picture[int(top * height) - 4 : int(top * height) + 5, x - 6 : x + 7]
        return part.reshape(-1, 3)

    by_value = {0.0: shade(2), 0.25: shade(0)}
    assert (by_value[0.0] == 255).all()
    assert (by_value[0.25] < 240).any(axis=1).all()
    missing = shade(1)
    assert len(np.unique(missing, axis=0)) > 1 and missing.mean() < 250  # hatched


def test_all_unchanged_and_all_missing_are_drawn() -> None:
    for value in (0.0, None):
        figure = layers_figure(layer_grid(rows(l2=value)), title="", component="unet")
        assert figure_bytes(figure, "png").startswith(b"\x89PNG")


def test_hostile_names_are_drawn_as_text() -> None:
    frame = rows(pair="$x^{$ \x1b[31m", block="$\\frac", role="$_")
    said = texts(layers_figure(layer_grid(frame), title="$a_{", component="$b^"))
    assert not any("\x1b" in text for text in said)


@pytest.mark.parametrize("count", [1, 17, 118, 231])
def test_many_pairs_and_layers_fit(count: int) -> None:
    frame = pd.DataFrame(
        [
            (f"m{p}", f"k{k}", f"IN{k // 50:02}", f"role {k % 12}", 1, 10, 1.0 + k * p)
            for p in range(count)
            for k in range(600)
        ],
        columns=["pair", "layer", "block", "role", "keys", "numel", "l2"],
    )
    figure = layers_figure(layer_grid(frame), title="many", component="unet")
    width, height = figure.get_size_inches()
    assert width < 32 and height < 15
    assert "other" in texts(figure)  # more roles than colours


def test_the_same_grid_gives_the_same_bytes() -> None:
    first, second = (
        figure_bytes(layers_figure(layer_grid(rows()), title="t", component="unet"), "svg")
        for _ in range(2)
    )
    assert first == second


def test_blocks_follow_the_flow_of_data() -> None:
    down = ["conv_in", "down.0", "down.3", "mid", "norm_out", "conv_out"]
    assert sorted(reversed(down), key=block_place) == down
    text = ["layer 2", "layer 10", ""]
    assert sorted(reversed(text), key=block_place) == text


@given(
    st.lists(st.floats(0, 100), min_size=1, max_size=40).map(sorted),
    st.floats(0.1, 10),
)
def test_labels_keep_their_distance_and_order(wanted: list[float], gap: float) -> None:
    places = _spread(wanted, gap, 100.0)
    room = min(gap, 100.0 / len(wanted))
    assert len(places) == len(wanted)
    assert (np.diff(places) >= room - 1e-6).all()
    # the labels as a whole stay where they were wanted
    assert np.mean(places) == pytest.approx(np.mean(wanted), abs=1e-6)
