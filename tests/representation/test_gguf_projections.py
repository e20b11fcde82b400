"""GGUF of models whose projections llama.cpp puts into another order, and of adapters."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

import megasim
from megasim.answers.adapter_files import open_adapter
from megasim.answers.adapter_pairs import compare_adapters
from megasim.findings.relations import model_relations
from megasim.representation.opening import open_model
from tests.models import write_model
from tests.representation.logical_models import check_ranges, read_values

gguf = pytest.importorskip("gguf", reason="the extra [gguf] is not installed")

Array = npt.NDArray[Any]
WIDTH, HEADS, TOKENS = 64, 4, 16
HEAD = WIDTH // HEADS


def network(layer: str, names: dict[str, tuple[int, ...]], top: dict[str, tuple[int, ...]]) -> Any:
    rng = np.random.default_rng(0)
    shapes = {**top, **{f"{layer}.0.{name}": shape for name, shape in names.items()}}
    return {k: rng.standard_normal(shape, dtype=np.float32) for k, shape in shapes.items()}


def gpt_2() -> tuple[dict[str, Array], dict[str, Array]]:
    """Return the state dict, and the tensors of the file (`conversion/gpt2.py` of llama.cpp)."""
    names = {"attn.c_attn": (WIDTH, 3 * WIDTH), "attn.c_proj": (WIDTH, WIDTH)}
    names |= {"mlp.c_fc": (WIDTH, 2 * WIDTH), "mlp.c_proj": (2 * WIDTH, WIDTH)}
    shapes: dict[str, tuple[int, ...]] = {f"{n}.weight": shape for n, shape in names.items()}
    shapes |= {f"{n}.bias": shape[1:] for n, shape in names.items()}
    shapes |= {f"ln_{i}.{kind}": (WIDTH,) for i in (1, 2) for kind in ("weight", "bias")}
    top = {"transformer.wte.weight": (TOKENS, WIDTH), "transformer.ln_f.bias": (WIDTH,)}
    state = network("transformer.h", shapes, top)
    theirs = {
        "attn.c_attn": "attn_qkv",
        "attn.c_proj": "attn_output",
        "mlp.c_fc": "ffn_up",
        "mlp.c_proj": "ffn_down",
        "ln_1": "attn_norm",
        "ln_2": "ffn_norm",
    }
    found = {
        "token_embd.weight": state["transformer.wte.weight"],
        "output_norm.bias": state["transformer.ln_f.bias"],
    }
    for name, short in theirs.items():
        for kind in ("weight", "bias"):
            value = state[f"transformer.h.0.{name}.{kind}"]
            found[f"blk.0.{short}.{kind}"] = value.T if value.ndim == 2 else value
    return state, found


def sorted_by_head(value: Array, heads: int, groups: int) -> Array:
    """Return rows as `gpt_neox.py`, `bloom.py` and `falcon.py` of llama.cpp's `conversion` do."""
    shared = heads // groups
    held = value.reshape(groups, shared + 2, HEAD, *value.shape[1:])
    parts = (held[:, :-2], held[:, -2], held[:, -1])
    return np.concatenate([part.reshape(-1, *value.shape[1:]) for part in parts])


def head_by_head(
    layer: str, attention: str, embedding: str, groups: int
) -> tuple[dict[str, Array], dict[str, Array]]:
    rows = (HEADS + 2 * groups) * HEAD
    fused = f"{attention}.query_key_value"
    shapes: dict[str, tuple[int, ...]] = {f"{fused}.weight": (rows, WIDTH)}
    shapes |= {f"{fused}.bias": (rows,), f"{attention}.dense.weight": (WIDTH, WIDTH)}
    state = network(layer, shapes, {embedding: (TOKENS, WIDTH)})
    found = {
        "token_embd.weight": state[embedding],
        "blk.0.attn_output.weight": state[f"{layer}.0.{attention}.dense.weight"],
    }
    for kind in ("weight", "bias"):
        value = state[f"{layer}.0.{fused}.{kind}"]
        found[f"blk.0.attn_qkv.{kind}"] = sorted_by_head(value, HEADS, groups)
    return state, found


ARCHITECTURES = {
    "gpt2": gpt_2(),
    "gptneox": head_by_head("gpt_neox.layers", "attention", "gpt_neox.embed_in.weight", HEADS),
    "bloom": head_by_head(
        *("transformer.h", "self_attention", "transformer.word_embeddings.weight", HEADS)
    ),
    "falcon": head_by_head(
        *("transformer.h", "self_attention", "transformer.word_embeddings.weight", 2)
    ),
}


