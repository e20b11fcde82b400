"""Recipes and lineage on real files: the demo zoo, from checkpoints to answers."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from megasim import cli
from megasim.anatomy.block_order import block_place
from megasim.commands.lineage import blocks_table
from megasim.errors import NoAnswerError, UsageError
from megasim.estimate.points import nearest_by_sketch, sketched_distances
from megasim.matrix.distance_matrix import DistanceMatrix
from megasim.workspace import Workspace, open_store
from megasim.zoo.building import build_recipe_zoo
from megasim.zoo.history import recipe_by_ends
from megasim.zoo.plans import ZOO_RECIPES, spread_block_weights


@pytest.fixture(scope="module")
def ingested(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("recipes")
    build_recipe_zoo(folder / "models", tunes=6)
    with open_store(folder / "ingested.duckdb") as store:
        store.ingest(folder / "models")
    return folder / "ingested.duckdb"


@pytest.fixture(scope="module")
def zoo(ingested: Path) -> Workspace:
    store = open_store(shutil.copy(ingested, ingested.with_name("store.duckdb")))
    store.compare()
    return store


@pytest.fixture(scope="module")
def sketches(ingested: Path) -> Workspace:
    """A store in which nothing was compared."""
    return open_store(ingested, "read")


@pytest.mark.parametrize("name", [m.name for m in ZOO_RECIPES if m.kind == "merge"])
def test_merges_in_files_are_recovered(zoo: Workspace, name: str) -> None:
    recipe = zoo.recipe(name)
    assert recipe.claimed
    found = {p.model: p.weight for p in recipe.parents}
    assert found == pytest.approx(recipe_by_ends(ZOO_RECIPES, name), abs=0.01)
    truth = recipe_by_ends(ZOO_RECIPES, name)
    for block in recipe.blocks:
        weights = dict(zip((p.model for p in recipe.parents), block.weights, strict=True))
        assert weights == pytest.approx(truth, abs=0.01)


@pytest.mark.parametrize("name", ["two", "three", "four", "nested", "add-half", "add-full"])
def test_merges_are_recovered_over_all_components(zoo: Workspace, name: str) -> None:
    """Text encoder and VAE are the same in all: their weights make no room for noise."""
    recipe = zoo.recipe(name, "all")
    assert recipe.claimed
    truth = recipe_by_ends(ZOO_RECIPES, name)
    assert {p.model: p.weight for p in recipe.parents} == pytest.approx(truth, abs=0.01)


def test_blocks_in_files_are_recovered(zoo: Workspace) -> None:
    recipe = zoo.recipe("blocks")
    assert recipe.blockwise
    east = [p.model for p in recipe.parents].index("east")
    found = {b.block: b.weights[east] for b in recipe.blocks}
    shares = {k: v for k, v in spread_block_weights(0.8).items() if k != "BASE"}
    assert len(shares) == 25
    assert {k: found[k] for k in shares} == pytest.approx(shares, abs=0.01)


def test_no_fine_tune_in_files_is_called_a_merge(zoo: Workspace) -> None:
    tunes = [m for m in zoo.store.model_ids() if m.startswith("tune-")]
    assert len(tunes) == 6
    assert not any(zoo.recipe(tune).claimed for tune in tunes)


def test_sql_shows_the_same_inner_products(zoo: Workspace) -> None:
    rows = zoo.sql_example("recipe").set_index("model")
    two = {p.model: p.weight for p in zoo.recipe("two").parents}
    row = rows.loc["two"]
    assert {row["a"]: row["weight_a"], row["b"]: row["weight_b"]} == pytest.approx(two, abs=1e-3)


def test_blocks_that_do_not_differ_have_no_weights(zoo: Workspace) -> None:
    table = blocks_table(zoo.recipe("two", "all", parents=["north", "east"])).set_index("block")
    assert table.loc["OUT"].notna().all()
    assert table.loc["conv_out"].isna().all()  # of the VAE, the same in all


def test_a_model_without_the_component_is_told(zoo: Workspace) -> None:
    with pytest.raises(UsageError, match="no such model"):
        zoo.recipe("nobody")
    with pytest.raises(NoAnswerError):
        zoo.recipe("two", "text_encoder_3")


@pytest.mark.parametrize("name", ["two", "four", "nested", "add-half"])
def test_merges_are_recovered_from_sketches_of_files(sketches: Workspace, name: str) -> None:
    recipe = sketches.recipe(name, estimate=True)
    assert recipe.claimed
    assert recipe.source == "estimated"
    assert "estimated" in recipe.sentence()
    truth = recipe_by_ends(ZOO_RECIPES, name)
    assert {p.model: p.weight for p in recipe.parents} == pytest.approx(truth, abs=0.05)
    assert all(0 < p.error < 0.05 for p in recipe.parents)
    assert len(recipe.blocks) >= 25


def test_blocks_are_recovered_from_sketches_of_files(sketches: Workspace) -> None:
    recipe = sketches.recipe("blocks", estimate=True)
    assert recipe.blockwise
    east = [p.model for p in recipe.parents].index("east")
    found = {b.block: b.weights[east] for b in recipe.blocks}
    shares = {k: v for k, v in spread_block_weights(0.8).items() if k != "BASE"}
    assert {k: found[k] for k in shares} == pytest.approx(shares, abs=0.05)


def test_no_fine_tune_is_a_merge_from_sketches(sketches: Workspace) -> None:
    for tune in ("tune-01", "tune-04"):
        recipe = sketches.recipe(tune, estimate=True)
        assert not recipe.claimed
        data = recipe.to_json()
        assert data["parents"] == []
        assert data["rivals"]
        assert "best weights" not in recipe.sentence()  # they leave nearly all


def test_of_many_models_parents_are_sought_among_the_nearest(
    sketches: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    count = len(sketches.models())
    monkeypatch.setattr("megasim.lineage.from_store.MOST_LAYERED_MODELS", count - 2)
    recipe = sketches.recipe("two", estimate=True)
    found = {p.model: p.weight for p in recipe.parents}
    assert found == pytest.approx(recipe_by_ends(ZOO_RECIPES, "two"), abs=0.05)
    near = nearest_by_sketch(sketches.store, "unet", "two", 5)
    matrix, _ = sketched_distances(sketches.store, "unet", with_layers=False)
    row = matrix.values[matrix.models.index("two")]
    # who is near is known from some layers; two that are as near may change places
    nearest = [matrix.models[i] for i in row.argsort()[1:8]]
    assert len(near) == 5
    assert set(near) <= set(nearest)
    with pytest.raises(NoAnswerError):
        nearest_by_sketch(sketches.store, "text_encoder_3", "two", 5)


def test_without_distances_the_sketches_are_offered(sketches: Workspace) -> None:
    with pytest.raises(NoAnswerError) as caught:
        sketches.recipe("two")
    assert "--estimate" in (caught.value.remedy or "")


def test_measured_and_estimated_distances_are_not_mixed(ingested: Path, tmp_path: Path) -> None:
    some = ["north", "east", "two"]
    with open_store(shutil.copy(ingested, tmp_path / "mixed.duckdb")) as store:
        store.compare(estimate=True)
        estimated = store.recipe("two")
        assert estimated.source == "estimated"
        store.compare(models=some)
        recipe = store.recipe("two")
        assert recipe.source == "exact"
        assert {p.model for p in recipe.parents} == {"north", "east"}
        assert any("--estimate" in note for note in recipe.notes)
        lineage = store.lineage()
        assert lineage.source == "exact"
        assert any("only estimated" in note for note in lineage.notes)
        with pytest.raises(NoAnswerError) as told:
            store.recipe("four")
        assert "--estimate" in str(told.value.remedy)
        with pytest.raises(NoAnswerError, match="no distance") as told:
            store.direction("north", "east", "two", "four")
        assert "--estimate" in str(told.value.remedy)
        assert store.direction("north", "east", "north", "two").source == "exact"
        assert store.recipe("four", estimate=True).claimed


def test_the_sketches_agree_with_the_weights(zoo: Workspace, sketches: Workspace) -> None:
    models = ["origin", "north", "origin", "add-full"]
    exact = zoo.direction("origin", "north", "origin", "add-full")
    estimate = sketches.direction(*models, estimate=True)
    assert estimate.source == "estimated"
    assert estimate.error > 0
    assert abs(estimate.cosine - exact.cosine) < 4 * estimate.error
    whole, distances = zoo.matrix("unet"), sketches_of(sketches)
    off = np.abs(distances.values - whole.values)[distances.errors > 0]
    assert (off < 5 * distances.errors[distances.errors > 0]).all()


def sketches_of(store: Workspace) -> DistanceMatrix:
    return sketched_distances(store.store, "unet", with_layers=False)[0]


def test_the_tree_from_sketches_is_that_of_the_weights(zoo: Workspace, sketches: Workspace) -> None:
    exact, _ = zoo.lineage_and_claims()
    estimate, _ = sketches.lineage_and_claims(estimate=True)
    assert estimate.source == "estimated"
    merged = {(e.parent, e.child) for e in exact.edges if e.kind == "merge"}
    assert {(e.parent, e.child) for e in estimate.edges if e.kind == "merge"} == merged
    truth = {
        (parent, m.name)
        for m in ZOO_RECIPES
        if "merge" in m.kind
        for parent in recipe_by_ends(ZOO_RECIPES, m.name) or m.parents
    }
    assert merged == truth


def test_a_file_of_claims_is_checked_from_the_command_line(
    shared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ends = ["wd-1-4-anime_e2", "cjd-v2-1-1"]
    half = "0.5(wd-1-4-anime_e2) + 0.5(v2-1-1)"
    claims = [
        {"model": half, "parents": ends, "weights": [0.5, 0.5]},
        {"model": "0.9(wd-1-4-anime_e2) + 0.1(v2-1-1)", "parents": ends, "weights": [0.6, 0.4]},
        {"model": "nobody", "parents": ends, "weights": [0.6, 0.4]},
    ]
    (tmp_path / "claims.json").write_text(json.dumps(claims))
    db = ["--db", str(tmp_path / "store.duckdb")]
    assert cli.run([*db, "import", str(shared / "published" / "v2" / "cwd.json")]) == 0
    capsys.readouterr()
    asked = [*db, "lineage", "--claims", str(tmp_path / "claims.json")]
    assert cli.run([*asked, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["claims"]
    assert [c["verdict"] for c in found] == ["confirmed", "contradicted", "not decidable"]
    assert cli.run([*asked, "--no-metadata"]) == 0
    assert f"claim confirmed: {half}" in capsys.readouterr().out
    (tmp_path / "claims.json").write_text("{")
    assert cli.run(asked) == 2
    assert "not a file of claims" in capsys.readouterr().err


def test_blocks_stand_in_the_order_of_the_network() -> None:
    ordered = ["TIME", "IN02", "IN10", "M00", "OUT00", "OUT11", "OUT", ""]
    assert sorted(sorted(ordered), key=block_place) == ordered
    assert sorted(["layer 10", "layer 2"], key=block_place) == ["layer 2", "layer 10"]
