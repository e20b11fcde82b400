"""Adapters among the models of a store: changes, which stand in no matrix and are never factors."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import pytest
import torch

from megasim.errors import NoAnswerError
from megasim.workspace import Workspace, open_store
from tests.anatomy.test_anatomy_transformers import flux_single
from tests.answers.adapters_of_sd import ALPHA, LAYERS, change, factors, write_spellings
from tests.answers.test_adapters import State, added, big_adapter, big_model
from tests.models import write_model
from tests.small_sd import cast, small_sd


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory):
    """Five spellings of one LoRA, it with another alpha, another one, and models of it."""
    folder = tmp_path_factory.mktemp("adapters")
    paths = write_spellings(folder / "same", factors(0))
    other_alpha = write_spellings(folder / "alpha", factors(0), alpha=3 * ALPHA)["kohya"]
    unlike = write_spellings(folder / "unlike", factors(9))["kohya"]
    base = cast(small_sd(), torch.float16)
    with open_store(folder / "store.duckdb") as workspace:
        for name, state in (("base", base), ("baked", added(base, change(factors(0)), 0.7))):
            workspace.ingest(write_model(folder / f"{name}.safetensors", state))
        for name, path in {**paths, "stronger": other_alpha, "unlike": unlike}.items():
            workspace.ingest(names={f"lora-{name}": path})
        workspace.compare()
        yield workspace


SPELLINGS = ("kohya", "original", "diffusers", "peft", "old")
ADAPTERS = tuple(f"lora-{name}" for name in (*SPELLINGS, "stronger", "unlike"))


def test_factors_are_changes_and_never_compared(store: Workspace) -> None:
    told = store.sql("select distinct nature from layers where component = 'adapter'")
    assert set(told["nature"]) == {"change", "scale"}
    measured = store.sql(
        "select count(*) from layer_distances where component = 'adapter' and l2 is not null "
        "and nature = 'change' and status <> 'identical' and status <> 'same_values'"
    )
    assert measured.iloc[0, 0] == 0


@pytest.mark.parametrize(("a", "b"), list(itertools.combinations(SPELLINGS, 2)))
def test_the_spellings_of_one_lora_make_the_same_change(store: Workspace, a: str, b: str) -> None:
    report = store.findings(f"lora-{a}", f"lora-{b}")
    (pair,) = report.pairs
    assert pair.verdict == "same_values"
    assert not pair.sentences
    assert all(f.equal or f.keys_changed != f.keys_compared for f in pair.findings)
    (line,) = report.adapters
    first, second = pair.model_a, pair.model_b
    assert line.startswith(f"{first} and {second} make the same change of {len(LAYERS)} layers")
    assert line in report.to_text()


def test_another_alpha_and_another_adapter(store: Workspace) -> None:
    stronger = store.findings("lora-kohya", "lora-stronger")
    assert "3 times the strength: another alpha, and nothing else" in stronger.to_text()
    unlike = store.findings("lora-kohya", "lora-unlike")
    assert unlike.pairs[0].verdict == "changed"
    assert "cosine" in unlike.adapters[0]


def test_findings_over_all_group_the_adapters(store: Workspace) -> None:
    report = store.findings()
    text = report.to_text(whole=True)
    same = [line for line in report.adapters if "make the same change" in line]
    assert len(same) == 1
    assert all(name in same[0] for name in SPELLINGS)
    assert sum("another alpha, and nothing else" in line for line in report.adapters) == 1
    assert not any("is an adapter: it holds changes" in line for line in text.splitlines())
    assert "Adapters, by the changes that they make" in text
    assert not any(component == "adapter" for component, _, _ in report.verdicts)


def test_an_adapter_beside_a_model_is_said_to_be_one(store: Workspace) -> None:
    text = store.findings("lora-kohya", "base").to_text()
    assert "lora-kohya is an adapter: it holds changes, no weights" in text


def test_adapters_stand_in_no_matrix_and_no_tree(store: Workspace) -> None:
    assert store.matrix("all").models == ("base", "baked")
    with pytest.raises(NoAnswerError, match="an adapter, which has no weights"):
        store.matrix("all", models=["base", "lora-kohya"])
    lineage = store.lineage("all")
    assert not set(ADAPTERS) & set(lineage.unrelated)


def test_a_store_of_adapters_alone_says_so(tmp_path: Path) -> None:
    with open_store(tmp_path / "store.duckdb") as workspace:
        workspace.ingest(*write_spellings(tmp_path / "lora", factors(0)).values())
        workspace.compare()
        with pytest.raises(NoAnswerError, match="adapters alone"):
            workspace.matrix()
        they_are, they_make = workspace.findings().adapters
        assert "kohya, original, diffusers, peft, old are adapters: they hold changes" in they_are
        assert they_make.startswith("kohya, original, diffusers, peft and old make the same change")


def test_a_recipe_names_the_adapter(store: Workspace) -> None:
    recipe = store.recipe("baked", "unet")
    assert not recipe.claimed and recipe.adapter is not None
    assert recipe.adapter.base == "base"
    scale = 1 / 3 if recipe.adapter.adapter == "lora-stronger" else 1
    assert recipe.adapter.strength == pytest.approx(0.7 * scale, abs=0.01)
    assert recipe.adapter.error < 0.01
    assert recipe.sentence().startswith("baked (unet) = base + 0.")
    assert recipe.to_json()["adapter"]["base"] == "base"  # type: ignore[index]
    assert any("makes the same change as" in note for note in recipe.notes)
    with pytest.raises(NoAnswerError):
        store.merge_plan("baked", [recipe])


def flux(seed: int, width: int = 48) -> State:
    """A small Flux as its authors save it, in bfloat16."""
    generator = torch.Generator().manual_seed(seed)
    return {
        f"model.diffusion_model.{key}": (0.05 * torch.randn(shape, generator=generator)).bfloat16()
        for key, shape in flux_single(2, 2, False, width).items()
    }


def flux_adapter(path: Path, base: State, seed: int) -> State:
    """Write a LoRA under diffusers' names, which know query, key and value apart.

    Returns its change at strength 1, by the fused keys of the model.
    """
    generator = torch.Generator().manual_seed(seed)
    saved, delta = {}, {}
    for i in range(2):
        key = f"model.diffusion_model.double_blocks.{i}.img_attn.qkv.weight"
        width = base[key].shape[1]
        step = torch.zeros(base[key].shape, dtype=torch.float64)
        for place, name in enumerate(("to_q", "to_k", "to_v")):
            up = 0.03 * torch.randn(width, 4, generator=generator)
            down = 0.1 * torch.randn(4, width, generator=generator)
            module = f"transformer.transformer_blocks.{i}.attn.{name}"
            saved |= {f"{module}.lora_A.weight": down, f"{module}.lora_B.weight": up}
            step[place * width : (place + 1) * width] = up.double() @ down.double()
        delta[key] = step
        module = f"transformer.single_transformer_blocks.{i}.attn.to_q"
        down = 0.1 * torch.randn(4, width, generator=generator)
        up = 0.03 * torch.randn(width, 4, generator=generator)
        saved |= {f"{module}.lora_A.weight": down, f"{module}.lora_B.weight": up}
        key = f"model.diffusion_model.single_blocks.{i}.linear1.weight"
        delta[key] = torch.zeros(base[key].shape, dtype=torch.float64)
        delta[key][:width] = up.double() @ down.double()
    write_model(path, saved)
    return delta


@pytest.mark.parametrize("strength", [0.3, 0.7, 1.0])
def test_a_strength_is_found_in_fused_layers_of_another_architecture(
    tmp_path: Path, strength: float
) -> None:
    """Per block, of a model in bfloat16: the adapter has three layers where the model has one."""
    base = flux(0)
    lora = tmp_path / "lora.safetensors"
    delta = flux_adapter(lora, base, 1)
    strengths = (strength, strength / 2)
    tuned = {k: v + (0.002 * torch.randn(v.shape)).to(v.dtype) for k, v in flux(0).items()}
    with open_store(tmp_path / "store.duckdb") as workspace:
        for name, state in (
            ("base", base),
            ("baked", added(base, delta, *strengths)),
            ("tuned", tuned),
        ):
            workspace.ingest(write_model(tmp_path / f"{name}.safetensors", state))
        workspace.ingest(lora)
        workspace.compare()
        baked = workspace.adapter("lora", model="baked", base="base").baked
        assert baked is not None and baked.is_found
        found = {block.block: block.strength.value for block in baked.blocks}
        blocks = [f"{kind}_blocks.{i}" for i in range(2) for kind in ("double", "single")]
        expected = dict(zip(blocks, strengths * 2, strict=True))
        assert found == pytest.approx(expected, abs=0.01)
        assert "no adapter known here" in workspace.adapters_in("tuned").sentences()[0]
        assert workspace.recipe("tuned", "transformer").adapter is None


def test_a_language_model_in_bfloat16_is_its_base_plus_the_adapter(tmp_path: Path) -> None:
    base = big_model(0, torch.bfloat16)
    adapter, delta = big_adapter(tmp_path / "lora", base, 1, 0.004)
    with open_store(tmp_path / "store.duckdb") as workspace:
        workspace.ingest(write_model(tmp_path / "base.safetensors", base), adapter)
        workspace.ingest(write_model(tmp_path / "m.safetensors", added(base, delta, 0.3)))
        workspace.compare()
        recipe = workspace.recipe("m")
        assert recipe.adapter is not None
        assert recipe.adapter.strength == pytest.approx(0.3, abs=0.01)
        assert json.loads(json.dumps(recipe.to_json()))["adapter"]["adapter"] == "lora"
