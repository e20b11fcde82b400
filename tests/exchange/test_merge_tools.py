"""The files of recipes run by the tools they are for; skipped where these are not installed.

`python -m tests.exchange.merge_tools` installs them and runs this.
"""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from megasim.workspace import open_store
from megasim.zoo.building import unrelated_models
from tests.exchange.merge_tools import VARIABLE, program
from tests.exchange.merged_models import merged, sd_store
from tests.exchange.method_merges import merges, parents, write_folder

pytestmark = pytest.mark.merge_tools

_MECHA = """
import pathlib, sys, sd_mecha
recipe = sd_mecha.deserialize(pathlib.Path(sys.argv[1]).read_text())
sd_mecha.merge(recipe, output=pathlib.Path(sys.argv[2]))
"""


@pytest.fixture
def tools() -> Path:
    folder = os.environ.get(VARIABLE)
    if folder is None:
        pytest.skip("mergekit and sd-mecha are not installed: see tests/exchange/merge_tools.py")
    return Path(folder)


def recipe(store: Path, model: str, file: Path) -> Path:
    from megasim.cli import run

    assert run(["--db", str(store), "recipe", model, "-o", str(file)]) == 0
    return file


def run(*command: str | Path) -> None:
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-4000:]


def assert_within_rounding(file: Path, model: Path) -> None:
    """Hold that two files are the same but for the last digit of float16."""
    made, meant = load_file(file), load_file(model)
    assert made.keys() == meant.keys()
    for key, value in meant.items():
        apart = (made[key].double() - value.double()).abs()
        step = torch.clamp(value.double().abs() * 2**-10, min=2**-24)
        assert bool((apart <= step).all()), key


@pytest.mark.parametrize("model", ["by-block", "sum"])
def test_mergekit_makes_the_model_again(tools: Path, tmp_path: Path, model: str) -> None:
    file = recipe(sd_store(tmp_path), model, tmp_path / "r.yaml")
    run(program(tools, "mergekit", "mergekit-pytorch"), file, tmp_path / "out")
    assert_within_rounding(
        tmp_path / "out" / "model.safetensors", tmp_path / f"{model}.safetensors"
    )


@pytest.mark.parametrize("model", ["by-block", "sum"])
def test_sd_mecha_makes_the_model_again(tools: Path, tmp_path: Path, model: str) -> None:
    file = recipe(sd_store(tmp_path), model, tmp_path / "r.mecha")
    made = tmp_path / "made.safetensors"
    run(program(tools, "mecha", "python"), "-c", _MECHA, file, made)
    assert_within_rounding(made, tmp_path / f"{model}.safetensors")


LAYERS = 4
CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "num_hidden_layers": LAYERS,
    "vocab_size": 96,
    "max_position_embeddings": 64,
    "rms_norm_eps": 1e-5,
    "tie_word_embeddings": False,
}


def llama_shapes() -> dict[str, tuple[int, ...]]:
    layer = {
        "self_attn.q_proj": (32, 32),
        "self_attn.k_proj": (16, 32),
        "self_attn.v_proj": (16, 32),
        "self_attn.o_proj": (32, 32),
        "mlp.gate_proj": (64, 32),
        "mlp.up_proj": (64, 32),
        "mlp.down_proj": (32, 64),
        "input_layernorm": (32,),
        "post_attention_layernorm": (32,),
    }
    layers = {f"model.layers.{i}.{k}.weight": s for i in range(LAYERS) for k, s in layer.items()}
    ends = {"model.embed_tokens.weight": (96, 32), "lm_head.weight": (96, 32)}
    return {**layers, **ends, "model.norm.weight": (32,)}


def test_mergekit_makes_a_llama_again(tools: Path, tmp_path: Path) -> None:
    states = unrelated_models(3, seed=0, shapes=llama_shapes())
    base, *moves = [{k: torch.from_numpy(v) for k, v in s.items()} for s in states]
    a, b = ({k: (v + 0.1 * move[k]).half() for k, v in base.items()} for move in moves)
    models = {"a": a, "b": b, "m": merged([a, b], lambda _: (0.6, 0.4))}
    for name, state in models.items():
        (tmp_path / name).mkdir()
        save_file(state, tmp_path / name / "model.safetensors", {"format": "pt"})
        (tmp_path / name / "config.json").write_text(json.dumps(CONFIG))
    with open_store(tmp_path / "s.duckdb") as store:
        assert not store.ingest(*(tmp_path / name for name in models)).failed
        store.compare()
    file = recipe(tmp_path / "s.duckdb", "m", tmp_path / "r.yaml")
    assert "mergekit-yaml" in file.read_text()
    run(program(tools, "mergekit", "mergekit-yaml"), file, tmp_path / "out")
    assert_within_rounding(tmp_path / "out/model.safetensors", tmp_path / "m/model.safetensors")


@pytest.mark.parametrize("model", ["slerp", "slerp-by-role", "ties", "stack"])
def test_mergekit_makes_other_merges_again(tools: Path, tmp_path: Path, model: str) -> None:
    with open_store(tmp_path / "s.duckdb") as store:
        for name, state in {**parents(), model: merges()[model]}.items():
            store.ingest(write_folder(tmp_path / name, state))
        store.compare()
    file = recipe(tmp_path / "s.duckdb", model, tmp_path / "r.yaml")
    run(program(tools, "mergekit", "mergekit-yaml"), file, tmp_path / "out")
    made, meant = (load_file(tmp_path / of / "model.safetensors") for of in ("out", model))
    assert made.keys() == meant.keys()
    # Changes of one size are kept or not by chance in TIES, which is computed in float16.
    alike = sum(
        int(torch.isclose(made[k].double(), v.double(), rtol=2**-8, atol=2**-12).sum())
        for k, v in meant.items()
    )
    assert alike >= 0.99 * sum(v.numel() for v in meant.values())
