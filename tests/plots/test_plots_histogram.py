"""Histograms of layer distances: what they count, and that they can be drawn."""

from __future__ import annotations

import math

import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.container import BarContainer
from matplotlib.figure import Figure

from megasim.errors import NoAnswerError
from megasim.plots.figure_files import figure_bytes
from megasim.plots.histogram import component_histogram, role_histogram


def frame(**columns: list[object]) -> pd.DataFrame:
    return pd.DataFrame(columns)


def drawn(axes: Axes) -> int:
    """How many layers the bars of a panel stand for."""
    bars = [it for it in axes.containers if isinstance(it, BarContainer)]
    return int(sum(patch.get_height() for bar in bars for patch in bar.patches))


def titles(figure: Figure, side: str) -> list[str]:
    return [axes.get_title(loc=side) for axes in figure.axes]


def test_roles_have_three_panels_with_their_norms() -> None:
    layers = frame(
        role=["attn1", "attn1", "attn2", "ff", None, "conv"],
        l2=[3.0, 4.0, 1.0, 2.0, 0.0, math.nan],
    )
    figure = role_histogram(layers, "ac", "mk0")
    assert titles(figure, "left") == [
        "attn1 (self-attention): L2 = 5.0000",
        "attn2 (cross-attention): L2 = 1.0000",
        "others (neither attn1 nor attn2): L2 = 2.0000",
    ]
    assert titles(figure, "right") == [
        "2 layers",
        "1 layer",
        "2 layers, 1 of them at 0; 1 more without a distance",
    ]
    assert [drawn(axes) for axes in figure.axes] == [2, 1, 2]
    assert {axes.get_yscale() for axes in figure.axes} == {"log"}
    assert [text.get_text() for text in figure.texts] == [
        "ac and mk0",
        "UNet: how far its layers are apart",
    ]


def test_panels_without_distances_say_so() -> None:
    layers = frame(role=["attn1", "attn1", "attn2"], l2=[0.0, 0.0, math.nan])
    figure = role_histogram(layers, "a", "b")
    words = [axes.texts[0].get_text() for axes in figure.axes]
    assert words == ["every layer is at 0", "no layer was compared", "no layer was compared"]
    assert figure_bytes(figure, "png")


def test_components_stand_in_the_order_people_list_them() -> None:
    names = ["zeta", "vae_decoder", "unet", "text_encoder", "unet"]
    figure = component_histogram(frame(component=names, l2=[1.0, 2, 3, 4, 4]), "a", "b")
    assert [title.split(":")[0] for title in titles(figure, "left")] == [
        "UNet",
        "text encoder",
        "VAE decoder",
        "zeta",
    ]
    assert titles(figure, "left")[0] == "UNet: L2 = 5.0000"


def test_no_layers_are_no_figure() -> None:
    with pytest.raises(NoAnswerError):
        component_histogram(frame(component=[], l2=[]), "a", "b")


@pytest.mark.parametrize("largest", [5e-324, 1e-40, 1.0, 1e150])
def test_any_size_can_be_drawn(largest: float) -> None:
    layers = frame(role=["attn1", "attn2", "ff"], l2=[largest, largest / 2, 0.0])
    assert figure_bytes(role_histogram(layers, "a$b", "c\x1b" * 50), "png")


def test_the_same_layers_give_the_same_picture() -> None:
    layers = frame(role=["attn1", "attn2", "ff"], l2=[1.0, 2.0, 3.0])
    pictures = {figure_bytes(role_histogram(layers, "a", "b"), "png") for _ in range(2)}
    assert len(pictures) == 1


def test_nulls_of_a_database_column_are_counted() -> None:
    layers = pd.DataFrame(
        {"role": ["attn1", "attn1"], "l2": pd.array([None, 2.0], dtype="Float64")}
    )
    figure = role_histogram(layers, "a", "b")
    assert titles(figure, "right")[0] == "1 layer; 1 more without a distance"
