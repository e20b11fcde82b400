"""What is said of adapters: one change in many spellings, and where it is baked in."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from megasim.answers.adapter_pairs import compare_adapters
from megasim.answers.adapters import (
    load_adapter,
    open_named_adapter,
    open_named_weights,
)
from megasim.errors import CheckpointError
from megasim.workspace import Workspace, open_store
from tests.answers.adapters_of_sd import ALPHA, LAYERS, RANK, UNET, change, factors, write_spellings
from tests.commands.test_cli import megasim
from tests.models import write_model
from tests.small_sd import cast, small_sd, trained

GOLDEN = Path(__file__).parents[1] / "golden" / "adapters"
State = dict[str, torch.Tensor]


@pytest.fixture
def workspace(tmp_path: Path) -> Iterator[Workspace]:
    with open_store(tmp_path / "store.duckdb") as opened:
        yield opened


def added(base: State, delta: Mapping[str, torch.Tensor], *strengths: float) -> State:
    """Return a model with a change added, at one strength or at one for each layer in turn."""
    scales = itertools.cycle(strengths)
    merged = dict(base)
    for key, step in delta.items():
        exact = base[key].double() + next(scales) * step.reshape(base[key].shape)
        merged[key] = exact.to(base[key].dtype)
    return merged


def big_model(seed: int, dtype: torch.dtype) -> State:
    """Return a model of a generic architecture whose layers have enough elements to tell."""
    generator = torch.Generator().manual_seed(seed)
    return {
        f"model.layers.{i}.self_attn.{name}_proj.weight": (
            0.04 * torch.randn(128, 96, generator=generator)
        ).to(dtype)
        for i in range(4)
        for name in "qkvo"
    }


def big_adapter(folder: Path, base: State, seed: int, size: float) -> tuple[Path, State]:
    """Write a LoRA of all layers; return it and its change at strength 1."""
    generator = torch.Generator().manual_seed(seed)
    saved, delta = {}, {}
    for key, weight in base.items():
        up = size * torch.randn(len(weight), 8, generator=generator)
        down = size * torch.randn(8, weight.shape[1], generator=generator)
        module = "base_model.model." + key.removesuffix(".weight")
        saved |= {f"{module}.lora_A.weight": down, f"{module}.lora_B.weight": up}
        delta[key] = up.double() @ down.double()
    write_model(folder / "adapter_model.safetensors", saved)
    config = {"peft_type": "LORA", "r": 8, "lora_alpha": 8}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return folder, delta


def test_the_spellings_of_one_lora_are_identical(tmp_path: Path) -> None:
    paths = write_spellings(tmp_path, factors(0))
    for a, b in itertools.combinations(paths, 2):
        pair = compare_adapters(*(open_named_adapter(paths[name], None) for name in (a, b)))
        assert pair.is_same, (a, b)
        assert pair.layers == len(LAYERS)
        assert pair.l2 == pytest.approx(0, abs=1e-12)
        assert pair.cosine == pytest.approx(1)


def test_layers_have_the_keys_of_the_base(tmp_path: Path) -> None:
    keys = {f"{UNET}{name}.weight" for name in LAYERS.values()}
    expected = float(torch.sqrt(sum((d**2).sum() for d in change(factors(0)).values())))
    for name, path in write_spellings(tmp_path, factors(0)).items():
        answer = load_adapter(None, path)
        assert {layer.key for layer in answer.layers} == keys
        assert {layer.component for layer in answer.layers} == {"unet"}
        assert {layer.block for layer in answer.layers} == {"IN01", "IN02", "M00"}
        assert {(layer.rank, layer.found_rank) for layer in answer.layers} == {(RANK, RANK)}
        assert answer.norm == pytest.approx(expected)
        assert {layer.alpha for layer in answer.layers} == {None if name == "old" else ALPHA}


def test_of_many_places_only_some_are_named(tmp_path: Path) -> None:
    factor = {"lora_up": torch.ones(8, 2), "lora_down": torch.ones(2, 8)}
    file = write_model(
        tmp_path / "many.safetensors",
        {f"lora_odd_{i}_mix.{w}.weight": v for i in range(9) for w, v in factor.items()},
    )
    first = load_adapter(None, file).sentences()[0]
    assert "changes 9 weights: 1 in the" in first
    assert " and 4 more" in first


def test_another_alpha_is_said_to_be_nothing_else(tmp_path: Path) -> None:
    one = write_spellings(tmp_path / "a", factors(0))["kohya"]
    other = write_spellings(tmp_path / "b", factors(0), alpha=3 * ALPHA)["peft"]
    pair = compare_adapters(*(open_named_adapter(path, None) for path in (one, other)))
    assert (pair.is_same, pair.is_rescaled) == (False, True)
    assert pair.ratio == pytest.approx(3)
    assert "another alpha, and nothing else" in pair.sentences()[0]
    unlike = write_spellings(tmp_path / "c", factors(1))["kohya"]
    pair = compare_adapters(*(open_named_adapter(path, None) for path in (one, unlike)))
    assert not (pair.is_same or pair.is_rescaled)


def test_the_product_is_compared_and_not_the_factors(tmp_path: Path) -> None:
    made = factors(0)
    mix = torch.linalg.qr(torch.randn(RANK, RANK, generator=torch.Generator().manual_seed(1)))[0]
    turned = {name: (up @ mix, mix.T @ down) for name, (up, down) in made.items()}
    one, other = (
        open_named_adapter(write_spellings(tmp_path / name, given)["kohya"], None)
        for name, given in (("a", made), ("b", turned))
    )
    pair = compare_adapters(one, other)
    assert pair.is_same
    assert pair.l2 < 1e-6 * pair.norm_a


def test_a_rank_is_given_as_found(tmp_path: Path) -> None:
    made = {n: (up * torch.tensor([1.0, 1, 0, 0]), down) for n, (up, down) in factors(0).items()}
    answer = load_adapter(None, write_spellings(tmp_path, made)["kohya"])
    assert {(layer.rank, layer.found_rank) for layer in answer.layers} == {(4, 2)}
    assert "rank 4, as found 2 in 5 layers" in answer.sentences()[1]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("strength", [0.3, 0.7, 1.0])
@pytest.mark.parametrize("size", [0.02, 0.004])
def test_a_baked_strength_is_found(
    tmp_path: Path, dtype: torch.dtype, strength: float, size: float
) -> None:
    """Also where most of the change is less than half a digit of the weights, and rounded away."""
    base = big_model(0, dtype)
    adapter, delta = big_adapter(tmp_path / "lora", base, 1, size)
    paths = {
        "base": write_model(tmp_path / "base.safetensors", base),
        "model": write_model(tmp_path / "model.safetensors", added(base, delta, strength)),
    }
    baked = load_adapter(None, adapter, **paths).baked
    assert baked is not None and baked.is_found
    assert baked.whole.value == pytest.approx(strength, abs=0.01)
    assert baked.whole.error < 0.01
    assert baked.whole.exact is not None and baked.whole.exact > 0.99
    assert not (baked.others or baked.only_model or baked.only_base)


def test_strengths_of_blocks_are_told_apart(tmp_path: Path) -> None:
    base = big_model(0, torch.bfloat16)
    adapter, delta = big_adapter(tmp_path / "lora", base, 1, 0.02)
    strengths = {"layer 0": 0.3, "layer 1": 0.0, "layer 2": 1.0, "layer 3": -0.5}
    per_layer = [strengths["layer " + key.split(".")[2]] for key in delta]
    model = write_model(tmp_path / "m.safetensors", added(base, delta, *per_layer))
    before = write_model(tmp_path / "b.safetensors", base)
    baked = load_adapter(None, adapter, base=before, model=model).baked
    assert baked is not None and baked.is_found
    found = {block.block: block.strength.value for block in baked.blocks}
    assert found == pytest.approx(strengths, abs=0.01)
    assert "not the same in every block" in baked.sentence()


def test_a_baked_strength_is_found_below_further_training(tmp_path: Path) -> None:
    base = big_model(0, torch.float32)
    adapter, delta = big_adapter(tmp_path / "lora", base, 1, 0.02)
    random = np.random.default_rng(3)
    model = {
        key: value + 0.002 * torch.from_numpy(random.standard_normal(value.shape)).float()
        for key, value in added(base, delta, 0.7).items()
    }
    paths = [write_model(tmp_path / f"{n}.safetensors", m) for n, m in (("b", base), ("m", model))]
    baked = load_adapter(None, adapter, base=paths[0], model=paths[1]).baked
    assert baked is not None and baked.is_found
    assert baked.whole.exact is None
    assert baked.whole.value == pytest.approx(0.7, abs=max(0.01, 4 * baked.whole.error))
    assert baked.whole.residual == pytest.approx(0.002 * np.sqrt(16 * 128 * 96), rel=0.02)


def test_what_else_changed_is_named(tmp_path: Path) -> None:
    base = small_sd()
    lora = write_spellings(tmp_path, factors(0))["kohya"]
    model = added(base, change(factors(0)), 1.0)
    model = trained(model, 5, "first_stage_model.decoder.conv_in")
    paths = [write_model(tmp_path / f"{n}.safetensors", m) for n, m in (("b", base), ("m", model))]
    baked = load_adapter(None, lora, base=paths[0], model=paths[1]).baked
    assert baked is not None
    assert [(o.component, o.changed) for o in baked.others] == [("vae_decoder", 1)]


def test_models_of_the_store_that_it_is_for(workspace: Workspace, tmp_path: Path) -> None:
    base = cast(small_sd(), torch.float16)
    delta = change(factors(0))
    for name, state in (
        ("base", base),
        ("baked", added(base, delta, 0.7)),
        ("tuned", trained(base, 1, "model.")),
        ("other", cast(small_sd(3), torch.float16)),
    ):
        workspace.ingest(write_model(tmp_path / f"{name}.safetensors", state))
    workspace.ingest(write_model(tmp_path / "llama.safetensors", big_model(0, torch.float16)))
    paths = write_spellings(tmp_path / "adapters", factors(0))
    workspace.ingest(*paths.values())
    unlike = write_spellings(tmp_path / "unlike", factors(9))["kohya"]
    answer = workspace.adapter(paths["diffusers"])
    assert {fit.model for fit in answer.fits} == {"base", "baked", "tuned", "other"}
    assert all(fit.is_whole for fit in answer.fits)
    seen = answer.seen[0]
    assert (seen.model, seen.base) == ("baked", "base")
    assert seen.strength == pytest.approx(0.7, abs=0.05)
    baked = workspace.adapter(paths["kohya"], model="baked").baked
    assert baked is not None and baked.is_found and baked.base == "base"
    assert baked.whole.value == pytest.approx(0.7, abs=0.01)
    for model in ("tuned", "other"):
        tried = workspace.adapter(paths["kohya"], model=model, base="base").baked
        assert tried is not None and not tried.is_found
        assert "no adapter known here" in workspace.adapters_in(model, base="base").sentences()[0]
    tried = workspace.adapter(unlike, model="baked", base="base").baked
    assert tried is not None and not tried.is_found
    found = [name for name, b in workspace.adapters_in("baked").tried if b.is_found]
    assert len(found) == len(paths)


def test_a_dora_is_measured_on_its_base(tmp_path: Path) -> None:
    folder = GOLDEN / "peft-dora"
    base = load_file(GOLDEN / "llama.safetensors")
    model = write_model(tmp_path / "m.safetensors", base | load_file(folder / "merged.safetensors"))
    answer = load_adapter(None, folder, base=GOLDEN / "llama.safetensors", model=model)
    assert answer.kinds == ("DoRA",)
    assert answer.baked is not None and answer.baked.is_found
    assert answer.baked.whole.value == pytest.approx(1, abs=1e-3)


def test_a_model_is_no_adapter(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no adapter"):
        open_named_adapter(write_model(tmp_path / "m.safetensors", small_sd()), None)


@pytest.mark.parametrize(
    "broken",
    [
        {"q.lora_A.weight": (4, 8), "q.lora_B.weight": (8, 3)},
        {"q.lora_A.weight": (4, 8)},
        {
            "q.hada_w1_a": (8, 2),
            "q.hada_w1_b": (2, 8),
            "q.hada_w2_a": (8, 2),
            "q.hada_w2_b": (3, 9),
        },
        {"q.lokr_w1": (2,), "q.lokr_w2": (4, 4)},
        {"q.lokr_w1": (1 << 12, 1 << 12), "q.lokr_w2": (1 << 12, 1 << 12)},
        {"lora_q.oft_blocks": (2, 3)},
        {"q.oft_R.default.weight": (2, 3)},
        {"q.lora_up.weight": (8, 4), "q.lora_down.weight": (4, 8), "q.alpha": (2,)},
    ],
)
def test_bad_factors_are_named_and_the_others_read(
    tmp_path: Path, broken: dict[str, tuple[int, ...]]
) -> None:
    good = {"v.lora_A.weight": torch.ones(4, 8), "v.lora_B.weight": torch.ones(8, 4)}
    bad = {key: torch.zeros(1).expand(shape).contiguous() for key, shape in broken.items()}
    if max(t.numel() for t in bad.values()) > 1 << 20:
        bad = {key: t.half() for key, t in bad.items()}
    answer = load_adapter(None, write_model(tmp_path / "a.pt", {**bad, **good}))
    assert [layer.module for layer in answer.layers] == ["v"]
    assert len(answer.unread) == 1


def test_weights_that_a_folder_names(tmp_path: Path) -> None:
    paths = write_spellings(tmp_path, factors(0))
    base = write_model(tmp_path / "base.safetensors", small_sd())
    assert open_named_weights(base, None).family == "SD1"
    answer = load_adapter(None, paths["peft"], base=base)
    assert answer.fits[0].is_whole


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    base = cast(small_sd(), torch.bfloat16)
    paths = {k: str(path) for k, path in write_spellings(tmp_path, factors(0, 0.3)).items()}
    files = {
        name: str(write_model(tmp_path / f"{name}.safetensors", state))
        for name, state in (("base", base), ("merged", added(base, change(factors(0, 0.3)), 0.7)))
    }

    def run(*arguments: str) -> tuple[int, str]:
        db = str(tmp_path / "none.duckdb")
        return megasim(capsys, "--db", db, "adapter", *arguments)[:2]

    code, shown = run(paths["kohya"], "--base", files["base"])
    assert (
        code == 0
        and "LoRA for SD1, changes 5 weights, in the UNet (proj_in, to_q and to_k)" in shown
    )
    given = (paths["kohya"], "--base", files["base"], "--model", files["merged"])
    code, shown = run(*given)
    assert code == 0 and "baked into merged over base at strength 0.7" in shown
    assert "IN01" in shown and "nothing else changed" in shown
    told = json.loads(run(*given, "--json")[1])
    assert told["baked"]["strength"] == pytest.approx(0.7, abs=0.02)
    assert json.loads(run(paths["kohya"], paths["old"], "--json")[1])["same"] is True
    assert run()[0] == 2
    assert run(paths["kohya"], paths["old"], "--base", files["base"])[0] == 2
