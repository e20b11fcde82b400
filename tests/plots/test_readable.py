"""Every figure in every theme: text that can be read, of a size that can be, within the figure."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import combinations

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from megasim.errors import UsageError
from megasim.findings.details import Detail
from megasim.findings.identity import Counts
from megasim.findings.verdicts import Finding
from megasim.geometry.map import map_models
from megasim.geometry.trajectory import layer_groups, layer_trajectories
from megasim.lineage.family_tree import build_lineage
from megasim.matrix.distance_matrix import DistanceMatrix, LayerMatrices
from megasim.plots.figure_files import figure_bytes, figure_variables, inline_svg
from megasim.plots.heatmap import heatmap_figure
from megasim.plots.histogram import role_histogram
from megasim.plots.layers import layer_grid, layers_figure
from megasim.plots.lineage import lineage_figure
from megasim.plots.map import map_figure
from megasim.plots.overview import SharingGrid, sharing_figure, tier_figure
from megasim.plots.style import CONTRAST, DARK, LIGHT, PRINT, THEMES, Style, parse_size, style_of
from megasim.plots.trajectory import trajectory_figure
from megasim.words import Source, Verdict
from tests.plots.svg_reading import read_texts

Drawing = Callable[[int, Style], Figure]


def points(n: int) -> np.ndarray:
    """Return a walk that branches, with one far model."""
    rng = np.random.default_rng(n)
    places = np.zeros((n, 30))
    for i in range(1, n):
        places[i] = places[int(rng.integers(max(i - 4, 0), i))] + rng.normal(size=30)
    places[-1] += 4
    return places


def matrix(n: int) -> DistanceMatrix:
    at = points(n)
    values = np.linalg.norm(at[:, None] - at[None], axis=-1)
    names = [f"a-model_of-{i:03}" for i in range(n)]
    return DistanceMatrix.from_values(names, (values + values.T) / 2)


def layers(n: int) -> LayerMatrices:
    whole = matrix(n)
    keys = tuple(f"k{i:02}" for i in range(16))
    weights = np.random.default_rng(1).dirichlet(np.ones(16))
    return LayerMatrices(
        models=whole.models,
        component="unet",
        metric="l2",
        keys=keys,
        blocks=tuple(f"IN{i // 2:02}" for i in range(16)),
        roles=("attn1", "attn2", "ff", "norm") * 4,
        numels=np.full(16, 50),
        values=whole.values * np.sqrt(weights)[:, None, None],
    )


def draw_heatmap(n: int, style: Style) -> Figure:
    found = matrix(n)
    values = found.values.copy()
    values[0, 1] = values[1, 0] = np.nan
    sources = np.where(found.values > 0, "exact", "").astype("U9")
    sources[2, 3] = sources[3, 2] = "estimated"
    return heatmap_figure(replace(found, values=values, sources=sources), style=style)


def draw_map(n: int, style: Style) -> Figure:
    found = matrix(n)
    some = layers(n) if n < 20 else None
    return map_figure(map_models(found, layers=some, path=found.models[:4]), style)


def draw_lineage(n: int, style: Style) -> Figure:
    return lineage_figure(build_lineage(matrix(n)), style)


def draw_trajectory(n: int, style: Style) -> Figure:
    by = "block" if n > 6 else "role"
    found = layers(min(n, 9))
    parts = layer_trajectories(found, found.models, layer_groups(found, by))
    return trajectory_figure(parts, style=style)


def draw_layers(n: int, style: Style) -> Figure:
    found = layers(n)
    rows = [
        (model, key, block, role, 1, 50, value)
        for i, model in enumerate(found.models[1:], 1)
        for key, block, role, value in zip(
            found.keys, found.blocks, found.roles, found.values[:, 0, i], strict=True
        )
    ]
    frame = pd.DataFrame(rows, columns=["pair", "layer", "block", "role", "keys", "numel", "l2"])
    frame.loc[3, "l2"], frame.loc[5, "l2"] = np.nan, 0.0
    return layers_figure(layer_grid(frame), title="one", component="unet", style=style)


def draw_histogram(n: int, style: Style) -> Figure:
    found = layers(max(n, 2))
    frame = pd.DataFrame({"role": found.roles, "l2": found.values[:, 0, 1]})
    return role_histogram(frame, *found.models[:2], style=style)


def draw_sharing(n: int, style: Style) -> Figure:
    rng = np.random.default_rng(2)
    components = ("unet", "text_encoder", "vae_encoder", "vae_decoder")
    groups = rng.integers(-1, 11, size=(n, len(components)))
    return sharing_figure(SharingGrid(matrix(n).models, components, groups, groups % 3 == 2), style)


def draw_tiers(n: int, style: Style) -> Figure:
    verdicts = [v for v in Verdict if v != Verdict.ABSENT]
    pairs = list(combinations(matrix(n).models, 2))[:40]
    findings = [
        Finding(
            a,
            b,
            component,
            verdicts[(2 * i + j) % len(verdicts)],
            Counts(identical=247, changed=987),
            l2=1234.5,
            described=Detail(),
            source=Source.EXACT,
        )
        for i, (a, b) in enumerate(pairs)
        for j, component in enumerate(("unet", "text_encoder", "vae_decoder"))
    ]
    return tier_figure(findings, style=style)


DRAWINGS: dict[str, Drawing] = {
    "heatmap": draw_heatmap,
    "map": draw_map,
    "lineage": draw_lineage,
    "trajectory": draw_trajectory,
    "layers": draw_layers,
    "histogram": draw_histogram,
    "sharing": draw_sharing,
    "tiers": draw_tiers,
}


@pytest.mark.parametrize("theme", [LIGHT, DARK, PRINT], ids=lambda theme: theme.name)
@pytest.mark.parametrize("name", DRAWINGS)
def test_text_stands_out_from_what_lies_behind_it(name: str, theme: object) -> None:
    texts = read_texts(figure_bytes(DRAWINGS[name](6, Style(theme)), "svg"))
    assert len(texts) > 8
    faint = [t for t in texts if t.contrast < CONTRAST]
    assert not faint
    # on a page that shows the figure as it was designed
    assert min(t.pixels for t in texts) >= 11
    assert all(t.inside for t in texts), [t for t in texts if not t.inside]


@pytest.mark.parametrize("size", [(16.0, 9.0), (5.0, 4.0)], ids=str)
@pytest.mark.parametrize("name", DRAWINGS)
def test_the_layout_follows_the_size(name: str, size: tuple[float, float]) -> None:
    figure = DRAWINGS[name](30, Style(DARK, size=size, title="What the talk is about"))
    assert tuple(figure.get_size_inches()) == size
    texts = read_texts(figure_bytes(figure, "svg"))
    assert "What the talk is about" in [t.text for t in texts]
    assert not [t for t in texts if t.contrast < CONTRAST]
    assert all(t.inside for t in texts), [t for t in texts if not t.inside]
    for axes in figure.axes:
        left, bottom, right, top = axes.get_position().extents
        assert left >= -0.001 and bottom >= -0.001 and right <= 1.001 and top <= 1.001
    # a wide figure has larger text
    assert max(t.pixels for t in texts) > (20 if size[0] > 10 else 8)


def test_the_contrast_test_can_fail() -> None:
    figure = draw_heatmap(6, Style())
    for text in figure.axes[0].texts:
        text.set_color("white")
    assert min(t.contrast for t in read_texts(figure_bytes(figure, "svg"))) < 2


def test_a_page_has_its_own_colours_for_a_figure() -> None:
    svg = inline_svg(figure_bytes(draw_lineage(6, Style()), "svg"), "a <tree>")
    assert svg.startswith('<svg role="img" aria-label="a &lt;tree&gt;"')
    named = LIGHT.named_colours()
    assert len(named) == 15
    assert not any(colour in svg for colour in named)
    used = {name for name in named.values() if f"var(--figure-{name})" in svg}
    assert {"paper", "ink", "quiet"} <= used
    for dark in (False, True):
        assert all(f"--figure-{name}: #" in figure_variables(dark=dark) for name in named.values())
    # what can be pointed at says more
    assert "<title>a-model_of-" in svg and "fine-tune" in svg


@pytest.mark.parametrize("name", DRAWINGS)
def test_text_stands_out_on_a_dark_page_too(name: str) -> None:
    svg = inline_svg(figure_bytes(DRAWINGS[name](6, Style()), "svg"), name)
    for colour, variable in DARK.named_colours().items():
        svg = svg.replace(f"var(--figure-{variable})", colour)
    texts = read_texts(svg.encode("utf-8"))
    assert len(texts) > 8
    assert not [t for t in texts if t.contrast < CONTRAST]


def test_names_of_colours_stay_text() -> None:
    values = np.array([[0.0, 1, 2], [1, 0, 3], [2, 3, 0]])
    found = DistanceMatrix.from_values(["#1d1f23", 'x" style="fill: #ffffff', "<b>"], values)
    svg = inline_svg(figure_bytes(heatmap_figure(found), "svg"), "names")
    assert ">#1d1f23</text>" in svg
    assert 'x" style="fill: #ffffff</text>' in svg
    assert "<b>" not in svg


def test_a_font_is_used_and_an_unknown_one_refused() -> None:
    svg = figure_bytes(draw_heatmap(5, style_of(font="DejaVu Serif")), "svg").decode()
    assert svg.count("font-family: 'DejaVu Serif'") == svg.count("font-family")
    with pytest.raises(UsageError, match="no font"):
        style_of(font="No Such Font")


@pytest.mark.parametrize("text", ["", "16", "16x", "0x9", "1e9x3", "16x900", "-3x4", "NaNxNaN"])
def test_a_size_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="size"):
        parse_size(text)


def test_themes_tell_the_same_kinds_apart() -> None:
    for theme in THEMES.values():
        assert len({theme.fine_tune, theme.epoch, theme.merge, theme.derived, theme.swap}) == 5
