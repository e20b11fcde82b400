"""Stores of networks of no known family: what is meant where nothing is named."""

from __future__ import annotations

from pathlib import Path

import pytest

from megasim import cli
from megasim.findings.overview import findings_report
from megasim.lineage.layout import lay_out
from megasim.plots.overview import sharing_figure, sharing_grid, tier_figure
from megasim.report.findings import tier_overview
from megasim.report.source import ReportSource
from megasim.store.matrices import component_names
from megasim.workspace import open_store
from tests.models import nudged, random_model, write_model


@pytest.fixture
def generic(tmp_path: Path) -> Path:
    """The path of a store of three relatives and a network that has no key of theirs."""
    for i in range(3):
        write_model(tmp_path / "models" / f"m{i}.safetensors", nudged(random_model(0), i))
    stranger = {f"far.{key}": value for key, value in random_model(9, shape=(3, 5)).items()}
    write_model(tmp_path / "models" / "a-stranger.safetensors", stranger)
    with open_store(tmp_path / "s.duckdb") as store:
        assert not store.ingest(tmp_path / "models").failed
        store.compare()
    return tmp_path / "s.duckdb"


def answer(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[str, str]:
    assert cli.run(list(arguments)) == 0
    out, err = capsys.readouterr()
    return out, err


def test_without_a_unet_all_components_are_meant(
    generic: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    db = ("--db", str(generic))
    named, told = answer(capsys, *db, "matrix", "-c", "all")
    assert answer(capsys, *db, "matrix") == (named, told)
    assert told.startswith("all, l2: 4 models, 3 of 6 pairs")
    three = ("--models", "m0,m1,m2")
    assert answer(capsys, *db, "map", *three)[0].startswith("all: too few models")
    out, _ = answer(capsys, *db, "lineage")
    assert "family of 3; most likely base" in out
    assert "related to no other: a-stranger\n" in out
    assert "m0 (all): no merge of these models" in answer(capsys, *db, "recipe", "m0")[0]
    assert answer(capsys, *db, "trajectory", "m0", "m1", "m2")[0].startswith("part ")
    with open_store(generic, "read") as store:
        assert store.matrix().component == store.layer_matrices().component == "all"


def test_many_components_stay_readable(tmp_path: Path) -> None:
    for i in range(3):
        base, other = random_model(0, keys=60, shape=(8, 8)), random_model(i, keys=60, shape=(8, 8))
        tensors = {
            f"part_{p:02}.w": b if p % 2 else a
            for p, (a, b) in enumerate(zip(base.values(), other.values(), strict=True))
        }
        write_model(tmp_path / "models" / f"m{i}.pt", tensors)
    with open_store(tmp_path / "s.duckdb") as store:
        store.ingest(tmp_path / "models")
        store.compare()
        lines = findings_report(store.store).to_text().splitlines()
        source = ReportSource.of(store.store, None, None, None)
        grid = sharing_grid(source.equalities)
        reader, pairs = source.equalities.reader, source.pairs
        findings = tier_overview(reader, pairs, lambda: source.center).findings
    assert max(map(len, lines)) < 200
    assert any("and 24 more: the same in 3 models" in line for line in lines)
    for figure in (sharing_figure(grid), tier_figure(findings)):
        assert figure.get_figwidth() < 16
        (axes,) = figure.axes
        assert len(axes.get_xticklabels()) == 60
        assert all(len(text.get_text()) <= len("1 key") for text in axes.texts)


def test_a_map_of_strangers_says_what_to_do(
    generic: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.run(["--db", str(generic), "map"]) == 1
    error = capsys.readouterr().err
    assert "3 of 6 pairs have no l2 distance for all" in error
    assert "--models" in error
    assert "--complete" in error


def test_a_unet_is_meant_where_there_is_one(tmp_path: Path) -> None:
    unet = {f"model.diffusion_model.{key}": value for key, value in random_model(0).items()}
    write_model(tmp_path / "a.safetensors", unet | random_model(1))
    write_model(tmp_path / "b.safetensors", nudged(unet, 2) | random_model(1))
    with open_store(tmp_path / "s.duckdb") as store:
        store.ingest(tmp_path / "a.safetensors", tmp_path / "b.safetensors")
        assert "unet" in store.sql("select distinct component from layers")["component"].tolist()
        store.compare()
        assert store.matrix().component == "unet"


def test_the_components_that_most_models_hold_come_first(generic: Path) -> None:
    with open_store(generic, "read") as store:
        assert component_names(store.store) == ["block", "far"]
        assert ReportSource.of(store.store, None, None, None).components == ("block", "far")


def test_a_model_with_relatives_is_what_others_are_held_against(tmp_path: Path) -> None:
    """Also where no two models share one of the components that a report shows."""
    for i, part in enumerate(("a.0", "b.0", "c.0", "d.0")):
        write_model(tmp_path / f"{i}.safetensors", {f"{part}.w": random_model(i)["block.0.weight"]})
    for i in (4, 5):
        write_model(tmp_path / f"{i}.safetensors", {"e.w": random_model(i)["block.0.weight"]})
    with open_store(tmp_path / "s.duckdb") as store:
        store.ingest(tmp_path)
        store.compare()
        alone = ReportSource.of(store.store, None, ["a", "b"], None)
        assert alone.center == "4"


def test_models_without_relatives_stand_together_in_the_tree(generic: Path) -> None:
    stranger = {f"alone.{key}": value for key, value in random_model(5, shape=(7, 3)).items()}
    write_model(generic.parent / "b-stranger.safetensors", stranger)
    with open_store(generic) as store:
        store.ingest(generic.parent / "b-stranger.safetensors")
        store.compare()
        layout = lay_out(store.lineage())
    assert [title for title, _ in layout.headings] == [
        "family 1: 3 models",
        "related to no other: 2",
    ]
    (one, first), (two, second) = (layout.places[f"{x}-stranger"] for x in "ab")
    assert (one, two, second - first) == (0, 0, 1)
    assert layout.rows > second


def test_a_copy_of_a_part_says_how_much_is_not_of_it(tmp_path: Path) -> None:
    model = random_model(0)
    kept = dict(list(model.items())[:3])
    write_model(tmp_path / "a.safetensors", model)
    write_model(tmp_path / "b.safetensors", kept | {"head.w": random_model(1)["block.0.weight"]})
    with open_store(tmp_path / "s.duckdb") as store:
        store.ingest(tmp_path)
        store.compare()
        (edge,) = store.lineage().edges
    assert "3 keys the same, 2 in one of the two alone" in edge.sentence()
