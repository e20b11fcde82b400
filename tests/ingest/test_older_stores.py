"""A store of an older version opens, says what is missing, and heals by one command."""

from __future__ import annotations

from pathlib import Path

from click.testing import CliRunner

from megasim import cli, open_store
from tests.models import random_model, write_model


def test_models_of_an_older_version_are_named_and_read_again(tmp_path: Path) -> None:
    write_model(tmp_path / "a.safetensors", random_model(1))
    write_model(tmp_path / "b.safetensors", random_model(2))
    db = tmp_path / "s.duckdb"
    with open_store(db) as store:
        store.ingest(tmp_path)
        store.compare()
        con = store.store.connection
        con.execute("update model set fingerprint_version = 3 where name = 'a'")
        con.execute("update model_tensor set nature = null")
    run = CliRunner().invoke
    listed = run(cli.megasim, ["--db", str(db), "models"]).output
    assert "1 model was read by an older version" in listed
    assert "megasim ingest --reread" in listed
    with open_store(db) as store:
        # keys of unknown nature stay measured, as they were
        assert store.matrix("all").values[0, 1] > 0
        result = store.ingest(reread=True)
        assert (result.replaced, result.added, result.known) == (["a"], [], [])
        assert store.ingest(reread=True).to_json()["replaced"] == []
        natures = store.sql("select distinct nature from layers where model = 'a'")
        assert natures["nature"].notna().all()
    assert "older version" not in run(cli.megasim, ["--db", str(db), "models"]).output
