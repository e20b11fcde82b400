"""Tests of the report: what it says, that its queries give its files, and that it opens."""

from __future__ import annotations

import gzip
import os
import re
import time
from base64 import b64decode
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace

import duckdb
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from megasim.errors import NoAnswerError, UsageError
from megasim.exchange.mega_cmp_import import import_path
from megasim.findings.tier_overview import known_pairs
from megasim.matrix.distance_matrix import DistanceMatrix
from megasim.matrix.files import matrix_to_long
from megasim.report import page
from megasim.report.distances import _distances_lead
from megasim.report.page import ReportResult, write_report
from megasim.report.parts import csv_bytes
from megasim.report.trust import measured_rates
from megasim.store.matrices import load_layers, load_matrix
from megasim.store.rows import Store
from megasim.store.runnable_queries import literal
from megasim.store.statements import named_statements, purpose_of
from megasim.workspace import open_store
from megasim.zoo.architectures import sd1_shapes
from tests.browser import Browser, open_browser
from tests.simulated_store import Shapes, model_names, simulate_store

GOLDEN = Path(__file__).parents[1] / "golden"
VIEWS = {"models", "layers", "layer_distances", "component_distances"}
HOSTILE = [
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "it's; drop table model; --",
    "\x1b[31mred\x1b[0m\x07",
    "right\u202eto left",
    "עברית-v1",
    "{{ 1234 * 5678 }}{% raw %}",
    "$HOME `id` $x^2$ \\frac",
    "../../../etc/passwd",
    "two\nlines\r\n",
    "x" * 300,
    "base00",
]


@dataclass
class Page(HTMLParser):
    """What a test wants to know of a page."""

    queries: dict[str, str] = field(default_factory=dict)
    links: list[str] = field(default_factory=list)
    sources: list[str] = field(default_factory=list)
    tags: set[str] = field(default_factory=set)
    handlers: list[str] = field(default_factory=list)
    figures: int = 0
    headings: list[str] = field(default_factory=list)
    text: str = ""
    _file: str = ""
    _tag: str = ""

    @classmethod
    def of(cls, path: Path) -> Page:
        page = cls()
        HTMLParser.__init__(page)
        page.feed(path.read_text(encoding="utf-8"))
        return page

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        self._tag = tag
        self.tags.add(tag)
        self.handlers += [name for name in values if name.startswith("on")]
        self._file = values.get("data-file", "")
        if self._file:
            self.queries[self._file] = ""
        if "href" in values:
            self.links.append(values["href"])
        if "src" in values:
            self.sources.append(values["src"])
        self.figures += tag in ("img", "svg")
        if tag == "h2":
            self.headings.append("")

    def handle_endtag(self, tag: str) -> None:
        self._file = self._tag = ""

    def handle_data(self, data: str) -> None:
        if self._file:
            self.queries[self._file] += data
        elif self._tag == "h2":
            self.headings[-1] += data
        if self._tag != "style":
            self.text += data


def few_shapes() -> Shapes:
    """Return a small part of SD1 with every component, and several blocks and roles."""
    wanted = ("input_blocks.0.", "input_blocks.1.", "middle_block.1.", "output_blocks.9.", ".out.")
    wanted += ("text_model.encoder.layers.0.", "text_model.encoder.layers.11.", "quant_conv")
    wanted += ("encoder.mid.block_1", "decoder.mid.block_1")
    return {
        key: shape
        for key, shape in sd1_shapes(1 / 16).items()
        if any(part in key for part in wanted) and "skip" not in key
    }


def simulated(path: Path, names: Sequence[str], *, compared: bool = True) -> Path:
    simulate_store(path, names, few_shapes(), compared=compared)
    return path


@dataclass(frozen=True)
class Written:
    """A report and the store it was made of."""

    store: Path
    folder: Path
    result: ReportResult

    @property
    def page(self) -> Page:
        return Page.of(self.result.page)


def written(store_path: Path, folder: Path, components: Sequence[str] | None = None) -> Written:
    with Store(store_path, "read") as store:
        return Written(store_path, folder, write_report(store, folder, components=components))


