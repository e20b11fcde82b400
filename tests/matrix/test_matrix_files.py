"""A matrix written is the matrix read: values, gaps, what each value is, and any name."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pandas as pd
import pytest

from megasim import open_store
from megasim.cli import run as run_command
from megasim.errors import UsageError
from megasim.matrix.distance_matrix import DistanceMatrix
from megasim.matrix.files import MATRIX_ENDINGS, write_matrix
from tests.models import nudged, random_model, write_model

NAMES = (
    "model",  # as the first column is called
    "Model",  # another name for whoever does not mind the case
    'a,"b";\tc',
    "two\nlines",
    "=1+1",
    "NA",
    "ноль 零 🙂",
    "../../etc/passwd",
    "<script>alert(1)</script>",
    "a'); drop table model; --",
    "",
    "007",
)


def made(kind: str, names: tuple[str, ...] = NAMES) -> DistanceMatrix:
    """Return a matrix of numbers that need all their digits, some of them missing."""
    n = len(names)
    rng = np.random.default_rng(0)
    values = np.triu(rng.lognormal(0, 30, (n, n)), 1)
    values[0, 1:4] = (0.1, 1 / 3, 5e-324)
    values[1, 3] = values[2, 5] = np.nan
    values += values.T
    missing = np.isnan(values)
    off = ~np.eye(n, dtype=bool) & ~missing
    sources = np.where(off, "exact", "").astype("U9")
    errors = np.where(missing, np.nan, 0.0)
    if kind == "estimated":
        sources[0, 2] = sources[2, 0] = "estimated"
        errors[0, 2] = errors[2, 0] = 0.044
        values[4, 5] = values[5, 4] = 0
        sources[4, 5] = sources[5, 4] = "unproven"
    keys = np.where(off, rng.integers(1, 9, (n, n)), 0)
    return DistanceMatrix(
        models=names,
        values=values,
        component="unet",
        metric="l2",
        sources=sources,
        errors=errors,
        keys_compared=np.triu(keys) + np.triu(keys).T,
        coverage=np.where(missing, np.nan, 0.75),
    )


def read_frame(path: Path) -> pd.DataFrame:
    if path.suffix == ".parquet":
        return pd.DataFrame(duckdb.read_parquet(str(path)).fetchnumpy())
    with path.open(encoding="utf-8", newline="") as file:
        head, *rows = csv.reader(file)
    columns = zip(*rows, strict=True)
    return pd.concat([pd.Series(list(c)) for c in columns], axis=1).set_axis(head, axis=1)


def numbers(values: Iterable[Any]) -> list[float]:
    """The numbers of a column or list, NaN for what is empty, null or masked."""
    return [
        np.nan if v is None or v is np.ma.masked or v == "" else float(v)
        for v in (values.tolist() if isinstance(values, pd.Series) else values)
    ]


def assert_pairs(frame: pd.DataFrame, matrix: DistanceMatrix) -> None:
    """Every pair stands in the long form as it stands in the matrix."""
    i, j = np.triu_indices(len(matrix.models), 1)
    assert frame["model_a"].tolist() == [matrix.models[k] for k in i]
    assert frame["model_b"].tolist() == [matrix.models[k] for k in j]
    assert set(frame["component"]) == {"unet"}
    for column, stored in (
        ("l2", matrix.values),
        ("error", matrix.errors),
        ("keys_compared", matrix.keys_compared),
        ("coverage", matrix.coverage),
    ):
        assert np.array_equal(numbers(frame[column]), stored[i, j], equal_nan=True), column
    assert [s or "" for s in frame["source"].fillna("")] == matrix.sources[i, j].tolist()


@pytest.mark.parametrize("kind", ["exact", "estimated"])
@pytest.mark.parametrize("ending", [".csv", ".parquet"])
def test_long_tables(tmp_path: Path, ending: str, kind: str) -> None:
    matrix, path = made(kind), tmp_path / f"m{ending}"
    assert write_matrix(matrix, path, long=True)
    assert_pairs(read_frame(path), matrix)


@pytest.mark.parametrize("ending", [".csv", ".parquet"])
def test_square_tables(tmp_path: Path, ending: str) -> None:
    names = tuple(name for name in NAMES if name.casefold() not in ("model", ""))
    matrix, path = made("exact", names), tmp_path / f"m{ending}"
    assert not write_matrix(matrix, path)
    frame = read_frame(path)
    assert frame.columns.tolist() == ["model", *names]
    assert frame["model"].tolist() == list(names)
    values = [numbers(frame[name]) for name in names]
    assert np.array_equal(np.transpose(values), matrix.values, equal_nan=True)


@pytest.mark.parametrize("ending", [".csv", ".parquet"])
def test_a_table_is_long_when_a_value_is_not_exact(tmp_path: Path, ending: str) -> None:
    matrix, path = made("estimated"), tmp_path / f"m{ending}"
    assert write_matrix(matrix, path)
    assert_pairs(read_frame(path), matrix)
    row = read_frame(path).iloc[1]
    assert (row["source"], float(row["error"])) == ("estimated", 0.044)


@pytest.mark.parametrize("names", [("a", "A", "b", "c"), ("model", "a", "b", "c"), ("", *"abc")])
def test_names_that_parquet_cannot_hold_as_columns(tmp_path: Path, names: tuple[str, ...]) -> None:
    matrix = made("exact", (*names, "d", "e"))
    assert write_matrix(matrix, tmp_path / "m.parquet")
    assert_pairs(read_frame(tmp_path / "m.parquet"), matrix)
    assert not write_matrix(matrix, tmp_path / "m.csv")
    with (tmp_path / "m.csv").open(encoding="utf-8", newline="") as file:
        assert next(csv.reader(file)) == ["model", *names, "d", "e"]


@pytest.mark.parametrize("kind", ["exact", "estimated"])
def test_json_holds_everything(tmp_path: Path, kind: str) -> None:
    matrix, path = made(kind), tmp_path / "m.json"
    assert not write_matrix(matrix, path)
    found = json.loads(path.read_text(encoding="utf-8"), parse_constant=pytest.fail)
    assert (found["component"], found["metric"]) == ("unet", "l2")
    assert found["models"] == list(matrix.models)
    assert found["sources"] == matrix.sources.tolist()
    for name in ("values", "errors", "keys_compared", "coverage"):
        read = [numbers(row) for row in found[name]]
        assert np.array_equal(read, getattr(matrix, name), equal_nan=True), name
    assert found["values"][1][3] is None


@pytest.mark.parametrize("kind", ["exact", "estimated"])
def test_npz_holds_everything(tmp_path: Path, kind: str) -> None:
    matrix, path = made(kind), tmp_path / "m.npz"
    assert not write_matrix(matrix, path)
    with np.load(path, allow_pickle=False) as found:
        read = DistanceMatrix(
            models=tuple(found["models"].tolist()),
            component=str(found["component"]),
            metric=str(found["metric"]),
            **{n: found[n] for n in ("values", "sources", "errors", "keys_compared", "coverage")},
        )
    assert (read.models, read.component, read.metric) == (matrix.models, "unet", "l2")
    assert np.array_equal(read.sources, matrix.sources)
    for name in ("values", "errors", "keys_compared", "coverage"):
        assert np.array_equal(getattr(read, name), getattr(matrix, name), equal_nan=True), name


def test_the_same_bytes_each_time(tmp_path: Path) -> None:
    for ending in MATRIX_ENDINGS:
        paths = [tmp_path / f"{i}{ending}" for i in range(2)]
        for path in paths:
            write_matrix(made("estimated"), path)
        assert paths[0].read_bytes() == paths[1].read_bytes()


def test_another_ending_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"m\.xlsx"):
        write_matrix(made("exact"), tmp_path / "m.xlsx")


def test_the_command_writes_and_marks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    db = str(tmp_path / "s.duckdb")
    base = random_model(0, shape=(64, 64))
    with open_store(tmp_path / "s.duckdb") as store:
        for i, name in enumerate(("model", "b", "c")):
            path = write_model(tmp_path / f"{i}.safetensors", nudged(base, i))
            store.ingest(names={name: path})
        store.compare(models=["model", "b"])

    def run(*args: str) -> str:
        assert run_command(["--db", db, "matrix", "-c", "block", *args]) == 0
        return capsys.readouterr().out

    table = run().splitlines()
    assert table[0].split() == ["model", "model", "b", "c"]
    assert table[1].split()[3] == "–"
    exact = float(table[1].split()[2])
    table = run("--estimate").splitlines()
    assert float(table[1].split()[2]) == exact
    assert table[1].split()[3].startswith("~")
    run("--estimate", "-o", str(tmp_path / "m.csv"))
    frame = read_frame(tmp_path / "m.csv")
    assert frame["source"].tolist() == ["exact", "estimated", "estimated"]
    assert [error > 0 for error in numbers(frame["error"])] == [False, True, True]
