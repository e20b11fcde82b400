"""Recipes and lineage on real files: the demo zoo, from checkpoints to answers."""

from __future__ import annotations

import pytest

from megasim.errors import NoAnswerError, UsageError
from megasim.workspace import Workspace, open_store
from megasim.zoo.building import build_recipe_zoo
from megasim.zoo.history import recipe_by_ends
from megasim.zoo.plans import ZOO_RECIPES, spread_block_weights


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    folder = tmp_path_factory.mktemp("recipes")
    build_recipe_zoo(folder / "models", tunes=6)
    store = open_store(folder / "store.duckdb")
    store.ingest(folder / "models")
    store.compare()
    return store


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


def test_a_model_without_the_component_is_told(zoo: Workspace) -> None:
    with pytest.raises(UsageError, match="no such model"):
        zoo.recipe("nobody")
    with pytest.raises(NoAnswerError):
        zoo.recipe("two", "text_encoder_3")
