"""One question, one answer: every number that stands in two places is the same in both."""

from __future__ import annotations

import base64
import csv
import gzip
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from megasim import cli
from megasim.workspace import open_store
from tests.answers.test_notebook import small_demo
from tests.exchange.merged_models import store_of

PAIR = ("mix-00", "mix-30")


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return store_of(tmp_path_factory.mktemp("consistency"), small_demo())


@pytest.fixture(scope="module")
def report(path: Path) -> Path:
    with open_store(path, "read") as store:
        store.report(path.parent / "report")
    return path.parent / "report"


@pytest.fixture
def ask(path: Path, capsys: pytest.CaptureFixture[str]):
    def asked(*arguments: str) -> Any:
        capsys.readouterr()
        assert cli.run(["--db", str(path), *arguments]) == 0
        out = capsys.readouterr().out
        return json.loads(out) if "--json" in arguments else out

    return asked


def table(file: Path) -> list[dict[str, str]]:
    with file.open(encoding="utf-8") as lines:
        return list(csv.DictReader(lines))


def test_the_distance_of_a_component_is_one_number(ask, report: Path) -> None:
    a, b = PAIR
    (told,) = (f for f in ask("findings", a, b, "--json") if f["component"] == "unet")
    query = f"select * from component_distances where model_a='{a}' and model_b='{b}'"
    (row,) = (r for r in ask("sql", query, "--json") if r["component"] == "unet")
    matrix = ask("matrix", "-c", "unet", "--json")
    at = [matrix["models"].index(name) for name in PAIR]
    by_block = [
        r["l2"] for r in ask("findings", a, b, "--by", "block", "-c", "unet", "--json")["rows"]
    ]
    layers = [r["l2"] for r in ask("layers", a, b, "-c", "unet", "--json") if r["l2"] is not None]
    written = [
        r
        for r in table(report / "data/distances-unet.csv")
        if {r["model_a"], r["model_b"]} == {a, b}
    ]
    near = next(r for r in ask("nearest", a, "-k", "8", "-c", "unet", "--json") if r["model"] == b)
    expected = told["l2"]
    assert row["l2"] == matrix["values"][at[0]][at[1]] == near["l2"] == expected
    assert [float(r["distance"]) for r in written] == [expected]
    assert np.sqrt(np.square(by_block).sum()) == pytest.approx(expected, rel=1e-12)
    assert np.sqrt(np.square(layers).sum()) == pytest.approx(expected, rel=1e-12)
    assert told["keys_compared"] == row["keys_compared"] == len(layers)
    assert told["keys_changed"] == row["changed"]


@pytest.mark.parametrize("component", ["unet", "text_encoder", "vae"])
def test_every_distance_of_every_answer_is_that_of_sql(
    path: Path, report: Path, component: str
) -> None:
    parts = {"vae": ("vae_encoder", "vae_decoder", "vae_quant")}.get(component, (component,))
    with open_store(path, "read") as store:
        rows = store.sql("select model_a, model_b, component, l2 from component_distances")
        matrix = store.matrix(component)
        findings = [f for f in store.pair_findings() if f.component in (component, *parts)]
        steps = store.map(component).steps() if component == "unet" else pd.DataFrame()
        edges = store.lineage(component).edges if component == "unet" else ()
    expected: dict[frozenset[str], float] = {}
    for row in rows[rows["component"].isin(parts)].itertuples():
        pair = frozenset((row.model_a, row.model_b))
        expected[pair] = float(np.hypot(expected.get(pair, 0.0), row.l2))
    assert len(expected) == 36
    at = {name: i for i, name in enumerate(matrix.models)}
    told: dict[frozenset[str], float] = {}
    for f in findings:
        pair = frozenset((f.model_a, f.model_b))
        told[pair] = float(np.hypot(told.get(pair, 0.0), f.l2))
    written = {
        frozenset((r["model_a"], r["model_b"])): float(r["distance"])
        for r in table(report / f"data/distances-{component}.csv")
    }
    assert written.keys() == expected.keys() == told.keys()
    for pair, value in expected.items():
        a, b = pair
        assert matrix.values[at[a], at[b]] == pytest.approx(value, rel=1e-12)
        assert told[pair] == pytest.approx(value, rel=1e-12)
        assert written[pair] == pytest.approx(value, rel=1e-12)
    for step in steps.to_dict("records"):
        value = expected[frozenset((step["from"], step["to"]))]
        assert step["length"] == pytest.approx(value, rel=1e-9)
    for edge in edges:
        value = expected[frozenset((edge.parent, edge.child))]
        assert edge.length == pytest.approx(value, rel=1e-9)


