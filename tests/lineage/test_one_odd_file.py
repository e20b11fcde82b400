"""One odd file in a store changes nothing of what is said of the others."""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import combinations
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, Phase, example, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from megasim.findings.relations import model_relations
from megasim.findings.verdicts import pair_findings
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


def one_element(state: State) -> State:
    broken = {k: v.clone() for k, v in state.items()}
    broken["blocks.2.v.weight"][3, 5] = 1e30
    return broken


POISONS: dict[str, Callable[[State], State]] = {
    "codes": codes,
    "times 20": lambda s: {k: 20 * v for k, v in s.items()},
    "huge": lambda s: {k: torch.full_like(v, 1e30) for k, v in s.items()},
    "one element": one_element,
    "zeros": lambda s: {k: torch.zeros_like(v) for k, v in s.items()},
    "nan layer": with_nan,
}


def answers(store: Workspace, models: list[str], odd: str) -> dict[str, str]:
    """Return what is said of some models, as text that is compared byte for byte.

    Findings and relations of every pair of them, recipes, the lineage and the map. What is said of
    the odd one itself is left out.
    """
    pairs = list(combinations(models, 2))
    told = pair_findings(store.store, pairs, details=False)
    found = {"findings": json.dumps([finding.to_json() for finding in told])}
    relations = model_relations(store.store, pairs)
    found["relations"] = json.dumps([relation.to_json() for relation in relations])
    some = ("m0", "m1", "after", "t0")
    found |= {name: json.dumps(store.recipe(name).to_json()) for name in some}
    found["named"] = json.dumps(store.recipe("m2", parents=["t5", "t2"]).to_json())
    lineage = store.lineage()
    plain = lineage.to_json()
    for kind, ends in (("edges", ("parent", "child")), ("recipes", ("model",))):
        items = plain[kind]
        assert isinstance(items, list)
        kept = [item for item in items if odd not in {item[end] for end in ends}]
        found[kind] = json.dumps(kept, sort_keys=True)
    # A copy with NaN in one layer is of the family of its origin.
    families = [(set(f.models) - {odd}, f.root, f.root_probability) for f in lineage.families]
    found["families"] = repr([(sorted(m), *rest) for m, *rest in families if m])
    found["map"] = json.dumps(store.map(models=models).to_json(), sort_keys=True)
    return found


def ingested(folder: Path, name: str, paths: list[Path], models: list[str], odd: str) -> dict:
    with open_store(folder / f"{name}.duckdb") as store:
        assert not store.ingest(*paths).failed
        assert not store.compare().failed
        return answers(store, models, odd)


Plain = tuple[Path, dict[str, State], dict[str, str]]


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Plain:
    """A family of fourteen, and what is said of it while it is alone."""
    folder, models = tmp_path_factory.mktemp("family"), family(1)
    for name, state in models.items():
        save_file(state, folder / f"{name}.safetensors")
    paths = [folder / f"{name}.safetensors" for name in sorted(models)]
    return folder, models, ingested(folder, "plain", paths, sorted(models), "odd")


def test_the_family_is_told_in_full(plain: Plain) -> None:
    """So that the test below compares answers that say something."""
    _, _, said = plain
    assert {"m0", "m1", "m2"} <= {r["model"] for r in json.loads(said["recipes"])}
    assert not json.loads(said["m1"])["same"]
    assert len(json.loads(said["relations"])) >= 14
    assert len(json.loads(said["edges"])) >= 13


@settings(
    max_examples=3,
    deadline=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
    phases=[Phase.explicit, Phase.generate],
)
@given(
    kind=st.sampled_from(sorted(POISONS)),
    origin=st.sampled_from(sorted(family(1))),
    half=st.booleans(),
    place=st.integers(0, 14),
)
@example(kind="codes", origin="m1", half=False, place=0)
@example(kind="huge", origin="base", half=True, place=14)
@example(kind="nan layer", origin="t3", half=False, place=7)
def test_one_odd_file_changes_nothing_of_the_others(
    plain: Plain,
    tmp_path_factory: pytest.TempPathFactory,
    kind: str,
    origin: str,
    half: bool,
    place: int,
) -> None:
    """Whatever it was made of and how, and wherever it stands among the others."""
    folder, models, said = plain
    own = tmp_path_factory.mktemp("odd")
    state = POISONS[kind](models[origin])
    if half and kind != "huge":  # 1e30 is infinite there
        state = {k: v.half() if v.dtype == torch.float32 else v for k, v in state.items()}
    odd = own / "odd.safetensors"
    save_file(state, odd)
    paths = [folder / f"{name}.safetensors" for name in sorted(models)]
    paths.insert(place, odd)
    with_odd = ingested(own, "store", paths, sorted(models), "odd")
    assert with_odd.keys() == said.keys()
    for what, text in said.items():
        assert with_odd[what] == text, what