@pytest.fixture(scope="module")
def seventeen(tmp_path_factory: pytest.TempPathFactory) -> Written:
    folder = tmp_path_factory.mktemp("seventeen")
    return written(simulated(folder / "s.duckdb", model_names(17)), folder / "report")


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory, shared: Path) -> Written:
    folder = tmp_path_factory.mktemp("published")
    with Store(folder / "s.duckdb", "write") as store:
        import_path(store, shared / "published" / "v1")
    return written(folder / "s.duckdb", folder / "report")


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Written:
    folder = tmp_path_factory.mktemp("hostile")
    return written(simulated(folder / "s.duckdb", HOSTILE), folder / "report", ["unet"])


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with open_browser() as opened:
        yield opened


# Queries


def check_queries(report: Written) -> None:
    queries = report.page.queries
    assert len(queries) >= 5
    with duckdb.connect(str(report.store), read_only=True) as con:
        for file, sql in queries.items():
            frame = con.execute(sql).df()
            assert csv_bytes(frame) == (report.folder / "data" / file).read_bytes(), file
            assert len(frame), file


def test_every_query_that_is_shown_gives_the_file_beside_it(seventeen: Written) -> None:
    check_queries(seventeen)


def test_queries_of_published_results_give_their_files(published: Written) -> None:
    check_queries(published)


def test_queries_with_hostile_names_give_their_files(hostile: Written) -> None:
    check_queries(hostile)


def test_queries_of_some_models_name_them(seventeen: Written, tmp_path: Path) -> None:
    some = model_names(17)[:6]
    with Store(seventeen.store, "read") as store:
        result = write_report(store, tmp_path, models=some, components=["vae"])
    report = Written(seventeen.store, tmp_path, result)
    check_queries(report)
    frame = pd.read_csv(tmp_path / "data" / "models.csv")
    assert set(frame["name"]) == set(some)
    pairs = pd.read_csv(tmp_path / "data" / "components.csv")
    assert set(pairs["model_a"]) | set(pairs["model_b"]) == set(some)


@pytest.mark.parametrize("component", ["unet", "vae"])
def test_the_distances_of_the_file_are_those_of_the_figure(
    seventeen: Written, component: str
) -> None:
    frame = pd.read_csv(seventeen.folder / "data" / f"distances-{component}.csv")
    with Store(seventeen.store, "read") as store:
        drawn = matrix_to_long(load_matrix(store, component))
    sides = ["model_a", "model_b"]
    both = drawn.merge(frame, on=sides, suffixes=("_drawn", ""), validate="one_to_one")
    assert len(both) == len(drawn) == len(frame)
    np.testing.assert_allclose(both["distance"], both["l2"], rtol=1e-12)
    np.testing.assert_array_equal(both["keys_compared"], both["keys_compared_drawn"])


def test_the_layers_of_the_file_are_those_of_the_figure(seventeen: Written) -> None:
    frame = pd.read_csv(seventeen.folder / "data" / "layers-unet.csv")
    with Store(seventeen.store, "read") as store:
        layers = load_layers(store, "unet")
    place = {name: i for i, name in enumerate(layers.models)}
    key = {name: i for i, name in enumerate(layers.keys)}
    for row in frame.sample(200, random_state=0).itertuples():
        expected = layers.values[key[row.canonical_key], place[row.model_a], place[row.model_b]]
        assert row.l2 == pytest.approx(expected, rel=1e-12)
        assert row.rms_change == pytest.approx(expected / np.sqrt(row.numel), rel=1e-12)


def test_queries_ask_the_public_views_alone_and_say_what_for() -> None:
    for name, sql in named_statements("report.sql").items():
        assert name.startswith("report_")
        assert purpose_of(sql).endswith(".")
        asked = set(re.findall(r"\b(?:from|join)\s+(\w+)", re.sub(r"--.*", "", sql)))
        assert asked and asked <= VIEWS, name


@settings(max_examples=30, deadline=None)
@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=40))
def test_a_literal_is_the_text_and_can_be_seen(text: str) -> None:
    written = literal(text)
    assert written.isprintable()
    with duckdb.connect() as con:
        assert con.execute(f"select {written}").fetchone() == (text,)


# The page


def check_self_contained(report: Written) -> None:
    page = report.page
    assert page.tags.isdisjoint({"script", "link", "iframe", "object", "embed", "form", "base"})
    assert not page.handlers
    assert page.figures and all(source.startswith("data:image/") for source in page.sources)
    inside = [link for link in page.links if link.startswith("#")]
    assert len(inside) == len(page.headings)
    files = {link.removeprefix("data/") for link in page.links if not link.startswith("#")}
    assert files == {path.name for path in (report.folder / "data").iterdir()}
    assert report.result.bytes == sum(path.stat().st_size for path in report.result.files)


