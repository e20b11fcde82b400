"""Recipes as merge tools read them."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from megasim import cli
from megasim.errors import NoAnswerError
from megasim.exchange.merge_plan import MergedKey, MergePlan, rounded
from megasim.exchange.recipe_files import MERGE_BLOCKS, block_numbers, mecha_text, mergekit_yaml
from megasim.store.rows import Model
from megasim.workspace import Workspace, open_store
from tests.exchange.merged_models import SHARES, sd_store
from tests.models import nudged, random_model, write_model
from tests.small_sd import TEXT, UNET, VAE

GOLDEN = Path(__file__).parents[1] / "golden"


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return sd_store(tmp_path_factory.mktemp("recipes"))


@pytest.fixture
def store(path: Path) -> Workspace:
    with open_store(path, "read") as store:
        yield store


def plan_of(store: Workspace, model: str) -> MergePlan:
    return store.merge_plan(model, store.recipes(model))


def test_each_key_takes_the_shares_it_was_made_with(store: Workspace) -> None:
    plan = plan_of(store, "by-block")
    names = [source.name for source in plan.sources]
    assert sorted(names) == ["a", "b"]
    for key in plan.merged:
        share = dict(zip(names, key.weights, strict=True))["b"]
        if key.component == "unet":
            assert share == SHARES[key.block] == plan.by_block("unet")[key.block][names.index("b")]
        else:
            assert share == (SHARES[""] if key.component == "text_encoder" else 0)
    assert plan.notes[-1] == "VAE: from a, which holds the same"
    assert plan.dtype == "float16"


def test_a_sum_with_a_difference_keeps_its_signs(store: Workspace) -> None:
    plan = plan_of(store, "sum")
    weights = dict(zip([s.name for s in plan.sources], plan.by_block("unet")["M00"], strict=True))
    assert weights == {"a": 1.0, "b": 0.5, "base": -0.5}


@pytest.mark.parametrize(("name", "write"), [("yaml", mergekit_yaml), ("mecha", mecha_text)])
@pytest.mark.parametrize("model", ["by-block", "sum"])
def test_files_are_what_they_were(
    store: Workspace, path: Path, model: str, name: str, write
) -> None:
    """With GOLDEN=write in the environment, what a file is now becomes what it should be."""
    text = write(plan_of(store, model)).replace(str(path.parent), "/models")
    golden = GOLDEN / f"recipe-{model}.{name}"
    if os.environ.get("GOLDEN") == "write":
        golden.write_text(text, encoding="utf-8")
    assert text == golden.read_text(encoding="utf-8")


def test_blocks_stand_in_the_order_of_the_network(store: Workspace) -> None:
    recipe = store.recipe("by-block", "unet")
    assert [b.block for b in recipe.blocks] == ["IN00", "IN01", "IN02", "M00", "OUT"]
    assert [b["block"] for b in recipe.to_json()["blocks"]] == [b.block for b in recipe.blocks]


def sd1_plan(weights: dict[str, tuple[float, ...]], sources: int = 2) -> MergePlan:
    blocks = {**dict.fromkeys(MERGE_BLOCKS, weights["usual"]), **weights}
    text = blocks.pop("text")
    del blocks["usual"]
    merged = [MergedKey((b,), b, "unet", b, w) for b, w in blocks.items()]
    merged.append(MergedKey(("t",), "t", "text_encoder", "", text))
    models = tuple(Model(name, path=f"/{name}.safetensors") for name in "abc"[:sources])
    return MergePlan("m", "SD1", "float16", models, tuple(merged), ())


def test_numbers_by_block_are_the_share_of_the_second_model() -> None:
    plan = sd1_plan({"usual": (0.75, 0.25), "IN02": (0.1, 0.9), "text": (0.6, 0.4)})
    line, notes = block_numbers(plan)
    numbers = line.split(",")
    assert len(numbers) == 26
    assert (numbers[0], numbers[3], numbers[2], numbers[25]) == ("0.4", "0.9", "0.25", "0.25")
    assert block_numbers(plan, with_base=False)[0] == line.partition(",")[2]
    assert notes == ["A = a, B = b; the numbers are the share of B; base 0.4"]


def test_of_an_added_difference_they_are_its_factor() -> None:
    plan = sd1_plan({"usual": (1.0, 0.3, -0.3), "text": (1.0, 0.3, -0.3)}, 3)
    line, notes = block_numbers(plan)
    assert set(line.split(",")) == {"0.3"}
    assert notes[0].startswith("A = a, B = b, C = c;")


def test_what_a_line_of_numbers_cannot_tell_is_said() -> None:
    plan = sd1_plan({"usual": (0.5, 0.5), "TIME": (0.9, 0.1), "text": (0.5, 0.5)})
    assert block_numbers(plan)[1][1] == "TIME has 0.1; tools count it with the base or IN00"
    with pytest.raises(NoAnswerError, match="made of 3 models"):
        block_numbers(sd1_plan({"usual": (0.4, 0.3, 0.3), "text": (0.4, 0.3, 0.3)}, 3))


def test_a_network_of_other_blocks_has_no_such_line(store: Workspace) -> None:
    with pytest.raises(NoAnswerError, match="25 blocks"):
        block_numbers(plan_of(store, "by-block"))


def test_what_no_recipe_explains_is_not_made_up(tmp_path: Path) -> None:
    base = random_model(1)
    files = {"a": base, "b": nudged(base, 2), "c": nudged(base, 3)}
    for name, state in files.items():
        write_model(tmp_path / f"{name}.safetensors", state)
    with open_store(tmp_path / "s.duckdb") as store:
        store.ingest(tmp_path)
        store.compare()
        with pytest.raises(NoAnswerError, match=r"c \(whole model\) cannot be made of these"):
            plan_of(store, "c")


def test_parents_that_name_keys_otherwise_are_refused(tmp_path: Path) -> None:
    from tests.exchange.merged_models import by_block, merged, sd_parents, store_of

    a, b, _ = sd_parents()
    m = merged([a, b], by_block)
    renamed = {k.replace("text_model.", ""): v for k, v in b.items()}
    path = store_of(tmp_path, {"a": a, "b": renamed, "m": m})
    with open_store(path, "read") as store, pytest.raises(NoAnswerError, match="different ways"):
        plan_of(store, "m")


def test_weights_are_hundredths_where_that_explains_as_much() -> None:
    assert rounded([0.97951, 0.02049], 0.001) == (0.98, 0.02)
    assert rounded([0.97951, 0.02049], 0.0001) == (0.9795, 0.0205)
    assert rounded([1.0003, 0.4996, -0.4999], 0.001) == (1.0, 0.5, -0.5)


def test_the_command_writes_and_prints_them(
    path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(*arguments: str, code: int = 0) -> tuple[str, str]:
        assert cli.run(["--db", str(path), "recipe", *arguments]) == code
        return capsys.readouterr()

    out, _ = run("by-block", "-c", "all")
    assert all(f"by-block ({name})" in out for name in ("unet", "text_encoder", "vae"))
    assert "by-block (vae): the same weights as a, b, base, sum, cast or quantised at most" in out
    listed = json.loads(run("by-block", "-c", "all", "--json")[0])
    assert [r["component"] for r in listed] == ["unet", "text_encoder", "vae"]
    _, err = run("by-block", "-o", str(tmp_path / "r.yaml"))
    assert f"wrote {tmp_path / 'r.yaml'}" in err
    run("by-block", "-c", "unet", "-o", str(tmp_path / "u.mecha"))
    shares = dict(
        x.split("=")
        for x in (tmp_path / "u.mecha").read_text().split()
        if x.startswith((UNET, TEXT, VAE))
    )
    assert {v for k, v in shares.items() if k.startswith((TEXT, VAE))} == {"0.0"}
    assert shares[UNET + "out.2.weight"] == "0.1"  # of a: more of the UNet is of b
    run("by-block", "-o", str(tmp_path / "r.json"))
    assert len(json.loads((tmp_path / "r.json").read_text())) == 3
    assert run("by-block", "-o", "r.txt", code=2)
    assert "25 blocks" in run("by-block", "--format", "mbw", code=1)[1]
