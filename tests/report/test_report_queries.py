"""The queries that a report shows give the files beside them."""

from __future__ import annotations

import re
from pathlib import Path

import duckdb
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from megasim.matrix.files import matrix_to_long
from megasim.report.page import write_report
from megasim.report.parts import csv_bytes
from megasim.store.matrices import load_layers, load_matrix
from megasim.store.rows import Store
from megasim.store.runnable_queries import literal
from megasim.store.statements import named_statements, purpose_of
from tests.report.written_reports import VIEWS, Written
from tests.simulated_store import model_names


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
