"""One odd file in a store changes nothing of what is said of the others."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from megasim.workspace import Workspace, open_store

State = dict[str, torch.Tensor]
ROWS, BLOCKS = 48, 4


def family(seed: int) -> dict[str, State]:
    """Return a base, nine fine-tunes, three merges of those and one trained from a merge."""
    rng = torch.Generator().manual_seed(seed)

    def network(scale: float) -> State:
        shapes = {f"blocks.{i}.{k}.weight": (ROWS, ROWS) for i in range(BLOCKS) for k in "qv"}
        shapes["head.weight"] = (ROWS, 16)
        return {k: scale * torch.randn(shape, generator=rng) for k, shape in shapes.items()}

    def add(state: State, change: State) -> State:
        return {k: v + change[k] for k, v in state.items()}

    def mix(share: float, a: State, b: State) -> State:
        return {k: share * v + (1 - share) * b[k] for k, v in a.items()}

    models = {"base": network(0.1)}
    for i in range(9):
        parent = "base" if i < 5 else f"t{i - 5}"
        size = 0.01 * (0.5 + float(torch.rand(1, generator=rng)))
        models[f"t{i}"] = add(models[parent], network(size))
    models["m0"] = mix(0.697, models["t0"], models["t1"])
    models["m1"] = mix(0.7, models["t0"], models["t1"])
    models["m2"] = mix(0.4, models["t5"], models["t2"])
    models["after"] = add(models["m2"], network(0.003))
    assert len(models) == 14
    return models


def codes(state: State) -> State:
    """Return FP8 codes whose scales were lost, beside layers that were left as they were."""
    coded = {}
    for key, value in state.items():
        kept = key.startswith("head")
        scaled = value * (448 / value.abs().max())
        coded[key] = value.clone() if kept else scaled.to(torch.float8_e4m3fn)
    return coded


def with_nan(state: State) -> State:
    broken = {k: v.clone() for k, v in state.items()}
    broken["blocks.1.q.weight"][:] = float("nan")
    return broken


POISONS: dict[str, Callable[[State], State]] = {
    "codes": codes,
    "times 20": lambda s: {k: 20 * v for k, v in s.items()},
    "huge": lambda s: {k: torch.full_like(v, 1e30) for k, v in s.items()},
    "zeros": lambda s: {k: torch.zeros_like(v) for k, v in s.items()},
    "nan layer": with_nan,
}


def answers(store: Workspace, models: list[str]) -> dict[str, str]:
    """Return what is said of some models, as text that is compared byte for byte."""
    found = {name: json.dumps(store.recipe(name).to_json()) for name in models}
    named = store.recipe("m2", parents=["t5", "t2"])
    lineage = store.lineage().to_json()
    for kind in ("edges", "recipes"):
        items = lineage[kind]
        assert isinstance(items, list)
        found[kind] = json.dumps([x for x in items if "odd" not in str(x)], sort_keys=True)
    # A copy with NaN in one layer is of the family of its origin.
    families = [
        (set(f.models) - {"odd"}, f.root, f.root_probability) for f in store.lineage().families
    ]
    found["families"] = repr([(sorted(m), *rest) for m, *rest in families if m])
    chart = store.map(models=models)
    found["map"] = json.dumps(chart.to_json(), sort_keys=True)
    found["named"] = json.dumps(named.to_json())
    return found


@pytest.mark.parametrize("seed", [1, 2])
def test_one_odd_file_changes_nothing_of_the_others(tmp_path: Path, seed: int) -> None:
    models = family(seed)
    for name, state in models.items():
        save_file(state, tmp_path / f"{name}.safetensors")
    names = sorted(models)
    with open_store(tmp_path / "plain.duckdb") as store:
        store.ingest(*(tmp_path / f"{name}.safetensors" for name in names))
        store.compare()
        plain = answers(store, names)
    merges = {r["model"] for r in json.loads(plain["recipes"])}
    assert {"m0", "m1", "m2"} <= merges
    assert not json.loads(plain["m1"])["same"]
    rng = np.random.default_rng(seed)
    for kind, poison in POISONS.items():
        odd = tmp_path / "odd.safetensors"
        save_file(poison(models[str(rng.choice(names))]), odd)
        with open_store(tmp_path / f"{kind}.duckdb") as store:
            store.ingest(*(tmp_path / f"{name}.safetensors" for name in names), odd)
            store.compare()
            with_odd = answers(store, names)
        for what, said in plain.items():
            assert with_odd[what] == said, (kind, what)