def write(
    path: Path, architecture: str, tensors: dict[str, Array], kind: str = "F32", heads: bool = True
) -> Path:
    writer = gguf.GGUFWriter(path, architecture)
    if heads:
        writer.add_head_count(HEADS)
        if architecture == "falcon":
            writer.add_head_count_kv(2)
    for name, value in tensors.items():
        code = gguf.GGMLQuantizationType[kind if value.ndim == 2 else "F32"]
        writer.add_tensor(
            name, gguf.quants.quantize(np.ascontiguousarray(value), code), raw_dtype=code
        )
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_projections_are_put_back(tmp_path: Path, name: str) -> None:
    state, found = ARCHITECTURES[name]
    values = read_values(write(tmp_path / "m.gguf", name, found))
    assert values.keys() == state.keys()
    for key, expected in state.items():
        assert np.array_equal(values[key], expected), key


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_a_quantised_copy_is_made_of_the_model(tmp_path: Path, name: str) -> None:
    state, found = ARCHITECTURES[name]
    copy = write(tmp_path / "copy.gguf", name, found, "Q8_0")
    for ref in open_model(copy).tensors.values():
        if ref.decoder is not None:
            check_ranges(ref)
    plain = {key: torch.from_numpy(value.copy()) for key, value in state.items()}
    base = write_model(tmp_path / "base.safetensors", plain)
    with megasim.open_store(tmp_path / "s.duckdb") as store:
        store.ingest(base, copy)
        store.compare()
        (relation,) = model_relations(store.store, [("base", "copy")])
    assert relation.kind == "quantised", relation


def test_without_a_number_of_heads_it_keeps_its_own_name(tmp_path: Path) -> None:
    _, found = ARCHITECTURES["gptneox"]
    path = write(tmp_path / "m.gguf", "gptneox", found, heads=False)
    assert "blk.0.attn_qkv.weight" in open_model(path).tensors


def write_adapter(path: Path, architecture: str, factors: dict[str, Array]) -> Path:
    """As `convert_lora_to_gguf.py` of llama.cpp does."""
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_type(gguf.GGUFType.ADAPTER)
    writer.add_string(gguf.Keys.Adapter.TYPE, "lora")
    writer.add_float32(gguf.Keys.Adapter.LORA_ALPHA, 8.0)
    for name, value in factors.items():
        writer.add_tensor(name, value)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


LAYERS = {"self_attn.q_proj": "attn_q", "self_attn.v_proj": "attn_v", "mlp.up_proj": "ffn_up"}


def factors_of(names: dict[str, str]) -> tuple[dict[str, torch.Tensor], dict[str, Array]]:
    """Return the same factors as PEFT names them and as llama.cpp does."""
    rng = np.random.default_rng(2)
    peft, theirs = {}, {}
    for layer, short in names.items():
        down = rng.standard_normal((4, WIDTH), dtype=np.float32)
        up = rng.standard_normal((WIDTH, 4), dtype=np.float32)
        module = f"base_model.model.model.layers.0.{layer}"
        peft |= {f"{module}.lora_A.weight": torch.from_numpy(down)}
        peft |= {f"{module}.lora_B.weight": torch.from_numpy(up)}
        theirs |= {f"blk.0.{short}.weight.lora_a": down, f"blk.0.{short}.weight.lora_b": up}
    return peft, theirs


def test_an_adapter_of_llama_cpp_is_that_of_peft(tmp_path: Path) -> None:
    peft, theirs = factors_of(LAYERS)
    folder = tmp_path / "peft"
    write_model(folder / "adapter_model.safetensors", peft)
    (folder / "adapter_config.json").write_text('{"peft_type": "LORA", "lora_alpha": 8, "r": 4}')
    converted = write_adapter(tmp_path / "lora.gguf", "qwen2", theirs)
    adapter = open_adapter(converted)
    assert not adapter.unread
    assert adapter.settings.alpha_of("any") == 8
    pair = compare_adapters(open_adapter(folder), adapter)
    assert pair.layers == len(LAYERS)
    assert pair.is_same


def test_its_layers_whose_rows_are_in_an_unknown_order_are_named(tmp_path: Path) -> None:
    """Of Llama, query and key: the file does not say how many heads there are."""
    _, theirs = factors_of(LAYERS)
    adapter = open_adapter(write_adapter(tmp_path / "lora.gguf", "llama", theirs))
    assert {layer.module for layer in adapter.layers} == {
        "model.layers.0.self_attn.v_proj",
        "model.layers.0.mlp.up_proj",
    }
    assert adapter.unread.keys() == {f"blk.0.attn_q.weight.lora_{side}" for side in "ab"}
    assert all("does not say how many heads" in why for why in adapter.unread.values())
