"""A report in a browser, and its figures by themselves."""

from __future__ import annotations

import gzip
import re
from base64 import b64decode
from pathlib import Path

import numpy as np
import pytest

from megasim.errors import NoAnswerError, UsageError
from megasim.report.page import write_report
from megasim.store.rows import Store
from megasim.workspace import open_store
from tests.browser import Browser
from tests.report.written_reports import Written
from tests.simulated_store import model_names


@pytest.mark.parametrize("name", ["seventeen", "published", "hostile"])
def test_the_page_opens_without_a_complaint(
    name: str, browser: Browser, request: pytest.FixtureRequest
) -> None:
    report: Written = request.getfixturevalue(name)
    for width, dark in ((1280, False), (1280, True), (375, False), (375, True)):
        visit = browser.visit(report.result.page, width=width, dark=dark)
        assert visit.errors == []
        assert visit.broken_images == []
        assert visit.images == len(report.page.sources)
        assert visit.requests == []
        assert visit.overflow <= 0, f"wider than a window of {width}"


def test_the_page_follows_the_colour_scheme(browser: Browser, seventeen: Written) -> None:
    shades = []
    for dark in (False, True):
        browser.visit(seventeen.result.page, dark=dark)
        shades.append(browser.run("return getComputedStyle(document.body).backgroundColor"))
        # a figure is of the page's colours, its text and its paper
        inks, paper = browser.run(
            "const svg = document.querySelector('.card svg');"
            "const inks = [...svg.querySelectorAll('text')].map(t => getComputedStyle(t).fill);"
            "return [inks, getComputedStyle(svg.querySelector('path')).fill]"
        )
        assert ("rgb(231, 232, 234)" if dark else "rgb(29, 31, 35)") in inks
        assert paper == ("rgb(22, 24, 27)" if dark else "rgb(255, 255, 255)")
    light, dark_shade = (sum(map(int, re.findall(r"\d+", shade)[:3])) for shade in shades)
    assert light > 700 and dark_shade < 100


# Every text of the page and of its figures, as large as it is on the screen.
SMALL_TEXTS = """
const found = [];
for (const e of document.querySelectorAll("body *")) {
  if (![...e.childNodes].some(n => n.nodeType == 3 && n.textContent.trim())) continue;
  const svg = e.closest("svg");
  const scale = svg ? svg.getBoundingClientRect().width / svg.viewBox.baseVal.width : 1;
  const size = parseFloat(getComputedStyle(e).fontSize) * scale;
  if (size < 11) found.push([size, e.textContent.slice(0, 40)]);
}
return found;
"""


@pytest.mark.parametrize("name", ["seventeen", "published"])
def test_no_text_is_too_small_to_read(
    name: str, browser: Browser, request: pytest.FixtureRequest
) -> None:
    report: Written = request.getfixturevalue(name)
    for width in (1200, 375):
        browser.visit(report.result.page, width=width)
        assert browser.run(SMALL_TEXTS) == []
        # a name with hyphens is in one line where it fits in one
        broken = browser.run(
            "return [...document.querySelectorAll('.whole')].filter(e => e.offsetParent &&"
            "  e.getClientRects().length && e.offsetHeight > 1.9 * parseFloat("
            "  getComputedStyle(e).lineHeight) && e.textContent.length < 24)"
            ".map(e => e.textContent)"
        )
        assert broken == []


def test_one_file_holds_its_data(seventeen: Written, tmp_path: Path, browser: Browser) -> None:
    with Store(seventeen.store, "read") as store:
        result = write_report(store, tmp_path / "mail.html", one_file=True)
    assert [path.name for path in tmp_path.iterdir()] == ["mail.html"]
    assert result.files == (tmp_path / "mail.html",)
    visit = browser.visit(result.page)
    assert visit.errors == [] and visit.requests == [] and visit.overflow <= 0
    held = dict(
        browser.run(
            "return [...document.querySelectorAll('a[download]')].map(a => [a.download, a.href])"
        )
    )
    beside = {path.name: path for path in (seventeen.folder / "data").iterdir()}
    assert {name.removesuffix(".gz") for name in held} == set(beside)
    for name, address in held.items():
        content = b64decode(address.split("base64,", 1)[1])
        content = gzip.decompress(content) if name.endswith(".gz") else content
        assert content == beside[name.removesuffix(".gz")].read_bytes()
    # a file that is named twice is there once
    links = browser.run(
        "return [...document.querySelectorAll('.files a:not([download])')]"
        ".map(a => a.getAttribute('href'))"
    )
    assert links and all(
        link.startswith("#") and link[1:] in {n.removesuffix(".gz") for n in held} for link in links
    )


def test_a_page_with_a_missing_image_is_noticed(browser: Browser, tmp_path: Path) -> None:
    page = tmp_path / "broken.html"
    page.write_text('<img src="gone.png" alt="gone"><script>console.error("bad")</script>')
    visit = browser.visit(page)
    assert visit.broken_images == ["gone"]
    assert any("bad" in error for error in visit.errors)
    assert [Path(url).name for url in visit.requests] == ["gone.png"]


def test_layers_and_tiers_are_drawn_on_demand(seventeen: Written, tmp_path: Path) -> None:
    name = model_names(17)[3]
    with open_store(seventeen.store, "read") as store:
        where = store.heatmap("unet", layers=True, against=name)
        tiers = store.heatmap(tiers=True, against=name)
        assert f"{name} against 16 others" in where.texts[0].get_text()
        assert name in tiers.texts[0].get_text()
        assert tiers.texts[1].get_text().startswith("16 pairs")
        with pytest.raises(UsageError, match="no such model"):
            store.heatmap("unet", layers=True, against="nobody")


def test_a_notebook_shows_tables_and_figures(seventeen: Written) -> None:
    names = [name for name in model_names(17) if name.startswith("run-")]
    with open_store(seventeen.store, "read") as store:
        found = store.trajectory(names, ["unet", "text_encoder"], only=["attn1", "mlp"])
        assert [t.label for t in found] == [
            "unet",
            "unet attn1",
            "text_encoder",
            "text_encoder mlp",
        ]
        assert found.to_frame().shape == (4 * len(names), 6)
        assert list(found.summary()["keys"] > 0) == [True] * 4
        assert "text_encoder mlp" in found._repr_html_()
        assert len(found.plot().axes) == 4
        with pytest.raises(UsageError, match="'atn1'"):
            store.trajectory(names, only=["atn1"])

        whole = store.histogram(*names[:2])
        roles = store.histogram(*names[:2], "unet")
        assert (len(whole.axes), len(roles.axes)) == (5, 3)
        with pytest.raises(NoAnswerError, match="nobody"):
            store.histogram(*names[:2], "nobody")

        changes = store.layer_changes("unet", names[0])
        assert changes.groupby("other").size().tolist() == [104] * 16
        pair = store.matrix("unet", models=names[:2]).values[0, 1]
        of_pair = changes.loc[changes["other"] == names[1], "l2"]
        assert np.sqrt(np.square(of_pair).sum()) == pytest.approx(pair)
        tiers = store.tiers(names[0])
        assert set(tiers["model_a"]) | set(tiers["model_b"]) == set(model_names(17))
        assert {"identical", "changed"} <= set(tiers["verdict"])
