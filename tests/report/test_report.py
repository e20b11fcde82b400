"""What a report says, by itself and of published results."""

from __future__ import annotations

import os
import re
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from megasim.findings.tier_overview import known_pairs
from megasim.report import page
from megasim.report.page import write_report
from megasim.report.trust import measured_rates
from megasim.store.matrices import load_matrix
from megasim.store.rows import Store
from tests.browser import Browser
from tests.report.written_reports import GOLDEN, Written, simulated, written
from tests.simulated_store import model_names


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
