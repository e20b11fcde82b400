"""Models whose matrices or layers stand elsewhere, as `findings` and `kinship` tell of them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from megasim.workspace import open_store
from tests.findings.sentences import related
from tests.models import write_model
from tests.small_networks import StateDict, noise

LAYERS, WIDTH, UNITS = 4, 32, 64


def sized(seed: int, rows: int, columns: int) -> torch.Tensor:
    """Return a matrix whose rows and columns are of unlike size, as those of trained ones."""
    return noise(seed, rows, columns) * torch.exp(0.3 * noise(seed + 1, rows, 1))


def network(seed: int) -> StateDict:
    state: StateDict = {"model.embed_tokens.weight": sized(7000 + seed, 80, WIDTH)}
    for layer in range(LAYERS):
        at, place = 1000 * seed + 20 * layer, f"model.layers.{layer}."
        for step, name in enumerate("qkvo"):
            state[f"{place}self_attn.{name}_proj.weight"] = sized(at + 2 * step, WIDTH, WIDTH)
        state[place + "mlp.up_proj.weight"] = sized(at + 10, UNITS, WIDTH)
        state[place + "mlp.down_proj.weight"] = sized(at + 14, WIDTH, UNITS)
    return state


def fused(state: StateDict) -> StateDict:
    """Return a network as a library with names of its own keeps it, with one matrix for q, k, v."""
    found = {}
    for key, value in state.items():
        if "k_proj" in key or "v_proj" in key:
            continue
        if "q_proj" in key:
            parts = [state[key.replace("q_proj", f"{name}_proj")] for name in "qkv"]
            key, value = key.replace("q_proj", "joint"), torch.cat(parts)
        found[key.replace("model.", "net.")] = value
    return found


def stack(state: StateDict) -> StateDict:
    found = {key: value for key, value in state.items() if ".layers." not in key}
    for new, old in enumerate((0, 1, 1, 2, 3)):
        start = f"model.layers.{old}."
        layer = {key: value for key, value in state.items() if key.startswith(start)}
        found |= {key.replace(start, f"model.layers.{new}."): v.clone() for key, v in layer.items()}
    return found


def trained(state: StateDict) -> StateDict:
    return {
        key: value + 0.2 * value.std() * noise(9000 + at, *value.shape)
        for at, (key, value) in enumerate(state.items())
    }


def laid_out() -> dict[str, StateDict]:
    base = network(1)
    return {
        "transposed": {k: v.T.contiguous() if "layers" in k else v for k, v in base.items()},
        "joint": fused(base),
        "rotary": {
            key: value.reshape(2, 2, 8, WIDTH).transpose(1, 2).reshape(WIDTH, WIDTH).contiguous()
            if "q_proj" in key or "k_proj" in key
            else value
            for key, value in base.items()
        },
        "stack": stack(base),
        "stack-trained": trained(stack(base)),
    }


SAID = {
    "transposed": "24 transposed (model.layers.0.mlp.down_proj.weight); 25 of the 25 matrices",
    "joint": "4 fused with others (model.layers.0.self_attn.q_proj.weight, "
    "model.layers.0.self_attn.k_proj.weight and model.layers.0.self_attn.v_proj.weight → "
    "net.layers.0.self_attn.joint.weight); 25 of the 25 matrices of base are found again",
    "rotary": "8 with the rows of each head of 16 in another order",
    "stack": "stack: layers 0–1 are layers 0–1 of base and layers 2–4 are layers 1–3 of base, by",
    "stack-trained": "layers 2–4 are layers 1–3 of base, trained since; their hidden units",
}


@pytest.mark.parametrize("name", list(SAID))
def test_what_stands_elsewhere_is_said(tmp_path: Path, name: str) -> None:
    texts = related(tmp_path, base=network(1), **{name: laid_out()[name]})
    assert len(texts) == 1 and SAID[name] in texts[0], texts


def test_unrelated_models_hold_nothing_elsewhere(tmp_path: Path) -> None:
    assert related(tmp_path, base=network(1), other=stack(network(2))) == []


def test_kinship_finds_them_too(tmp_path: Path) -> None:
    models = {"base": network(1), **laid_out(), "other": stack(network(2))}
    for name, state in models.items():
        write_model(tmp_path / f"{name}.safetensors", state)
    with open_store(tmp_path / "s.duckdb") as store:
        store.ingest(tmp_path)
        table = store.kinship("base")
    assert dict(zip(table["other"], table["kinship"], strict=True)) == {
        "transposed": "another layout",
        "joint": "another layout",
        "rotary": "related",
        "stack": "related",
        "stack-trained": "related",
        "other": "none found",
    }
