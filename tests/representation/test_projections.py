"""Fused projections are those of their own: of Phi-3 beside a copy in the layout of Llama.

And the halves of Flux' last modulation, which stand the other way round in diffusers.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import megasim
from megasim.answers.adapter_files import open_adapter
from megasim.answers.adapter_pairs import compare_adapters
from megasim.checkpoint.tensors import TensorReader
from megasim.findings.relations import model_relations
from megasim.representation.opening import open_model
from megasim.representation.row_ranges import row_range
from tests.models import write_model
from tests.representation.logical_models import check_ranges, logical, read_values

WIDTH, KEYS, INNER = 64, 32, 96
Tensors = dict[str, torch.Tensor]


def split_and_fused(seed: int = 0, *, bias: bool = False) -> tuple[Tensors, Tensors]:
    """Return two layers as Llama holds them, and as Phi-3 does."""
    generator = torch.Generator().manual_seed(seed)
    split: Tensors = {}
    fused: Tensors = {}
    for i in range(2):
        attention, mlp = f"model.layers.{i}.self_attn", f"model.layers.{i}.mlp"
        for kind, sizes in (("weight", (WIDTH,)), ("bias", ())):
            if kind == "bias" and not bias:
                continue
            q, k, v, gate, up = (
                torch.randn(rows, *sizes, generator=generator)
                for rows in (WIDTH, KEYS, KEYS, INNER, INNER)
            )
            for name, part in zip("qkv", (q, k, v), strict=True):
                split[f"{attention}.{name}_proj.{kind}"] = part
            split |= {f"{mlp}.gate_proj.{kind}": gate, f"{mlp}.up_proj.{kind}": up}
            fused[f"{attention}.qkv_proj.{kind}"] = torch.cat([q, k, v])
            fused[f"{mlp}.gate_up_proj.{kind}"] = torch.cat([gate, up])
        for key, shape in (
            (f"{attention}.o_proj.weight", (WIDTH, WIDTH)),
            (f"{mlp}.down_proj.weight", (WIDTH, INNER)),
        ):
            split[key] = fused[key] = torch.randn(shape, generator=generator)
    return split, fused


@pytest.mark.parametrize("bias", [False, True])
def test_fused_projections_are_the_split_ones(tmp_path: Path, bias: bool) -> None:
    split, fused = split_and_fused(bias=bias)
    a = write_model(tmp_path / "split.safetensors", split)
    b = write_model(tmp_path / "fused.pt", fused)
    found = read_values(b)
    assert found.keys() == split.keys()
    for key, values in split.items():
        assert np.array_equal(found[key], values.numpy()), key
    with megasim.open_store(tmp_path / "s.duckdb") as store:
        store.ingest(a, b)
        store.compare()
        (relation,) = model_relations(store.store, [("split", "fused")])
        assert relation.kind == "same_weights"
        roles = store.sql("select distinct role from layers where model = 'fused' order by 1")
        assert {"q", "k", "v", "gate", "up"} <= set(roles["role"])


def test_a_quantised_copy_of_the_one_is_made_of_the_other(tmp_path: Path) -> None:
    split, fused = split_and_fused()
    scaled: Tensors = {}
    for key, value in fused.items():
        scale = value.abs().amax(1, keepdim=True) / 127
        scaled[key] = (value / scale).round().to(torch.int8)
        scaled[f"{key}_scale"] = scale
    a = write_model(tmp_path / "split.safetensors", {k: v.bfloat16() for k, v in split.items()})
    b = write_model(tmp_path / "int8.safetensors", scaled)
    with megasim.open_store(tmp_path / "s.duckdb") as store:
        store.ingest(a, b)
        store.compare()
        (relation,) = model_relations(store.store, [("split", "int8")])
    assert relation.kind in ("quantised", "quantised_and_changed"), relation
    assert "int8" in relation.text


def test_rows_of_a_decoded_tensor_are_a_tensor(tmp_path: Path) -> None:
    """Any range of them, and of their transpose."""
    value = torch.randn(48, 40, generator=torch.Generator().manual_seed(1))
    codes = {"w.weight": (value * 20).to(torch.int8), "w.weight_scale": torch.rand(48, 1)}
    whole = logical(tmp_path, codes, "w.weight")
    part = row_range(whole, "part", 7, 30)
    assert part is not None
    check_ranges(part)
    again = row_range(part, "again", 3, 5)
    assert again is not None
    with TensorReader() as reader:
        values = reader.read(whole).reshape(48, 40)
        assert np.array_equal(reader.read(part).reshape(23, 40), values[7:30])
        assert np.array_equal(reader.read(again).reshape(2, 40), values[10:12])


@pytest.mark.parametrize(
    "odd",
    [
        {"0.qkv_proj.weight": torch.ones(9, 4), "0.o_proj.weight": torch.ones(4, 4)},
        {"0.qkv_proj.weight": torch.ones(4, 4), "0.o_proj.weight": torch.ones(4, 4)},
        {"0.qkv_proj.weight": torch.ones(12, 4)},
        {"0.gate_up_proj.weight": torch.ones(12, 4), "0.down_proj.weight": torch.ones(4, 5)},
        {
            "0.qkv_proj.weight": torch.ones(12, 4),
            "0.o_proj.weight": torch.ones(4, 4),
            "0.k_proj.weight": torch.ones(4, 4),
        },
    ],
)
def test_what_does_not_add_up_stays_as_it_is(tmp_path: Path, odd: Tensors) -> None:
    path = write_model(tmp_path / "m.safetensors", odd)
    assert open_model(path).tensors.keys() == odd.keys()


def lora(shapes: dict[str, tuple[int, int]], prefix: str = "") -> tuple[Tensors, Tensors]:
    """Return the factors of a LoRA as PEFT names them, and the changes by layer."""
    generator = torch.Generator().manual_seed(7)
    factors: Tensors = {}
    changes: Tensors = {}
    for layer, (rows, columns) in shapes.items():
        down = torch.randn(2, columns, generator=generator)
        up = torch.randn(rows, 2, generator=generator) / 8
        factors |= {f"{prefix}{layer}.lora_A.weight": down, f"{prefix}{layer}.lora_B.weight": up}
        changes[f"{layer}.weight"] = up @ down
    return factors, changes


def test_an_adapter_of_fused_projections_is_found_in_both(tmp_path: Path) -> None:
    split, fused = split_and_fused()
    shapes = {
        f"model.layers.{i}.{name}": (rows, WIDTH)
        for i in range(2)
        for name, rows in (
            ("self_attn.qkv_proj", WIDTH + 2 * KEYS),
            ("mlp.gate_up_proj", 2 * INNER),
        )
    }
    factors, changes = lora(shapes, "base_model.model.")
    baked = {key: value + 0.7 * changes.get(key, 0) for key, value in fused.items()}
    parts = {
        f"model.layers.{i}.self_attn.{name}_proj.weight": rows
        for i in range(2)
        for name, rows in zip(
            "qkv",
            changes[f"model.layers.{i}.self_attn.qkv_proj.weight"].split([WIDTH, KEYS, KEYS]),
            strict=True,
        )
    }
    for i in range(2):
        gates = changes[f"model.layers.{i}.mlp.gate_up_proj.weight"].chunk(2)
        parts |= {
            f"model.layers.{i}.mlp.{n}_proj.weight": g
            for n, g in zip(("gate", "up"), gates, strict=True)
        }
    files = {
        "fused": fused,
        "split": split,
        "baked-fused": baked,
        "baked-split": {key: value + 0.7 * parts.get(key, 0) for key, value in split.items()},
    }
    paths = [write_model(tmp_path / f"{n}.safetensors", t) for n, t in files.items()]
    adapter = write_model(tmp_path / "lora.safetensors", factors)
    with megasim.open_store(tmp_path / "s.duckdb") as store:
        store.ingest(*paths)
        store.compare()
        for kind in ("fused", "split"):
            answer = store.adapter(str(adapter), base=kind, model=f"baked-{kind}")
            (fit,) = [f for f in answer.fits if f.model == kind]
            assert fit.is_whole
            assert fit.layers == len(shapes)
            assert answer.baked is not None
            assert answer.baked.whole.value == pytest.approx(0.7, abs=1e-3)
            assert not answer.baked.others


def test_an_adapter_of_the_last_modulation_is_one_in_both_names(tmp_path: Path) -> None:
    """Of a Flux transformer: scale and shift stand the other way round in diffusers."""
    change = torch.randn(32, 2, generator=torch.Generator().manual_seed(3))
    down = torch.randn(2, 16, generator=torch.Generator().manual_seed(4))
    other = {
        "x_embedder": (16, 8),
        "transformer_blocks.0.attn.to_out.0": (16, 16),
        "single_transformer_blocks.0.attn.to_q": (16, 16),  # that it is of Flux, this shows
    }
    first, _ = lora({f"transformer.{name}": shape for name, shape in other.items()})
    first |= {
        "transformer.norm_out.linear.lora_A.weight": down,
        "transformer.norm_out.linear.lora_B.weight": change,
    }
    names = {
        "transformer.x_embedder": "diffusion_model.img_in",
        "transformer.transformer_blocks.0.attn.to_out.0": (
            "diffusion_model.double_blocks.0.img_attn.proj"
        ),
        "transformer.norm_out.linear": "diffusion_model.final_layer.adaLN_modulation.1",
    }
    second = {
        key.replace(old, new): value
        for old, new in names.items()
        for key, value in first.items()
        if key.startswith(old + ".lora")
    }
    second["diffusion_model.final_layer.adaLN_modulation.1.lora_B.weight"] = change.roll(16, 0)
    a = write_model(tmp_path / "diffusers.safetensors", first)
    b = write_model(tmp_path / "bfl.safetensors", second)
    pair = compare_adapters(open_adapter(a), open_adapter(b))
    assert pair.layers == len(names)
    assert pair.l2 < 1e-12