def test_the_page_holds_its_figures_and_links_every_file(seventeen: Written) -> None:
    check_self_contained(seventeen)
    assert seventeen.page.figures >= 8


def test_pictures_are_zoomed_into_where_that_is_asked_for(
    hostile: Written, tmp_path: Path, browser: Browser
) -> None:
    pytest.importorskip("bokeh", reason="install the extra interactive")
    with Store(hostile.store, "read") as store:
        result = write_report(store, tmp_path, components=["unet"], one_file=True, interactive=True)
        again = write_report(
            store, tmp_path / "b", components=["unet"], one_file=True, interactive=True
        )
    assert result.page.read_bytes() == again.page.read_bytes()
    visit = browser.visit(result.page)
    buttons = "document.querySelectorAll('button[data-draws]')"
    assert browser.run(f"return {buttons}.length") == 3
    for number in range(3):
        browser.run(f"{buttons}[{number}].click()")
    drawn = "return [...document.querySelectorAll('.picture')].map(p => p.dataset.drawn)"
    for _ in range(200):
        if all(browser.run(drawn)):
            break
        time.sleep(0.05)
    assert browser.run(drawn) == ["yes"] * 3
    assert not visit.errors and not visit.requests


def test_what_is_too_large_is_not_zoomed_into(
    hostile: Written, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("bokeh", reason="install the extra interactive")
    monkeypatch.setattr(page, "MOST_PACKED", 1000)
    with Store(hostile.store, "read") as store:
        result = write_report(store, tmp_path, components=["unet"], interactive=True)
    text = result.page.read_text(encoding="utf-8")
    assert text.count("too large to be zoomed into") == 3 and "data-draws=" not in text


def test_hostile_names_stay_text(hostile: Written) -> None:
    check_self_contained(hostile)
    text = hostile.result.page.read_text(encoding="utf-8")
    assert "<script>alert" not in text and "<img src=x" not in text
    for unseen in ("\x1b", "\x07", "\u202e", "\r"):
        assert unseen not in text
    assert "{{ 1234 * 5678 }}" in hostile.page.text and "7006652" not in hostile.page.text
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in text
    assert all(re.fullmatch(r"[\w.-]+", path.name) for path in hostile.result.files)


def test_the_same_store_gives_the_same_bytes(hostile: Written, tmp_path: Path) -> None:
    again = written(hostile.store, tmp_path, ["unet"])
    for path in hostile.result.files:
        other = tmp_path / path.relative_to(hostile.folder)
        assert path.read_bytes() == other.read_bytes(), path.name
    assert len(again.result.files) == len(hostile.result.files)


def test_a_file_that_is_as_it_should_be_is_not_written_again(tmp_path: Path) -> None:
    path = simulated(tmp_path / "s.duckdb", ["alone"])
    before = {p: p.stat().st_mtime_ns for p in written(path, tmp_path / "r").result.files}
    written(path, tmp_path / "r")
    assert {p: p.stat().st_mtime_ns for p in before} == before


def test_the_page_says_what_was_published(published: Written) -> None:
    text = published.page.text
    assert "24 models" in text
    assert "sd2" not in published.page.headings
    # the text encoder of jrd differs only in what SD2 never uses
    assert re.search(r"sd21 → jrd.*text encoder: same where used", text, re.DOTALL)
    layers = pd.read_csv(published.folder / "data" / "layers-text_encoder.csv")
    jrd = layers[(layers["model_b"] == "jrd") & (layers["l2"] > 0)]
    assert len(jrd) == 14
    assert set(jrd["block"].dropna()) == {"resblocks.23"}


@pytest.mark.parametrize("name", ["seventeen", "published"])
def test_the_page_begins_with_what_was_found(name: str, request: pytest.FixtureRequest) -> None:
    """With GOLDEN=write in the environment, what it says now becomes what it should say."""
    report: Written = request.getfixturevalue(name)
    golden = GOLDEN / f"report-{name}.txt"
    text = "".join(f"{sentence}\n" for sentence in report.result.lead)
    if os.environ.get("GOLDEN") == "write":
        golden.write_text(text, encoding="utf-8")
    assert text == golden.read_text(encoding="utf-8")
    # only the title and the list of sections stand before them
    page = " ".join(report.page.text.split())
    assert page.startswith("What changed") and page.index(" ".join(text.split())) < 300


def test_a_run_of_epochs_is_followed(seventeen: Written) -> None:
    steps = pd.read_csv(seventeen.folder / "data" / "steps-unet-run-e.csv")
    whole = steps[steps["part"] == "unet"]
    assert whole["model"].tolist() == [f"run-e{n:03}" for n in (10, 20, 30, 40)]
    with Store(seventeen.store, "read") as store:
        matrix = load_matrix(store, "unet", models=whole["model"].tolist())
    np.testing.assert_allclose(whole["from_start"], matrix.values[0], rtol=1e-12)


def test_a_tree_without_the_layers_is_said_to_be_so(
    seventeen: Written, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = "takes the layers too, and may draw some steps differently"
    assert said not in seventeen.page.text
    monkeypatch.setattr("megasim.report.source._MOST_LAYERS", 0)
    assert said in written(seventeen.store, tmp_path, ["unet"]).page.text


def test_a_path_is_followed(seventeen: Written, tmp_path: Path) -> None:
    path = model_names(17)[:4]
    with Store(seventeen.store, "read") as store:
        write_report(store, tmp_path, path=path, components=["unet"])
    steps = pd.read_csv(tmp_path / "data" / "steps-unet-the-path.csv")
    assert steps[steps["part"] == "unet"]["model"].tolist() == path
    assert not (tmp_path / "data" / "distances-vae.csv").exists()


# What is not there is said


def sentences(folder: Path, store_path: Path) -> Page:
    return written(store_path, folder / "report").page


def test_an_empty_store_is_said_to_be_empty(tmp_path: Path) -> None:
    Store(tmp_path / "s.duckdb", "write").close()
    page = sentences(tmp_path, tmp_path / "s.duckdb")
    assert "An empty store" in page.text
    assert not page.figures


def test_one_model_is_described(tmp_path: Path) -> None:
    page = sentences(tmp_path, simulated(tmp_path / "s.duckdb", ["alone"]))
    assert "One model has nothing to differ from" in page.text
    assert "only alone has it" in page.text
    assert not page.figures
    assert len(page.headings) == 10


def test_models_that_were_not_compared_are_said_to_be_so(tmp_path: Path) -> None:
    page = sentences(tmp_path, simulated(tmp_path / "s.duckdb", model_names(4), compared=False))
    assert "No pair of these models was compared" in page.text
    assert "none of the pairs of 4 models was compared" in page.text


def test_identical_models_are_said_to_be_identical(tmp_path: Path) -> None:
    path = tmp_path / "s.duckdb"
    simulate_store(path, ["one", "two", "three"], few_shapes(), alike=True)
    page = sentences(tmp_path, path)
    assert "No figure where all models that hold it are equal: UNet" in page.text
    assert "distance 0" not in page.text
    assert "the same in 3 models: one, two, three" in page.text
    assert page.figures == 3  # who shares what, what is unchanged, and the tree of copies


def test_models_without_a_unet_have_figures_of_what_they_have(tmp_path: Path) -> None:
    path = tmp_path / "s.duckdb"
    shapes = {f"{top}.{n}.weight": (8, 8) for top in ("<b>head", "body") for n in range(3)}
    simulate_store(path, ["one", "two", "three", "four"], shapes)
    page = sentences(tmp_path, path)
    assert "&lt;b&gt;head" in (tmp_path / "report" / "index.html").read_text()
    assert "b" not in page.tags
    assert (tmp_path / "report" / "data" / "distances-body.csv").exists()


def test_a_superlative_is_of_pairs_that_share_nearly_all_keys() -> None:
    values = np.array([[0, 1, 2, 9], [1, 0, 3, 8], [2, 3, 0, 7], [9, 8, 7, 0]], dtype=float)
    coverage = np.where(values > 6, 0.25, 1.0)

    def lead(coverage: np.ndarray) -> str:
        matrix = replace(DistanceMatrix.from_values("abcd", values), coverage=coverage)
        source = SimpleNamespace(components=("unet",), matrix=lambda _: matrix)
        (text,) = _distances_lead(source)
        return text

    assert lead(coverage) == (
        "Of pairs that share at least 95 % of the keys, the nearest two that differ in the UNet "
        "are a and b (L2 1), the farthest b and c (L2 3)."
    )
    assert lead(np.full((4, 4), np.nan)) == (
        "The nearest two that differ in the UNet are a and b (L2 1), the farthest a and d (L2 9)."
    )
    assert lead(np.minimum(coverage, 0.5)) == (
        "The nearest two that differ in the UNet are a and b (L2 1, over 50 % of the keys), "
        "the farthest a and d (L2 9, over 25 % of the keys)."
    )


def test_gaps_are_marked_and_do_not_bend_the_map(shared: Path, tmp_path: Path) -> None:
    path = tmp_path / "s.duckdb"
    with Store(path, "write") as store:
        import_path(store, shared / "published" / "v2" / "ccbp.json")
        import_path(store, shared / "published" / "v2" / "cwd.json")
    page = sentences(tmp_path, path)
    assert "of 20, those compared with each other over the same keys" in page.text


def test_wrong_wishes_are_refused(seventeen: Written, tmp_path: Path) -> None:
    with Store(seventeen.store, "read") as store:
        for wish in (
            {"models": ["nobody"]},
            {"components": ["nothing"]},
            {"path": ["base00"]},
            {"path": ["base00", "base00"]},
            {"models": ["base00"], "path": ["base00", "dreamy00"]},
        ):
            with pytest.raises(UsageError):
                write_report(store, tmp_path / "report", **wish)
    assert not (tmp_path / "report").exists()


def test_a_folder_that_cannot_be_written_to_fails_before_the_work(
    seventeen: Written, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(page, "_SECTIONS", (lambda source: pytest.fail("worked"),))
    (tmp_path / "taken").write_text("")
    (tmp_path / "held" / "data").mkdir(parents=True)
    with Store(seventeen.store, "read") as store:
        with pytest.raises(OSError, match="taken"):
            write_report(store, tmp_path / "taken")

        def refuse(**where: object) -> None:
            raise PermissionError(f"no writing in {where['dir']}")

        monkeypatch.setattr(page, "TemporaryFile", refuse)
        with pytest.raises(PermissionError, match="held"):
            write_report(store, tmp_path / "held")


def test_many_models_stay_small(tmp_path: Path) -> None:
    shapes = dict(list(few_shapes().items())[::4])
    simulate_store(tmp_path / "s.duckdb", model_names(118), shapes)
    report = written(tmp_path / "s.duckdb", tmp_path / "report", ["unet"])
    assert report.result.bytes < 20_000_000
    assert "118 models" in report.page.text
    # what is best comes first, all models have their row, and no pair has one
    assert report.page.headings[:3] == ["Lineage", "Shared components", "Findings"]
    assert 118 < report.result.page.read_text().count("<tr>") < 150


# In a browser


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


def test_pairs_that_are_missing_are_told_with_their_models(
    published: Written, seventeen: Written
) -> None:
    assert "All 136 pairs were compared" in seventeen.page.text
    with Store(published.store, "read") as store:
        compared = len(known_pairs(store, list(store.model_ids())))
    said = f"{276 - compared} of 276 pairs were not compared, which does not say that they are un"
    assert compared < 276
    assert any(sentence.startswith(said) for sentence in published.result.lead)
    # nothing can be estimated of what nobody read here
    assert "nothing more can be had of them here" in published.page.text
    assert "24 models stand here by published distances alone" in published.page.text


def test_the_rates_are_those_of_the_documentation() -> None:
    told = (Path(__file__).parents[2] / "docs" / "lineage.md").read_text(encoding="utf-8")
    row = next(line for line in told.splitlines() if line.startswith("| all |"))
    shares = [
        100 * measured_rates()[name][0]
        for name in (
            "families",
            "edges_found",
            "edges_right",
            "directions_decided",
            "directions_right",
        )
    ]
    assert re.findall(r"([\d.]+) %", row) == [f"{share:.1f}" for share in shares]


def test_a_page_with_a_missing_image_is_noticed(browser: Browser, tmp_path: Path) -> None:
    page = tmp_path / "broken.html"
    page.write_text('<img src="gone.png" alt="gone"><script>console.error("bad")</script>')
    visit = browser.visit(page)
    assert visit.broken_images == ["gone"]
    assert any("bad" in error for error in visit.errors)
    assert [Path(url).name for url in visit.requests] == ["gone.png"]


# The same figures by themselves


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
