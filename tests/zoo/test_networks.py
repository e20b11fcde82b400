"""The demo's language models and convolutional networks, and what the README says of them."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from megasim.workspace import open_store
from megasim.zoo.building import NETWORKS, build_networks, model
from megasim.zoo.variants import ALPHA, RANK, permuted, quantised
from tests.commands.test_cli import megasim

README = Path(__file__).parents[2] / "README.md"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("networks")
    assert build_networks(folder / "models") == list(NETWORKS)
    with open_store(folder / "store.duckdb") as workspace:
        assert not workspace.ingest(folder / "models").failed
        assert not workspace.compare().failed
    return folder


def rows() -> list[tuple[str, str]]:
    """The commands of the README's table, and what they print."""
    text = README.read_text(encoding="utf-8")
    table = text.partition("| kind | command | it prints |")[2].partition("\n\n")[0]
    found = re.findall(r"^\| [^|]+ \| `([^`]+)` \| (.+) \|$", table, re.MULTILINE)
    assert len(found) == len(table.strip().splitlines()) - 1
    return found


@pytest.mark.parametrize(("command", "printed"), rows())
def test_what_the_readme_says_is_what_is_printed(
    folder: Path, capsys: pytest.CaptureFixture[str], command: str, printed: str
) -> None:
    code, out, _ = megasim(capsys, "--db", str(folder / "store.duckdb"), *command.split())
    assert code == 0
    assert printed in out


def test_every_model_of_the_family_has_a_row() -> None:
    said = " ".join(f"{command} {printed}" for command, printed in rows())
    for name in ("llama-bf16", "llama-fp8", "llama-merged", "llama-lora", "cnn-training"):
        assert name in said


def test_the_same_bytes_again(folder: Path, tmp_path: Path) -> None:
    build_networks(tmp_path)
    for path in sorted((folder / "models").rglob("*")):
        if path.is_file():
            again = tmp_path / path.relative_to(folder / "models")
            assert again.read_bytes() == path.read_bytes(), path.name
    assert sum(f.stat().st_size for f in tmp_path.rglob("*") if f.is_file()) < 10e6


def test_codes_are_those_of_torch() -> None:
    values = torch.randn(64, 64, generator=torch.Generator().manual_seed(0)).float()
    values[0, :4] = torch.tensor([0.0, 1e-5, -3e-4, 7e-3])
    stored = quantised({"model.layers.0.mlp.up_proj.weight": values.numpy()})
    codes, scale = stored.values()
    expected = (values / torch.from_numpy(scale)).to(torch.float8_e4m3fn).view(torch.uint8)
    assert np.array_equal(codes, expected.numpy())


def test_a_permuted_copy_computes_the_same(folder: Path) -> None:
    one = load_file(folder / "models" / "llama-bf16.safetensors")
    other = load_file(folder / "models" / "llama-permuted.safetensors")
    inputs = torch.randn(5, one["model.norm.weight"].numel(), generator=torch.Generator())

    def run(state: dict[str, torch.Tensor]) -> torch.Tensor:
        gate, up, down = (
            state[f"model.layers.2.mlp.{name}_proj.weight"].double()
            for name in ("gate", "up", "down")
        )
        hidden = torch.nn.functional.silu(inputs.double() @ gate.T) * (inputs.double() @ up.T)
        return hidden @ down.T

    key = "model.layers.2.mlp.up_proj.weight"
    assert not torch.equal(one[key], other[key])
    assert torch.allclose(run(one), run(other))
    assert permuted({"w": np.ones(3)}, 0, "x").keys() == {"w"}


def test_the_adapter_is_baked_in_as_the_plan_says(folder: Path) -> None:
    models = folder / "models"
    factors = load_file(models / "llama-lora" / "adapter_model.safetensors")
    settings = json.loads((models / "llama-lora" / "adapter_config.json").read_text())
    assert (settings["r"], settings["lora_alpha"]) == (RANK, ALPHA)
    base, baked = (load_file(models / f"llama-{n}.safetensors") for n in ("bf16", "with-lora"))
    strength = model(NETWORKS, "llama-with-lora").strength
    key = "model.layers.1.self_attn.q_proj"
    down = factors[f"base_model.model.{key}.lora_A.weight"].double()
    up = factors[f"base_model.model.{key}.lora_B.weight"].double()
    expected = base[f"{key}.weight"].double() + strength * ALPHA / RANK * up @ down
    off = (baked[f"{key}.weight"].double() - expected).abs()
    assert bool((off <= 2**-8 * expected.abs() + 1e-6).all())


def test_the_run_counts_its_batches(folder: Path) -> None:
    for epoch in range(1, 5):
        state = torch.load(folder / "models" / f"cnn-e{epoch:02}.pth", weights_only=True)
        assert int(state["bn1.num_batches_tracked"]) == 1000 * epoch
    whole = torch.load(folder / "models" / "cnn-training.pt", weights_only=True)
    assert set(whole) == {"epoch", "global_step", "model", "ema", "optimizer"}
    assert torch.equal(whole["model"]["fc.weight"], state["fc.weight"])
