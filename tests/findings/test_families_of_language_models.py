"""What is said of a small family of language models: the nearest and fullest relation of each."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from megasim.findings.overview import findings_report
from megasim.workspace import Workspace, open_store
from tests.models import write_model

State = dict[str, torch.Tensor]
WIDTH, INNER, VOCABULARY = 24, 40, 32


def language_model(seed: int) -> State:
    generator = torch.Generator().manual_seed(seed)

    def noise(*shape: int) -> torch.Tensor:
        return 0.1 * torch.randn(shape, generator=generator)

    state = {
        "model.embed_tokens.weight": noise(VOCABULARY, WIDTH),
        "model.norm.weight": 1 + noise(WIDTH),
        "lm_head.weight": noise(VOCABULARY, WIDTH),
    }
    for i in range(2):
        layer = f"model.layers.{i}."
        state |= {f"{layer}self_attn.{n}_proj.weight": noise(WIDTH, WIDTH) for n in "qkvo"}
        state |= {f"{layer}mlp.{n}_proj.weight": noise(INNER, WIDTH) for n in ("gate", "up")}
        state[f"{layer}mlp.down_proj.weight"] = noise(WIDTH, INNER)
        state[f"{layer}input_layernorm.weight"] = 1 + noise(WIDTH)
    return state


def moved(state: State, seed: int, size: float, *names: str) -> State:
    generator = torch.Generator().manual_seed(seed)
    return {
        key: value + size * torch.randn(value.shape, generator=generator)
        if not names or any(name in key for name in names)
        else value
        for key, value in state.items()
    }


def family() -> dict[str, State]:
    base = language_model(1)
    hurt = {k: v.clone() for k, v in base.items()}
    hurt["model.layers.1.mlp.up_proj.weight"][0, 0] = torch.nan
    more = dict(base)
    for key in ("model.embed_tokens.weight", "lm_head.weight"):
        more[key] = torch.cat([base[key], torch.ones(2, WIDTH)])
    few = dict(moved(base, 4, 0.002, "o_proj")) | {"lm_head.weight": base["lm_head.weight"][:-1]}
    coded = {k: v.to(torch.float8_e4m3fn) if v.ndim == 2 else v for k, v in base.items()}
    return {
        "a-no-head": {k: v for k, v in base.items() if "lm_head" not in k},
        "b-half": {k: v.bfloat16() for k, v in base.items()},
        "c-coded": coded,
        "d-more-words": more,
        "e-hurt": hurt,
        "f-code": moved(base, 2, 0.002, "mlp"),
        "g-base": base,
        "h-fewer-words": few,
        "i-stranger": language_model(9),
        "j-chat": moved(base, 3, 0.002),
    }


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workspace]:
    folder = tmp_path_factory.mktemp("family")
    with open_store(folder / "store.duckdb") as workspace:
        for name, state in family().items():
            workspace.ingest(write_model(folder / f"{name}.safetensors", state))
        workspace.compare()
        yield workspace


@pytest.mark.parametrize(
    "line",
    [
        "a-no-head is g-base without its head",
        "b-half is g-base cast to bfloat16",
        "e-hurt is g-base but for NaN or inf in 1 key",
        "d-more-words is g-base with 2 rows more",
        "c-coded is g-base quantised to fp8_e4m3fn",
    ],
)
def test_each_is_told_of_the_model_that_it_is_nearest_and_fullest_to(
    store: Workspace, line: str
) -> None:
    """Keys without a distance bring no model nearer: of NaN, of another shape, or not there."""
    report = findings_report(store.store)
    told = [relation.text for relation in report.relations]
    assert any(text.startswith(line) for text in told), told
    assert line in report.to_text()
    assert any(line in relation["text"] for relation in report.to_json()["relations"])


def test_experts_have_one_name_on_disk_and_in_memory(tmp_path: Path) -> None:
    """Mixtral's w1, w2, w3 are what transformers 5 holds as gate_up_proj and down_proj."""
    generator = torch.Generator().manual_seed(0)
    layer = "model.layers.0."
    kept: State = {f"{layer}block_sparse_moe.gate.weight": torch.randn(2, 8, generator=generator)}
    gates, downs = [], []
    for i in range(2):
        w1, w3 = (torch.randn(6, 8, generator=generator) for _ in range(2))
        w2 = torch.randn(8, 6, generator=generator)
        expert = f"{layer}block_sparse_moe.experts.{i}."
        kept |= {f"{expert}w1.weight": w1, f"{expert}w2.weight": w2, f"{expert}w3.weight": w3}
        gates.append(torch.cat([w1, w3]))
        downs.append(w2)
    fused = {
        f"{layer}mlp.gate.weight": kept[f"{layer}block_sparse_moe.gate.weight"],
        f"{layer}mlp.experts.gate_up_proj": torch.stack(gates),
        f"{layer}mlp.experts.down_proj": torch.stack(downs),
    }
    beside = {"model.embed_tokens.weight": torch.randn(8, 8, generator=generator)}
    tuned = {k: v + 0.01 if "gate_up" in k else v for k, v in fused.items()}
    with open_store(tmp_path / "store.duckdb") as workspace:
        for name, state in (("disk", kept), ("memory", fused), ("tuned", tuned)):
            workspace.ingest(write_model(tmp_path / f"{name}.pt", state | beside))
        workspace.compare()
        text = workspace.findings("disk", "memory").to_text()
        assert "disk and memory hold the same weights" in text
        text = workspace.findings("disk", "tuned").to_text()
        assert "experts: partly changed" in text and "(4 of 6 keys" in text
        assert "only in" not in text
