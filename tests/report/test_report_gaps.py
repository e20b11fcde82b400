"""What a report says where something is not there, and what it refuses."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from megasim.errors import UsageError
from megasim.exchange.mega_cmp_import import import_path
from megasim.matrix.distance_matrix import DistanceMatrix
from megasim.report import page
from megasim.report.distances import _distances_lead
from megasim.report.page import write_report
from megasim.store.rows import Store
from tests.report.written_reports import Page, Written, few_shapes, simulated, written
from tests.simulated_store import model_names, simulate_store


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
