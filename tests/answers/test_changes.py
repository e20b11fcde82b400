"""Where a model changed: its layers, and sums of them by block and role."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from megasim import cli
from megasim.answers.changes import Changes
from megasim.answers.tables import QueryNote
from megasim.errors import UsageError
from megasim.words import Status
from megasim.workspace import Workspace, open_store
from tests.small_sd import POSITIONS, TEXT, UNET, VAE, compared_store, small_sd, trained, without

IN01 = UNET + "input_blocks.1."


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    base = small_sd()
    part = trained(base, 1, IN01)
    # another index is no part of a distance
    tuned = {**trained(part, 2, VAE + "decoder"), POSITIONS: base[POSITIONS] + 1}
    shorter = without(tuned, UNET + "out.2", TEXT + "encoder.layers.11")
    return compared_store(tmp_path_factory.mktemp("changes"), {"a": base, "b": tuned, "c": shorter})


@pytest.fixture
def store(path: Path) -> Workspace:
    with open_store(path, "read") as store:
        yield store


def test_layers_are_the_same_in_either_order_but_for_the_sides(store: Workspace) -> None:
    there, back = store.layers("a", "c"), store.layers("c", "a")
    assert there["canonical_key"].tolist() == back["canonical_key"].tolist()
    np.testing.assert_array_equal(there["l2"], back["l2"])
    assert there["key_a"].tolist() == back["key_b"].tolist()
    turned = [str(Status(status).other_side) for status in there["status"]]
    assert turned == back["status"].tolist()
    assert (there["status"] == "missing_b").sum() == 4
    missing = there[there["status"] == "missing_b"]
    assert missing["l2"].isna().all()
    assert missing["share"].isna().all()


def test_the_most_changed_come_first(store: Workspace) -> None:
    layers = store.layers("a", "b", "unet")
    known = layers["l2"].dropna()
    assert known.is_monotonic_decreasing
    assert layers["share"].sum() == pytest.approx(1)
    top = store.layers("a", "b", "unet", top=2)
    assert top["canonical_key"].tolist() == layers["canonical_key"].tolist()[:2]
    assert set(layers[layers["l2"] > 0]["block"]) == {"IN01"}
    np.testing.assert_allclose(layers["relative"], layers["l2"] / layers["norm"])


@pytest.mark.parametrize("by", ["block", "role", "layer"])
def test_sums_add_up_to_the_distance_of_the_component(store: Workspace, by: str) -> None:
    table = store.changes("b", "a", by).to_frame()
    whole = store.sql(
        "select component, l2, keys_compared from component_distances "
        "where model_a = 'a' and model_b = 'b'"
    ).set_index("component")
    for component, rows in table.groupby("component"):
        assert np.sqrt((rows["l2"] ** 2).sum()) == pytest.approx(whole.loc[component, "l2"])
        assert (rows["keys"] - rows["without_distance"]).sum() == whole.loc[
            component, "keys_compared"
        ]
        if whole.loc[component, "l2"] > 0:
            assert rows["share"].sum() == pytest.approx(1)
        else:
            assert rows["share"].isna().all()


def test_blocks_stand_along_the_network(store: Workspace) -> None:
    found = store.changes("a", "b", component="unet")
    assert isinstance(found, Changes)
    assert found.to_frame()["block"].tolist() == ["IN00", "IN01", "IN02", "M00", "OUT"]
    row = found.to_frame().set_index("block").loc["IN01"]
    assert (row["keys"], row["changed"], row["share"]) == (3, 3, 1.0)
    assert found.to_json()["rows"][0]["share"] == 0.0


def test_what_has_no_distance_is_counted_apart(store: Workspace) -> None:
    rows = store.changes("a", "c", component="unet").to_frame().set_index("block")
    assert rows.loc["OUT", ["keys", "changed", "without_distance"]].tolist() == [1, 0, 1]
    assert np.isnan(rows.loc["OUT", "l2"])
    headlines = [headline for headline, _ in store.changes("a", "c").sections()]
    assert any("1 key without a distance" in headline for headline in headlines)


def test_a_model_is_not_compared_with_itself(store: Workspace) -> None:
    with pytest.raises(UsageError, match="same as itself"):
        store.layers("a", "a")


def test_commands_show_and_write_them(
    path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(*arguments: str) -> str:
        assert cli.run(["--db", str(path), *arguments]) == 0
        return capsys.readouterr().out

    text = run("findings", "b", "a", "--by", "block")
    assert "UNet: L2" in text
    assert "VAE encoder: no key changed" in text
    assert "█" in text
    assert run("layers", "b", "a", "--top", "2", "--csv").count("\n") == 3
    assert len(json.loads(run("layers", "b", "a", "-c", "vae", "--json"))) == 5
    by_role = json.loads(run("findings", "a", "b", "--by", "role", "-c", "unet", "--json"))
    assert {row["component"] for row in by_role["rows"]} == {"unet"}
    file = tmp_path / "blocks.csv"
    run("findings", "a", "b", "--by", "block", "-o", str(file))
    assert file.read_text().startswith("component,block,keys,changed,without_distance,l2,share")
    assert cli.run(["--db", str(path), "findings", "--by", "block"]) == 2
    assert cli.run(["--db", str(path), "findings", "a", "b", "-c", "unet"]) == 2
    assert cli.run(["--db", str(path), "layers", "a", "b", "-o", "x.txt"]) == 2


@pytest.mark.parametrize(
    "query",
    [
        "select * from layer_distances where model_a = '{}' and model_b = '{}'",
        "select count(*), sum(l2) from component_distances where model_a = '{}' and model_b = '{}'",
    ],
)
def test_a_query_that_names_a_pair_the_other_way_round_says_so(
    store: Workspace, query: str
) -> None:
    with pytest.warns(QueryNote, match="model_a and model_b exchanged"):
        store.sql(query.format("b", "a"))


@pytest.mark.filterwarnings("error")
def test_a_query_that_finds_what_there_is_says_nothing(store: Workspace) -> None:
    query = "select * from layer_distances where model_a = '{}' and model_b = '{}'"
    assert len(store.sql(query.format("a", "b")))
    assert not len(store.sql(query.format("a", "nobody")))
    assert store.sql("select count(*) as n from models where name = 'x'")["n"].item() == 0
