"""Rows that an older version made are left out or made again, never mixed with those of today."""

from __future__ import annotations

from pathlib import Path

import duckdb
import pytest

from megasim import cli, open_store
from megasim.compare.pairs import METRIC_VERSION
from megasim.compare.renames import RENAME_VERSION
from megasim.errors import NoAnswerError, StoreTooNewError
from megasim.fingerprint.tensor import COMPARABLE_VERSIONS, FINGERPRINT_VERSION
from megasim.store.rows import Store
from tests.models import nudged, random_model, write_model


@pytest.fixture
def path(tmp_path: Path) -> Path:
    base = random_model(0)
    for i in range(4):
        write_model(tmp_path / "models" / f"m{i}.safetensors", nudged(base, i))
    with open_store(tmp_path / "s.duckdb") as store:
        store.ingest(tmp_path / "models")
        store.compare(metrics=("linf", "cossim"))
    return tmp_path / "s.duckdb"


def altered(path: Path, statement: str) -> None:
    with duckdb.connect(str(path)) as con:
        con.execute(statement)


def test_the_versions_of_sql_are_those_of_the_code(path: Path) -> None:
    asked = "select current_fingerprint(), current_metric(), current_rename()"
    with Store(path) as store:
        found = store.connection.execute(asked).fetchall()
        comparable = store.connection.execute(
            "select list(v order by v) from range(9) r(v) where is_comparable(v)"
        ).fetchone()
    assert found == [(FINGERPRINT_VERSION, METRIC_VERSION, RENAME_VERSION)]
    assert comparable == (sorted(COMPARABLE_VERSIONS),)


@pytest.mark.parametrize("table", ["tensor_distance", "tensor_linf", "tensor_cossim", "model_pair"])
def test_every_row_carries_its_version(path: Path, table: str) -> None:
    with Store(path) as store:
        found = store.connection.execute(f"select distinct metric_version from {table}").fetchall()
        assert found == [(METRIC_VERSION,)]
        found = store.connection.execute(
            "select distinct version from component_distance"
        ).fetchall()
        assert found == [(METRIC_VERSION,)]
        found = store.connection.execute(
            "select distinct fingerprint_version from tensor"
        ).fetchall()
        assert found == [(FINGERPRINT_VERSION,)]


def test_distances_of_an_older_metric_are_left_out_and_computed_again(
    path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with open_store(path, "read") as store:
        truth = store.matrix("block").values
    old = "set l2 = l2 * 2, metric_version = 0 where tensor_a % 4 = 1"
    altered(path, f"update tensor_distance {old}")
    altered(path, "update model_pair set metric_version = 0 where model_a = 1")
    altered(path, "update component_distance set l2 = l2 * 2, version = 0 where model_a = 1")
    with open_store(path, "read") as store:
        assert "computes them again" in store.store.left_out[0]
        matrix = store.matrix("block").values
        assert [x != x for x in matrix[0]] == [False, True, True, True]
        assert (matrix[1:, 1:] == truth[1:, 1:]).all()
        assert not store.sql("select 1 from layer_distances where model_a = 'm0'").size
    assert cli.run(["--db", str(path), "matrix", "-c", "block"]) == 0
    assert "of an older version are left out: `megasim compare`" in capsys.readouterr().err
    with open_store(path, "update") as store:
        done = store.compare(metrics=("linf", "cossim"))
        assert done.pairs_done == 3
        assert done.tensor_pairs_computed > 0
        assert (store.matrix("block").values == truth).all()
    with open_store(path, "read") as store:
        assert store.store.left_out == ()
        assert (store.matrix("block").values == truth).all()


def test_models_of_older_fingerprints_take_part_in_nothing_until_read_again(path: Path) -> None:
    with open_store(path, "read") as store:
        truth = store.matrix("block").values
    altered(path, "update model set fingerprint_version = 1 where id = 2")
    altered(
        path,
        "update tensor set fingerprint_version = 1, value_hash = reverse(value_hash) "
        "where id in (select tensor_id from model_tensor where model_id = 2)",
    )
    for mode in ("read", "update"):
        with open_store(path, mode) as store:  # type: ignore[arg-type]
            assert "m1" in store.store.left_out[0]
            assert store.sql(
                "select 1 from component_distances where 'm1' in (model_a, model_b)"
            ).empty
            assert list(store.models()["name"]) == ["m0", "m1", "m2", "m3"]
            with pytest.raises(NoAnswerError):
                store.findings("m0", "m1")
    with open_store(path, "update") as store:
        assert (
            store.compare().failed
        )  # its file would be compared with fingerprints of another kind
        assert store.ingest(path.parent / "models").replaced == ["m1"]
        store.compare()
        assert (store.matrix("block").values == truth).all()
        altered_left = store.sql("select count(*) as n from tensor where fingerprint_version = 1")
        assert altered_left["n"].item() == 0


def test_estimates_of_older_sketches_are_made_again(path: Path) -> None:
    with open_store(path, "update") as store:
        store.sql("delete from component_distance")
        store.sql("update model_pair set done = false")
        store.compare(estimate=True)
        truth = store.matrix("block").values
        versions = store.sql("select distinct version from component_distance")["version"]
        assert versions.item() == FINGERPRINT_VERSION
    altered(path, "update component_distance set l2 = 0, version = 1 where model_a = 1")
    with open_store(path, "read") as store:
        assert [x != x for x in store.matrix("block").values[0]] == [False, True, True, True]
    with open_store(path, "update") as store:
        assert (store.matrix("block", estimate=True).values == truth).all()


@pytest.mark.parametrize("table", ["model set fingerprint", "tensor_distance set metric"])
def test_rows_of_a_version_to_come_are_refused(path: Path, table: str) -> None:
    altered(path, f"update {table}_version = 99")
    with pytest.raises(StoreTooNewError, match="a version that this megasim does not know"):
        open_store(path, "read")
