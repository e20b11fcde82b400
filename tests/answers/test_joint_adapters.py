"""Several adapters in one model: how strongly each is in it, found together."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from megasim.answers.adapters_in_model import adapters_together
from megasim.workspace import open_store
from tests.answers.test_adapters import State, big_adapter, big_model
from tests.commands.test_cli import megasim
from tests.models import write_model


def both(base: State, deltas: tuple[State, State], *strengths: tuple[float, float]) -> State:
    """Return a model with two changes added in one step, at strengths for each block in turn."""
    merged = {}
    for key, weight in base.items():
        a, b = strengths[int(key.split(".")[2]) % len(strengths)]
        exact = weight.double() + a * deltas[0][key] + b * deltas[1][key]
        merged[key] = exact.to(weight.dtype)
    return merged


@pytest.fixture
def made(tmp_path: Path) -> tuple[State, list[Path], tuple[State, State]]:
    base = big_model(0, torch.bfloat16)
    paths, deltas = zip(
        *(big_adapter(tmp_path / name, base, seed, 0.02) for name, seed in (("a", 1), ("b", 2))),
        strict=True,
    )
    write_model(tmp_path / "base.safetensors", base)
    return base, list(paths), deltas


@pytest.mark.parametrize(("one", "other"), [(0.3, 0.7), (1.0, 0.3), (0.7, 0.0), (0.5, -0.4)])
def test_strengths_of_two_are_found_together(
    tmp_path: Path, made: tuple[State, list[Path], tuple[State, State]], one: float, other: float
) -> None:
    """In bfloat16, of which most of either change is less than half a digit."""
    base, paths, deltas = made
    model = write_model(tmp_path / "m.safetensors", both(base, deltas, (one, other)))
    found = adapters_together(None, paths, model, base=tmp_path / "base.safetensors")
    assert [s.value for s in found.whole.each] == pytest.approx([one, other], abs=0.01)
    assert all(s.error < 0.01 for s in found.whole.each)
    assert found.whole.exact is not None and found.whole.exact > 0.98
    assert found.found == (("a", "b") if other else ("a",))
    for block in found.blocks:
        values = [s.value for s in block.strengths.each]
        assert values == pytest.approx([one, other], abs=0.01), block.block


def test_strengths_of_two_differ_by_block(
    tmp_path: Path, made: tuple[State, list[Path], tuple[State, State]]
) -> None:
    base, paths, deltas = made
    strengths = ((0.3, 1.0), (0.7, 0.0), (0.0, 0.3), (1.0, 0.7))
    model = write_model(tmp_path / "m.safetensors", both(base, deltas, *strengths))
    found = adapters_together(None, paths, model, base=tmp_path / "base.safetensors")
    for block, expected in zip(found.blocks, strengths, strict=True):
        values = [s.value for s in block.strengths.each]
        assert values == pytest.approx(expected, abs=0.01), block.block
    assert any("not the same in every block" in line for line in found.sentences())


def test_what_is_nearly_one_change_is_said_to_be_undecided(
    tmp_path: Path, made: tuple[State, list[Path], tuple[State, State]]
) -> None:
    """Below further training, where no rounding tells them: the sum is known, the shares not."""
    base, _, _ = made
    first, delta = big_adapter(tmp_path / "first", base, 5, 0.02)
    second = tmp_path / "second"
    generator = torch.Generator().manual_seed(6)
    saved = load_file(first / "adapter_model.safetensors")
    near = {
        key: value + 1e-4 * torch.randn(value.shape, generator=generator)
        for key, value in saved.items()
    }
    write_model(second / "adapter_model.safetensors", near)
    config = (first / "adapter_config.json").read_text()
    (second / "adapter_config.json").write_text(config)
    model = {
        key: (
            weight.double()
            + 0.7 * delta[key]
            + 0.002 * torch.randn(weight.shape, generator=generator)
        ).float()
        for key, weight in base.items()
    }
    path = write_model(tmp_path / "m.safetensors", model)
    found = adapters_together(None, [first, second], path, base=tmp_path / "base.safetensors")
    assert found.undecided and found.undecided[0][2] > 0.99
    assert sum(s.value for s in found.whole.each) == pytest.approx(0.7, abs=0.02)
    assert max(s.error for s in found.whole.each) > 0.05
    assert any("nearly the same change" in line for line in found.sentences())


def test_a_store_finds_both_and_no_third(
    tmp_path: Path,
    made: tuple[State, list[Path], tuple[State, State]],
    capsys: pytest.CaptureFixture[str],
) -> None:
    base, paths, deltas = made
    third, _ = big_adapter(tmp_path / "c", base, 3, 0.02)
    db = tmp_path / "store.duckdb"
    merged = both(base, deltas, (0.7, 0.3))
    generator = torch.Generator().manual_seed(4)
    tuned = {
        k: (w.double() + 0.004 * torch.randn(w.shape, generator=generator)).to(w.dtype)
        for k, w in base.items()
    }
    with open_store(db) as workspace:
        workspace.ingest(tmp_path / "base.safetensors", *paths, third)
        for name, state in (("m", merged), ("tuned", tuned)):
            workspace.ingest(write_model(tmp_path / f"{name}.safetensors", state))
        answer = workspace.adapters_in("m", base="base")
        assert answer.together is not None
        assert set(answer.together.found) == {"a", "b"}
        strengths = dict(
            zip(
                answer.together.adapters, (s.value for s in answer.together.whole.each), strict=True
            )
        )
        assert strengths["a"] == pytest.approx(0.7, abs=0.01)
        assert strengths["b"] == pytest.approx(0.3, abs=0.01)
        assert answer.sentences()[0].startswith("m is base + 0.70")
        workspace.compare()
        recipe = workspace.recipe("m")
        assert recipe.adapter is not None
        assert recipe.sentence().startswith("m (")
        assert "= base + 0.7" in recipe.sentence() and "× b (±" in recipe.sentence()
        told = recipe.to_json()["adapter"]
        assert isinstance(told, dict) and told["more"][0]["adapter"] == "b"
        none = workspace.adapters_in("tuned", base="base")
        assert none.together is None
        assert "no adapter known here" in none.sentences()[0]
    code, shown, _ = megasim(capsys, "--db", str(db), "adapter", "a", "b", "--model", "m")
    assert code == 0 and "× a + 0.30" in shown and "layer 3" in shown
    code, told, _ = megasim(
        capsys, "--db", str(db), "adapter", "a", "b", "--model", "m", "--base", "base", "--json"
    )
    assert code == 0 and json.loads(told)["found"] == ["a", "b"]


def test_a_strength_is_found_in_an_fp8_copy_with_a_larger_error(
    tmp_path: Path, made: tuple[State, list[Path], tuple[State, State]]
) -> None:
    base, paths, deltas = made
    merged = both(base, deltas, (0.7, 0.3))
    coded = {key: value.to(torch.float8_e4m3fn) for key, value in merged.items()}
    model = write_model(tmp_path / "m8.safetensors", coded)
    found = adapters_together(None, paths, model, base=tmp_path / "base.safetensors")
    assert found.whole.exact is None
    for strength, expected in zip(found.whole.each, (0.7, 0.3), strict=True):
        assert strength.error > 0.0005
        assert abs(strength.value - expected) < max(0.03, 4 * strength.error)
