"""Recipes that somebody claims, held against the weights."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from megasim import cli
from megasim.errors import NoAnswerError, UsageError
from megasim.words import ClaimVerdict
from megasim.workspace import Workspace, open_store

pytest.importorskip("yaml", reason="the extra `recipes` is not installed")

SHAPES = {f"layers.{i}.{part}.weight": (96, 80) for i in range(2) for part in ("self_attn", "mlp")}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    folder = tmp_path_factory.mktemp("claims")
    rng = np.random.default_rng(3)
    w = {"base": {k: rng.normal(0, 0.05, s) for k, s in SHAPES.items()}}
    for name in "ABC":
        w[name] = {k: x + rng.normal(0, 0.01, x.shape) for k, x in w["base"].items()}
    w = {n: {k: x.astype(np.float16).astype(float) for k, x in m.items()} for n, m in w.items()}

    def mix(weights: Mapping[str, float]) -> dict[str, Any]:
        return {k: sum(share * w[n][k] for n, share in weights.items()) for k in SHAPES}

    def by_role(k: str) -> float:
        return 0.2 if "self_attn" in k else 0.7

    def trimmed(name: str, k: str) -> Any:
        change = w[name][k] - w["base"][k]
        return change * (np.abs(change) > np.quantile(np.abs(change), 0.5))

    made = {
        "normalised": mix({"A": 0.1 / 1.1, "B": 1 / 1.1}),
        "task": mix({"A": 0.6, "B": 0.3, "base": 0.1}),
        "roles": {k: (1 - by_role(k)) * w["A"][k] + by_role(k) * w["B"][k] for k in SHAPES},
        "trimmed": {
            k: w["base"][k] + np.where(
                np.sign(trimmed("A", k) + trimmed("B", k)) == np.sign(trimmed("A", k)),
                trimmed("A", k), 0,
            )
            for k in SHAPES
        },
    }  # fmt: skip
    for name, weights in {**w, **made}.items():
        half = {k: np.asarray(x).astype(np.float16) for k, x in weights.items()}
        save_file(half, folder / f"{name}.safetensors")
    workspace = open_store(folder / "s.duckdb")
    workspace.ingest(folder)
    workspace.compare()
    return workspace


def recipe(folder: Path, method: str, models: Mapping[str, Any], **own: Any) -> Path:
    """Write a recipe; JSON is YAML."""
    entries = [{"model": f"./{n}", "parameters": p} for n, p in models.items()]
    file = folder / "recipe.yaml"
    file.write_text(json.dumps({"merge_method": method, "models": entries, **own}))
    return file


def weights(**shares: float) -> dict[str, dict[str, float]]:
    return {name: {"weight": share} for name, share in shares.items()}


def test_what_a_tool_normalises_is_confirmed_and_told(store: Workspace, tmp_path: Path) -> None:
    checked = store.check_recipe("normalised", recipe(tmp_path, "linear", weights(A=0.1, B=1.0)))
    assert checked.verdict == ClaimVerdict.CONFIRMED
    assert "normalised them to 0.9091 × B, 0.0909" in checked.reason


def test_weights_that_were_normalised_silently_are_found(store: Workspace, tmp_path: Path) -> None:
    file = recipe(tmp_path, "linear", weights(A=0.1, B=1.0), parameters={"normalize": False})
    checked = store.check_recipe("normalised", file)
    assert checked.verdict == ClaimVerdict.CONTRADICTED
    assert "add up to 1.1 and were normalised" in checked.reason
    assert "0.09091, 0.9091" in checked.reason


@pytest.mark.parametrize(
    ("model", "method", "models", "own", "verdict"),
    [
        ("task", "task_arithmetic", weights(A=0.6, B=0.3), {}, ClaimVerdict.CONFIRMED),
        ("task", "task_arithmetic", weights(A=0.6, B=0.5), {}, ClaimVerdict.CONTRADICTED),
        ("task", "task_arithmetic", weights(A=0.6, C=0.3), {}, ClaimVerdict.CONTRADICTED),
        (
            "task",
            "task_arithmetic",
            weights(A=0.3, B=0.15),
            {"parameters": {"lambda": 2.0}},
            ClaimVerdict.CONFIRMED,
        ),
        ("task", "ties", weights(A=0.6, B=0.3), {}, ClaimVerdict.CONTRADICTED),
        ("trimmed", "task_arithmetic", weights(A=1.0, B=0.0), {}, ClaimVerdict.CONTRADICTED),
        ("task", "task_arithmetic", weights(A=0.6, nobody=0.3), {}, ClaimVerdict.UNDECIDED),
    ],
)
def test_changes_from_a_base(
    store: Workspace,
    tmp_path: Path,
    model: str,
    method: str,
    models: Mapping[str, Any],
    own: Mapping[str, Any],
    verdict: ClaimVerdict,
) -> None:
    file = recipe(tmp_path, method, models, base_model="./base", **own)
    assert store.check_recipe(model, file).verdict == verdict


@pytest.mark.parametrize(("mlp", "verdict"), [(0.7, "confirmed"), (0.5, "contradicted")])
def test_weights_by_parts_of_the_names_of_keys(
    store: Workspace, tmp_path: Path, mlp: float, verdict: str
) -> None:
    def shares(attention: float, other: float) -> dict[str, Any]:
        return {"weight": [{"filter": "self_attn", "value": attention}, {"value": other}]}

    models = {"A": shares(0.8, 1 - mlp), "B": shares(0.2, mlp)}
    assert store.check_recipe("roles", recipe(tmp_path, "linear", models)).verdict == verdict


def test_the_command_prints_it_and_its_code_is_the_verdict(
    store: Workspace, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(share: float, *options: str) -> int:
        file = recipe(tmp_path, "task_arithmetic", weights(A=share, B=0.3), base_model="base")
        return cli.run(
            ["--db", str(store.store.path), "recipe", "task", "--check", str(file), *options]
        )

    assert run(0.6) == 0
    assert "task (all): confirmed" in capsys.readouterr().out
    assert run(0.9, "--json") == 5
    assert json.loads(capsys.readouterr().out)["verdict"] == "contradicted"


@pytest.mark.parametrize(
    "text", ["", "[1]", "merge_method: linear", "a: [", "x" * 100, "merge_method: slerp\nmodels: 3"]
)
def test_what_is_no_recipe_is_told(store: Workspace, tmp_path: Path, text: str) -> None:
    file = tmp_path / "r.yaml"
    file.write_text(text)
    with pytest.raises(UsageError, match="no recipe of mergekit"):
        store.check_recipe("task", file)


def test_what_cannot_be_checked_is_told(store: Workspace, tmp_path: Path) -> None:
    with pytest.raises(NoAnswerError, match="karcher"):
        store.check_recipe("task", recipe(tmp_path, "karcher", weights(A=1.0)))
    gradient = {"A": {"weight": [0.1, 0.9]}, "B": {"weight": 0.5}}
    with pytest.raises(NoAnswerError, match="layer to layer"):
        store.check_recipe("task", recipe(tmp_path, "linear", gradient))
