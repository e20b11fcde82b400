"""Interactive pictures in a real browser: what they tell is what the matrix, map and tree hold."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from megasim.errors import UsageError
from megasim.geometry.map import MapResult, map_models
from megasim.lineage.evidence import Evidence
from megasim.lineage.result import Edge, Family, Lineage
from megasim.matrix.distance_matrix import DistanceMatrix
from megasim.plots import interactive
from megasim.plots.interactive import InteractivePicture
from megasim.plots.interactive_lineage import lineage_picture
from megasim.plots.interactive_map import map_picture
from megasim.plots.interactive_matrix import MOST, matrix_picture
from megasim.words import EdgeKind
from tests.browser import Browser, open_browser

pytest.importorskip("bokeh", reason="install the extra interactive")

HOSTILE = "<img src=x onerror=alert(1)>"
NAMES = ("base", "tuned", HOSTILE, "a\x1b[31mb", "</script>{{ 7 * 7 }}")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with open_browser() as opened:
        yield opened


def matrix() -> DistanceMatrix:
    points = np.random.default_rng(1).normal(size=(5, 4))
    values = np.linalg.norm(points[:, None] - points, axis=2)
    found = DistanceMatrix.from_values(NAMES, (values + values.T) / 2)
    found.values[0, 4] = found.values[4, 0] = np.nan
    found.sources[0, 4] = found.sources[4, 0] = ""
    found.sources[0, 1] = found.sources[1, 0] = "estimated"
    found.errors[0, 1] = found.errors[1, 0] = 0.25
    found.keys_compared[:] = 686
    found.coverage[0, 1] = found.coverage[1, 0] = 0.9731
    return found


def mapped() -> MapResult:
    return map_models(matrix().subset(NAMES[:4]), path=NAMES[:4])


def tree() -> Lineage:
    reason = (Evidence("step count", "40 after 10", 2.0),)
    edges = (
        Edge("base", "tuned", EdgeKind.FINE_TUNE, 3.25, float("nan"), 0.93, True, reason),
        Edge("base", HOSTILE, EdgeKind.MERGE, 1.5, 0.3, 0.99, True, ()),
        Edge("tuned", HOSTILE, EdgeKind.MERGE, 1.0, 0.7, 0.99, True, ()),
    )
    family = Family(("base", "tuned", HOSTILE), "base", 0.9)
    return Lineage("unet", "exact", (family,), edges, (), ())


PICTURES = {
    "matrix": lambda: matrix_picture(matrix(), order="date"),
    "map": lambda: map_picture(mapped()),
    "lineage": lambda: lineage_picture(tree()),
}


class Opened:
    """A picture in the browser, drawn."""

    def __init__(
        self, browser: Browser, picture: InteractivePicture, folder: Path, **look: Any
    ) -> None:
        self.browser = browser
        picture.save(folder / "picture.html")
        self.visit = browser.visit(folder / "picture.html", **look)
        self.until("return document.querySelector('.picture').dataset.drawn")
        assert self.of("box.dataset.drawn") == "yes", self.of("box.textContent")

    def until(self, script: str) -> Any:
        for _ in range(200):
            found = self.browser.run(script)
            if found:
                return found
            time.sleep(0.05)
        raise AssertionError(f"never: {script}")

    def of(self, expression: str) -> Any:
        script = "const box = document.querySelector('.picture'), picture = box.picture;"
        return self.browser.run(f"{script} return {expression}")

    def key(self, *keys: str) -> None:
        for key in keys:
            event = f"new KeyboardEvent('keydown', {{key: {json.dumps(key)}, bubbles: true}})"
            self.of(f"(box.focus(), box.dispatchEvent({event}))")

    def rest_on(self, x: float, y: float) -> str:
        """Let the pointer rest on a place of the plot; return what is told of it."""
        where = (
            f"picture.view.canvas_view.el.getBoundingClientRect(), at = picture.screen({x}, {y})"
        )
        move = "new PointerEvent('pointermove', {clientX: r.left + at[0], clientY: r.top + at[1]})"
        self.browser.run(
            "const box = document.querySelector('.picture'), picture = box.picture;"
            f"const r = {where}; box.dispatchEvent({move})"
        )
        return str(self.of("picture.tip.hidden ? '' : picture.tip.innerText"))

    def told(self) -> str:
        return str(self.browser.run("return document.querySelector('.picture-told').innerText"))

    def selected(self) -> str:
        return str(
            self.browser.run("return document.querySelector('.picture-set input')?.value ?? ''")
        )


@pytest.mark.parametrize("name", PICTURES)
def test_the_same_picture_is_the_same_text(name: str) -> None:
    first = PICTURES[name]()
    assert first.item == PICTURES[name]().item
    assert first.page() == PICTURES[name]().page()


@pytest.mark.parametrize("name", PICTURES)
@pytest.mark.parametrize(("width", "dark"), [(1200, False), (1200, True), (375, False)])
def test_a_picture_needs_nothing_else_and_fits(
    browser: Browser, tmp_path: Path, name: str, width: int, dark: bool
) -> None:
    opened = Opened(browser, PICTURES[name](), tmp_path, width=width, dark=dark)
    assert not [e for e in opened.visit.errors if "document idle" not in e]
    assert not opened.visit.requests
    assert opened.visit.overflow <= 0
    # the page swaps the colours of the light theme for those of its own
    theme = json.loads(PICTURES[name]().item)["themes"]["dark" if dark else "light"]
    assert opened.of("picture.plot.border_fill_color") == theme["paper"]
    # a stranger's name is text
    assert browser.run("return document.querySelectorAll('img[src=x]').length") == 0


def test_a_cell_tells_its_number_its_error_and_what_it_covers(
    browser: Browser, tmp_path: Path
) -> None:
    opened = Opened(browser, PICTURES["matrix"](), tmp_path)
    value = matrix().values
    assert opened.rest_on(1.5, 0.5).split("\n") == [
        "base × tuned",
        f"L2 distance {value[0, 1]:.4g} ± 0.25, estimated",
        "686 keys compared, 97.31 % of the keys of either",
    ]
    assert f"L2 distance {value[3, 2]:.4g}, exact" in opened.rest_on(2.5, 3.5)
    assert HOSTILE in opened.rest_on(2.5, 3.5) and "\\x1b" in opened.rest_on(2.5, 3.5)
    assert opened.rest_on(4.5, 0.5).endswith("not compared")
    assert opened.rest_on(2.5, 2.5) == HOSTILE


def test_the_keyboard_goes_from_cell_to_cell_selects_and_zooms(
    browser: Browser, tmp_path: Path
) -> None:
    opened = Opened(browser, PICTURES["matrix"](), tmp_path)
    opened.key("ArrowDown")  # to the first pair
    assert opened.told().startswith("base × tuned")
    opened.key("ArrowDown", "ArrowDown")
    assert opened.told().startswith(f"{HOSTILE} × tuned")
    opened.key("s")
    assert opened.selected() == f"tuned,{HOSTILE}"
    opened.key("s")
    assert opened.selected() == ""
    opened.key("+")
    assert opened.of("picture.plot.x_range.end - picture.plot.x_range.start") < 5
    opened.key("0")
    assert opened.of("[picture.plot.x_range.start, picture.plot.x_range.end]") == [0, 5]


def test_a_frame_drawn_around_cells_selects_their_models(browser: Browser, tmp_path: Path) -> None:
    opened = Opened(browser, PICTURES["matrix"](), tmp_path)
    opened.of("picture.plot.toolbar.tools.find(t => t.name === 'select').active = true")
    corners = opened.of(
        "(r => [[1.2, 0.2], [2.8, 1.8]].map(p => picture.screen(...p))"
        ".map(p => [p[0] + r.left, p[1] + r.top]))"
        "(picture.view.canvas_view.el.getBoundingClientRect())"
    )
    browser.drag(*corners)
    assert opened.until("return document.querySelector('.picture-set input')?.value")
    assert opened.selected() == f"base,tuned,{HOSTILE}"


def test_steps_of_a_map_tell_length_and_turn(browser: Browser, tmp_path: Path) -> None:
    result = mapped()
    opened = Opened(browser, map_picture(result, axes=(1, 3)), tmp_path)
    x, z = result.coordinates[:, 0], result.coordinates[:, 2]
    assert opened.rest_on(x[1], z[1]).startswith("tuned\naxes 1–3: ")
    step = result.steps().iloc[0]
    told = opened.rest_on((x[0] + x[1]) / 2, (z[0] + z[1]) / 2)
    assert told == f"base → tuned\nlength {step.length:.4g}"
    assert result.verdict in browser.run("return document.body.innerText")
    opened.key("ArrowRight", "ArrowRight", "s")
    assert opened.selected() == "tuned"


def test_a_step_of_the_tree_tells_its_evidence(browser: Browser, tmp_path: Path) -> None:
    opened = Opened(browser, PICTURES["lineage"](), tmp_path)
    (at,) = opened.of(
        "picture.item.edges.filter(e => picture.names[e.to] === 'tuned')"
        ".map(e => [(e.line[0][1] + e.line[0][2]) / 2, e.line[1][2]])"
    )
    told = opened.rest_on(at[0] + 0.3, at[1])
    assert "base → tuned (fine-tune, length 3.25, confidence 0.93)" in told
    assert "step count: 40 after 10" in told
    opened.key("ArrowRight", "ArrowRight", "ArrowRight")
    assert HOSTILE in opened.told() and "× 0.7" in opened.told()


def test_models_come_in_the_order_asked_for() -> None:
    def models(**asked: Any) -> list[str]:
        return json.loads(matrix_picture(matrix(), **asked).item)["models"]

    assert models(order="name") == sorted(NAMES, key=str.casefold)
    came = {name: -i for i, name in enumerate(NAMES)}
    assert models(order="date", dates=came) == list(NAMES[::-1])
    assert sorted(models()) == sorted(NAMES)


def test_questions_that_no_picture_answers_are_refused() -> None:
    with pytest.raises(UsageError, match="unknown order"):
        matrix_picture(matrix(), order="size")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="two of its axes"):
        map_picture(mapped(), axes=(1, 4))
    many = DistanceMatrix.from_values([str(i) for i in range(MOST + 1)], np.zeros((MOST + 1,) * 2))
    with pytest.raises(UsageError, match="more than one picture"):
        matrix_picture(many)


def test_the_script_has_one_hash_in_every_encoding() -> None:
    assert interactive.picture_script().isascii()
    assert "</script" not in interactive.picture_script()


def test_numbers_that_are_alike_are_sent_once() -> None:
    assert interactive.plane(np.full((9, 9), np.nan))["same"]
    assert interactive.plane(np.full((9, 9), 3.0))["same"]
    assert not interactive.plane(np.eye(3))["same"]
