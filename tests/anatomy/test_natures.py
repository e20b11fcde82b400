"""Which keys are weights, and that nothing else decides a distance."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file

from megasim import open_store
from megasim.anatomy.natures import key_natures
from megasim.words import Nature


def natures(**keys: tuple[tuple[int, ...], str]) -> dict[str, str]:
    return {key: str(nature) for key, nature in key_natures(keys).items()}


@pytest.mark.parametrize(
    ("key", "shape", "dtype", "nature"),
    [
        ("layer1.0.bn1.num_batches_tracked", (), "int64", "counter"),
        ("layer1.0.bn1.running_var", (64,), "float32", "statistic"),
        ("layer1.0.bn1.weight", (64,), "float32", "weight"),
        ("model_ema.num_updates", (), "int32", "counter"),
        ("n_averaged", (), "int64", "counter"),
        ("text_model.embeddings.position_ids", (1, 77), "int64", "index"),
        ("text_model.embeddings.position_ids", (1, 77), "float16", "index"),
        ("layers.0.blocks.0.attn.relative_position_index", (49, 49), "int64", "index"),
        ("layers.0.blocks.1.attn_mask", (64, 49, 49), "float32", "mask"),
        ("alphas_cumprod", (1000,), "float32", "schedule"),
        ("sqrt_one_minus_alphas_cumprod", (1000,), "float32", "schedule"),
        ("model.layers.0.self_attn.rotary_emb.inv_freq", (64,), "float32", "schedule"),
        ("logit_scale", (), "float32", "weight"),
        ("decoder.layers.0.alpha", (1, 8, 1), "float32", "weight"),  # a learned activation
        ("decoder.layers.0.alpha", (), "float32", "weight"),
        ("double_blocks.0.img_attn.norm.query_norm.scale", (128,), "bfloat16", "weight"),
        ("anything.table", (4, 4), "int32", "unknown"),
        ("anything.flag", (4, 4), "bool", "mask"),
        ("spectral.weight", (4, 4, 3), "complex64", "weight"),
        ("h.0.attn.bias", (1, 1, 8, 8), "uint8", "unknown"),
    ],
)
def test_nature_by_name(key: str, shape: tuple[int, ...], dtype: str, nature: str) -> None:
    assert key_natures({key: (shape, dtype)})[key] == nature


def test_nature_by_what_stands_beside() -> None:
    lora = natures(
        **{"a.alpha": ((), "float32"), "a.lora_down.weight": ((4, 8), "float32")},
    )
    assert lora == {"a.alpha": "scale", "a.lora_down.weight": "weight"}
    gpt2 = natures(
        **{
            "h.0.attn.bias": ((1, 1, 8, 8), "float32"),
            "h.0.attn.c_attn.weight": ((8, 24), "float32"),
        }
    )
    assert gpt2["h.0.attn.bias"] == "mask"
    fp8 = natures(
        **{
            "q.weight": ((8, 8), "float8_e4m3fn"),
            "q.scale_weight": ((), "float32"),
            "k.weight": ((8, 8), "float8_e4m3fn"),
        }
    )
    # without a scale its numbers are what they are declared to be
    assert fp8 == {"q.weight": "code", "q.scale_weight": "scale", "k.weight": "weight"}


@given(
    name=st.text(st.characters(codec="utf-8", exclude_categories=["Cs"]), max_size=12),
    shape=st.lists(st.integers(0, 4), max_size=4).map(tuple),
    dtype=st.sampled_from(["int8", "uint8", "int32", "int64", "uint64", "bool"]),
)
def test_no_integer_is_ever_a_weight(name: str, shape: tuple[int, ...], dtype: str) -> None:
    assert key_natures({name: (shape, dtype)})[name] not in (Nature.WEIGHT, Nature.STATISTIC)


def epochs(folder: Path) -> dict[str, dict[str, torch.Tensor]]:
    """A CNN with BatchNorm over five epochs of 5,000 batches, and a merge of two others."""
    torch.manual_seed(0)
    made: dict[str, dict[str, torch.Tensor]] = {}
    state = {"conv.weight": torch.randn(16, 8, 3, 3), "fc.weight": torch.randn(10, 16)}
    state |= {"bn.weight": torch.ones(16), "bn.running_mean": torch.randn(16)}
    for epoch in range(5):
        state = {k: v + 0.02 * torch.randn_like(v) for k, v in state.items()}
        counter = {"bn.num_batches_tracked": torch.tensor(5000 * epoch)}
        made[f"epoch{epoch}"] = {**state, **counter, "table": torch.arange(9) * (epoch + 1)}
    a, b = made["epoch0"], made["epoch4"]
    made["merge"] = {
        k: (0.3 * a[k] + 0.7 * b[k]).to(a[k].dtype) if a[k].is_floating_point() else b[k] for k in a
    }
    for name, tensors in made.items():
        save_file(tensors, folder / f"{name}.safetensors")
    return made


def test_counters_enter_no_distance_recipe_or_estimate(tmp_path: Path) -> None:
    files = tmp_path / "models"
    files.mkdir()
    made = epochs(files)
    with open_store(tmp_path / "s.duckdb") as store:
        store.ingest(files)
        store.compare()
        matrix = store.matrix("all")
        first, last = matrix.models.index("epoch0"), matrix.models.index("epoch4")
        weights = [k for k, v in made["epoch0"].items() if v.is_floating_point()]
        expected = math.sqrt(
            sum(
                float((made["epoch0"][k].double() - made["epoch4"][k].double()).square().sum())
                for k in weights
            )
        )
        assert matrix.values[first, last] == pytest.approx(expected, rel=1e-6)
        rows = store.sql(
            "select sum(keys_compared) as compared, sum(keys_measured) as measured "
            "from component_distances where model_a = 'epoch0' and model_b = 'epoch4'"
        )
        assert rows.values.tolist() == [[6, 4]]
        # and the statistics can be left out, too
        bare = store.matrix("all", weights_only=True)
        moved = [k for k in weights if k != "bn.running_mean"]
        apart = [(made["epoch0"][k].double() - made["epoch4"][k].double()).norm() for k in moved]
        assert bare.values[first, last] == pytest.approx(math.hypot(*map(float, apart)), rel=1e-6)
        assert bare.keys_compared[first, last] == 3
        assert matrix.keys_compared[first, last] == 4
        assert len(store.map("all", weights_only=True).matrix.models) == 6
        # of the counter itself it is still said how far it is apart
        counted = store.sql(
            "select nature, l2 from layer_distances where canonical_key = 'bn.num_batches_tracked' "
            "and model_a = 'epoch0' and model_b = 'epoch4'"
        )
        assert counted.values.tolist() == [["counter", 20000.0]]
        recipe = store.recipe("merge")
        assert {p.model: round(p.weight, 3) for p in recipe.parents} == {
            "epoch0": 0.3,
            "epoch4": 0.7,
        }
    with open_store(tmp_path / "e.duckdb") as store:
        store.ingest(files)
        estimated = store.matrix("all", estimate=True)
        error = estimated.errors[first, last]
        assert estimated.values[first, last] == pytest.approx(expected, rel=4 * max(error, 1e-6))


def test_estimates_do_not_change_with_what_else_is_in_the_store(tmp_path: Path) -> None:
    random = np.random.default_rng(1)
    base = random.standard_normal((64, 64)).astype(np.float32)
    for name in ("a", "b", "c"):
        moved = base + 1e-3 * random.standard_normal(base.shape).astype(np.float32)
        save_file({"w": torch.from_numpy(moved)}, tmp_path / f"{name}.safetensors")
    with open_store(tmp_path / "alone.duckdb") as store:
        store.ingest(tmp_path)
        alone = store.matrix("all", estimate=True)
    save_file({"w": torch.full((64, 64), 1e30)}, tmp_path / "d.safetensors")
    save_file({"w": torch.randn(128, 64)}, tmp_path / "e.safetensors")
    with open_store(tmp_path / "beside.duckdb") as store:
        store.ingest(tmp_path)
        beside = store.matrix("all", estimate=True).subset(list(alone.models))
    assert np.array_equal(alone.values, beside.values)
    assert np.array_equal(alone.errors, beside.errors)
