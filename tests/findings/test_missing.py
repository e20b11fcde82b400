"""Not compared is not unrelated; files that are gone are said to be."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import duckdb
import pytest

from megasim import cli
from megasim.errors import NoAnswerError
from megasim.workspace import open_store
from tests.models import write_model
from tests.small_sd import UNET, small_sd, trained


@pytest.fixture
def path(tmp_path: Path) -> Path:
    base = small_sd()
    for i in range(4):
        write_model(tmp_path / "models" / f"m{i}.safetensors", trained(base, i, UNET))
    with open_store(tmp_path / "s.duckdb") as store:
        store.ingest(tmp_path / "models")
        store.compare(models=["m0", "m1", "m2"])
    return tmp_path / "s.duckdb"


def test_findings_and_lineage_say_which_pairs_are_missing(path: Path) -> None:
    with open_store(path) as store:
        report = store.findings()
        assert report.missing is not None
        assert (report.missing.missing, report.missing.total) == (3, 6)
        assert report.missing.models[0] == ("m3", 3)
        said = "3 of 6 pairs were not compared (3 of m3, 1 of m0, 1 of m1 and 1 of m2)"
        assert said in report.to_text()
        assert any(said in note and "--estimate" in note for note in store.lineage().notes)
        assert report.to_json()["not_compared"]["missing"] == 3
        store.compare(estimate=True)
        assert "not compared" not in store.findings().to_text()
        assert store.findings("m0", "m3").pairs[0].source == "estimated"


def test_files_that_are_gone_are_marked_and_can_be_forgotten(
    path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(*arguments: str) -> tuple[str, str]:
        capsys.readouterr()
        assert cli.run(["--db", str(path), *arguments]) == 0
        return capsys.readouterr()

    models = path.parent / "models"
    assert " gone " not in run("models")[0]
    (models / "m1.safetensors").unlink()
    assert run("models")[0].count(" gone ") == 1
    assert [m["file_gone"] for m in json.loads(run("models", "--json")[0])].count(True) == 1
    assert "the files of m1 are gone" in run("ingest", str(models))[1]
    assert "would forget m1" in run("forget", "--missing", "--dry-run")[0]
    assert "forgot m1" in run("forget", "--missing")[0]
    shutil.move(models, path.parent / "unplugged")
    out, err = run("forget", "--missing")
    assert "no model to forget" in out
    assert "3 models is not there, as of an unplugged disk" in err
    assert len(json.loads(run("models", "--json")[0])) == 3
    assert cli.run(["--db", str(path), "forget"]) == 2


def test_a_model_whose_keys_were_lost_has_no_findings(path: Path) -> None:
    """Distances of a model can outlive what it holds; then nothing is said from them."""
    with duckdb.connect(str(path)) as con:
        con.execute("delete from model_tensor using model where id = model_id and name = 'm0'")
    with open_store(path, "read") as store:
        assert {(f.model_a, f.model_b) for f in store.pair_findings()} == {("m1", "m2")}
        missing = store.findings().missing
        assert missing is not None
        assert (missing.missing, missing.total) == (2, 3)
        for ask in (store.findings, store.pair_findings, store.why):
            with pytest.raises(NoAnswerError, match="lost what m0 holds") as refused:
                ask("m0", "m1")
            assert "megasim doctor --repair" in str(refused.value.remedy)
