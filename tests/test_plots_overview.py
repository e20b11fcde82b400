"""Tests of the overviews: who shares what, and what is unchanged."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from megasim import identity
from megasim.component_groups import Equalities
from megasim.errors import NoAnswerError
from megasim.figure_files import figure_bytes
from megasim.findings import Finding, Teller, pair_findings
from megasim.legacy import import_path
from megasim.plots_overview import (
    ABSENT,
    OWN,
    SharingGrid,
    sharing_figure,
    sharing_grid,
    tier_figure,
)
from megasim.store import Store
from tests.simulated_store import simulate_store


def finding(a: str, b: str, component: str, verdict: str, **changes: object) -> Finding:
    numbers = {"keys_compared": 10, "keys_changed": 0, "missing_a": 0, "missing_b": 0}
    numbers |= {"shape_mismatch": 0, "non_finite": 0, "l2": 0.0}
    return Finding(a, b, component, verdict, detail="", source="exact", **(numbers | changes))  # type: ignore[arg-type]


def cells(figure: Figure) -> dict[tuple[int, int], tuple[tuple[float, ...], str]]:
    """Return (row, column) → colour and text of each cell."""
    (axes,) = figure.axes
    said = {
        (int(text.get_position()[1]), int(text.get_position()[0])): text.get_text()
        for text in axes.texts
    }
    return {
        (round(p.get_y()), int(p.get_x())): (p.get_facecolor(), said.get(
            (round(p.get_y()), int(p.get_x())), ""))
        for p in axes.patches
        if isinstance(p, Rectangle)
    }  # fmt: skip


def labels(figure: Figure) -> tuple[list[str], list[str]]:
    (axes,) = figure.axes
    FigureCanvasAgg(figure).draw()
    return (
        [label.get_text() for label in axes.get_yticklabels()],
        [label.get_text() for label in axes.get_xticklabels()],
    )


def test_pairs_of_one_pattern_stand_together() -> None:
    findings = [
        finding("a", "b", "unet", identity.CHANGED, keys_changed=10, l2=12.34),
        finding("a", "b", "vae_decoder", identity.IDENTICAL),
        finding("c", "d", "unet", identity.IDENTICAL),
        finding("c", "d", "vae_decoder", identity.PARTLY_CHANGED, keys_changed=3, l2=1.0),
        finding("e", "f", "unet", identity.CHANGED, keys_changed=10, l2=2000.0),
        finding("e", "f", "vae_decoder", identity.IDENTICAL),
    ]
    figure = tier_figure(findings)
    assert labels(figure) == (["c – d", "a – b", "e – f"], ["UNet", "VAE decoder"])
    drawn = cells(figure)
    assert drawn[0, 0][1] == "10 keys" and drawn[0, 1][1] == "3 of 10"
    assert drawn[1, 0][1] == "L2 12.3" and drawn[2, 0][1] == "L2 2,000"
    assert drawn[1, 0][0] == drawn[2, 0][0] != drawn[0, 0][0]


def test_one_model_against_others_names_the_others() -> None:
    findings = [finding("base", x, "unet", identity.IDENTICAL) for x in ("m10", "m9")]
    assert labels(tier_figure(findings))[0] == ["m9", "m10"]


def test_every_verdict_has_a_look_of_its_own() -> None:
    findings = [
        finding(f"a{i}", f"b{i}", "unet", verdict, keys_changed=1, l2=1.0)
        for i, verdict in enumerate(identity.VERDICTS)
    ]
    findings.append(finding("x", "y", "vae", identity.IDENTICAL))
    figure = tier_figure(findings)
    drawn = cells(figure)
    column = [drawn[row, 0][0] for row in range(len(identity.VERDICTS))]
    # absent on either side looks alike, and absent in both as what was not compared
    assert len(set(column)) == len(identity.VERDICTS) - 1
    (legend,) = figure.legends
    assert "not compared, or in neither" in [t.get_text() for t in legend.get_texts()]


def test_an_unproven_zero_is_marked() -> None:
    published = finding("a", "b", "unet", identity.IDENTICAL, keys_compared=None)
    figure = tier_figure([published])
    assert cells(figure)[0, 0][1] == "0 ?"
    assert any("a published 0" in text.get_text() for text in figure.texts)


def test_no_findings_is_said_to_be_none() -> None:
    with pytest.raises(NoAnswerError, match="no pair"):
        tier_figure([])


def test_groups_are_lettered_by_size() -> None:
    groups = np.array([[1, 2], [1, 2], [1, OWN], [2, ABSENT], [2, 30]])
    rounded = np.zeros(groups.shape, dtype=bool)
    rounded[1, 0] = True
    grid = SharingGrid(("a", "b", "c", "d", "e"), ("unet", "<b>"), groups, rounded)
    drawn = cells(sharing_figure(grid))
    assert [drawn[row, 0][1] for row in range(5)] == ["A", "A≈", "A", "B", "B"]
    assert [drawn[row, 1][1] for row in range(5)] == ["B", "B", "·", "", "AD"]
    assert drawn[0, 0][0] != drawn[3, 0][0]


def test_simulated_models_share_what_they_were_given(tmp_path: Path) -> None:
    shapes = {
        "model.diffusion_model.out.2.weight": (4, 32, 3, 3),
        "first_stage_model.encoder.conv_in.weight": (64, 3, 3, 3),
        "first_stage_model.decoder.conv_out.weight": (3, 64, 3, 3),
    }
    names = [f"m{i}" for i in range(12)]
    simulate_store(tmp_path / "s.duckdb", names, shapes)
    with Store(tmp_path / "s.duckdb", "read") as store:
        grid = sharing_grid(Equalities(Teller(store)))
        some = sharing_grid(Equalities(Teller(store)), ["m3", "m5"])
        held = dict(
            store.connection.execute(
                "select model || component, content_hash from layers"
            ).fetchall()
        )
    assert sorted(grid.models) == sorted(names)
    assert set(some.models) == {"m3", "m5"}
    for column, component in enumerate(grid.components):
        for i, a in enumerate(grid.models):
            for j, b in enumerate(grid.models[:i]):
                same = held[a + component] == held[b + component]
                together = grid.groups[i, column] == grid.groups[j, column] != OWN
                assert same == together
        sizes = [(grid.groups[:, column] == g).sum() for g in range(1, grid.groups.max() + 1)]
        assert sizes == sorted(sizes, reverse=True)


def test_the_published_pairs_are_drawn(shared: Path, tmp_path: Path) -> None:
    with Store(tmp_path / "s.duckdb", "write") as store:
        import_path(store, shared / "published" / "v1")
        figure = tier_figure(pair_findings(store))
        grid = sharing_grid(Equalities(Teller(store)))
    pairs, heads = labels(figure)
    assert len(pairs) == 23
    drawn = cells(figure)
    at = (pairs.index("sd20 – wd14"), heads.index("VAE encoder"))
    assert drawn[at][1] == "106 keys"
    assert drawn[at[0], heads.index("VAE decoder")][1] == "L2 272"
    encoder = dict(zip(grid.models, grid.groups[:, grid.components.index("vae_encoder")]))
    assert encoder["sd20"] == encoder["wd14"] > OWN
    assert figure_bytes(figure, "svg") == figure_bytes(tier_figure_of(shared, tmp_path), "svg")


def tier_figure_of(shared: Path, folder: Path) -> Figure:
    with Store(folder / "again.duckdb", "write") as store:
        import_path(store, shared / "published" / "v1")
        return tier_figure(pair_findings(store))


@pytest.mark.parametrize("count", [1, 5, 118, 232])
def test_many_models_fit(count: int) -> None:
    groups = np.arange(count * 5).reshape(count, 5) % 7
    names = tuple(f"{'long ' * 12}{i}" for i in range(count))
    components = ("unet", "text_encoder", "vae_encoder", "vae_decoder", "vae_quant")
    grid = SharingGrid(names, components, groups, groups > 5)
    figure = sharing_figure(grid)
    width, height = figure.get_size_inches()
    assert width < 14 and height < 4 + 0.3 * count
    FigureCanvasAgg(figure).draw()
    edges = [t.get_window_extent() for t in figure.axes[0].get_xticklabels()]
    edges += [t.get_window_extent() for t in figure.axes[0].get_yticklabels()]
    assert all(0 <= e.x0 and e.x1 <= width * figure.dpi for e in edges)
    assert all(0 <= e.y0 and e.y1 <= height * figure.dpi for e in edges)