def test_a_picture_holds_the_numbers_of_the_matrix(path: Path) -> None:
    pytest.importorskip("bokeh", reason="install the extra interactive")
    with open_store(path, "read") as store:
        matrix = store.matrix("unet")
        item = json.loads(matrix.interactive("name").item)
    order = [matrix.models.index(name) for name in item["models"]]
    (held,) = re.findall(
        r'"data":"([^"]+)"\},"shape":\[9,9\],"dtype":"float32"', json.dumps(item).replace(" ", "")
    )
    values = np.frombuffer(gzip.decompress(base64.b64decode(held)), dtype=np.float32)
    drawn = matrix.values[np.ix_(order, order)]
    assert values.reshape(9, 9) == pytest.approx(drawn, rel=1e-6)


def test_findings_in_words_have_the_numbers_of_the_json(ask) -> None:
    text = ask("findings", *PAIR)
    for finding in ask("findings", *PAIR, "--json"):
        if finding["verdict"] == "changed":
            title = {"unet": "UNet", "text_encoder": "text encoder"}[finding["component"]]
            assert f"{title}: changed, L2 {finding['l2']:.4g} " in text


def test_a_recipe_has_the_same_weights_everywhere(ask, report: Path) -> None:
    recipe = ask("recipe", "mix-30", "-c", "unet", "--json")
    (from_lineage,) = (
        r for r in ask("lineage", "-c", "unet", "--json")["recipes"] if r["model"] == "mix-30"
    )
    assert from_lineage["parents"] == recipe["parents"]
    assert from_lineage["unexplained"] == recipe["unexplained"]
    weights = {p["model"]: p["weight"] for p in recipe["parents"]}
    edges = {
        e["parent"]: e["weight"]
        for e in ask("lineage", "--json")["edges"]
        if e["child"] == "mix-30"
    }
    assert edges == weights
    written = {
        r["parent"]: float(r["weight"])
        for r in table(report / "data/lineage-unet.csv")
        if r["child"] == "mix-30"
    }
    assert written == weights
    assert recipe["sentence"] in ask("recipe", "mix-30", "-c", "unet")
    assert recipe["sentence"] in (report / "index.html").read_text(encoding="utf-8")


def test_a_recipe_does_not_depend_on_what_else_is_there(path: Path) -> None:
    with open_store(path, "read") as store:
        found = store.recipe("mix-30", "unet")
        named = store.recipe("mix-30", "unet", parents=["mix-00", "mix-100"])
        assert found.parents == named.parents
        assert found.blocks == named.blocks


def test_groups_and_sql_count_the_same_models(ask) -> None:
    groups = [
        set(g["models"]) for g in ask("findings", "--groups", "--json") if g["component"] == "vae"
    ]
    rows = [
        set(r["who"]) for r in ask("sql", "--example", "shared_vae", "--json") if r["models"] > 1
    ]
    assert sorted(map(sorted, groups)) == sorted(map(sorted, rows))
    text = ask("findings", "--groups")
    assert re.search(rf"^VAE: the same in {len(groups[0])} models", text, re.MULTILINE)


def test_map_matrix_and_report_have_the_same_models(ask, report: Path) -> None:
    models = ask("matrix", "-c", "unet", "--json")["models"]
    assert sorted(ask("map", "-c", "unet", "--json")["models"]) == sorted(models)
    assert sorted({r["model"] for r in table(report / "data/map-unet.csv")}) == sorted(models)
    assert len(table(report / "data/models.csv")) == len(ask("models", "--json"))


@pytest.mark.parametrize(
    "command",
    [
        ["nearest", "mix-00"],
        ["matrix", "-c", "unet", "--estimate"],
        ["recipe", "mix-30", "--estimate"],
        ["lineage", "--estimate"],
        ["findings"],
        ["map"],
    ],
    ids=" ".join,
)
def test_no_command_changes_what_another_answers(
    tmp_path: Path, command: list[str], capsys
) -> None:
    some = {name: state for name, state in small_demo().items() if name.startswith("mix-")}
    path = store_of(tmp_path, some)
    with open_store(path) as store:
        store.sql("delete from component_distance")
        store.sql("update model_pair set done = false where model_a = 1")
        store.compare(models=["mix-30", "mix-70"])
        before = store.store.content_digest(), store.findings().to_json()
    assert cli.run(["--db", str(path), *command]) in (0, 1)
    with open_store(path, "read") as store:
        assert (store.store.content_digest(), store.findings().to_json()) == before


def test_what_hashes_prove_is_no_estimate(tmp_path: Path) -> None:
    some = {name: state for name, state in small_demo().items() if name in ("base-fp16", "chain-1")}
    path = store_of(tmp_path, some)
    with open_store(path) as store:
        store.sql("delete from component_distance")
        store.sql("delete from model_pair")
        store.compare(estimate=True)
        rows = store.sql("select component, source, l2 from component_distances")
        sources = rows.set_index("component")["source"]
        assert sources["unet"] == "estimated"
        assert set(sources.drop("unet")) == {"exact"}
        told = {f.component: f.source for f in store.pair_findings("base-fp16", "chain-1")}
        assert told["text_encoder"] == "exact"
        assert set(store.matrix("vae").sources.flat) - {""} == {"exact"}
