"""Kinship by the order of hidden units: uniform among strangers, sure among kin."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from safetensors.numpy import save_file
from scipy.stats import kstest

import megasim
from megasim.cli import run
from megasim.estimate.kinship import ERROR_RATE, kinship_test, shared_units
from megasim.words import Kinship

Tensors = dict[str, npt.NDArray[np.float32]]

WIDTH, HIDDEN, LAYERS = 24, 64, 4


def transformer(seed: int, gain: float = 1.0) -> Tensors:
    """A Llama-like model whose hidden units differ in size; `gain` is that of its norms."""
    rng = np.random.default_rng(seed)
    tensors: Tensors = {"model.embed_tokens.weight": rng.normal(size=(100, WIDTH))}
    for i in range(LAYERS):
        size = np.exp(rng.normal(0, 0.1, (HIDDEN, 1)))  # as training makes some units larger
        block = f"model.layers.{i}."
        tensors |= {
            block + "input_layernorm.weight": np.full(WIDTH, gain),
            block + "mlp.gate_proj.weight": rng.normal(0, 0.1, (HIDDEN, WIDTH)) * size,
            block + "mlp.up_proj.weight": rng.normal(0, 0.1, (HIDDEN, WIDTH)) * size,
            block + "mlp.down_proj.weight": rng.normal(0, 0.1, (WIDTH, HIDDEN)) * size.T,
            block + "self_attn.q_proj.weight": rng.normal(0, 0.1, (WIDTH, WIDTH)),
        }
    return {key: value.astype(np.float32) for key, value in tensors.items()}


def trained(tensors: Tensors, seed: int, by: float = 0.1) -> Tensors:
    rng = np.random.default_rng(seed)
    return {k: (v + rng.normal(0, by * v.std(), v.shape)).astype("f4") for k, v in tensors.items()}


def permuted(tensors: Tensors, seed: int) -> Tensors:
    rng = np.random.default_rng(seed)
    moved = dict(tensors)
    for i in range(LAYERS):
        order, mlp = rng.permutation(HIDDEN), f"model.layers.{i}.mlp."
        moved[mlp + "gate_proj.weight"] = tensors[mlp + "gate_proj.weight"][order]
        moved[mlp + "up_proj.weight"] = tensors[mlp + "up_proj.weight"][order]
        moved[mlp + "down_proj.weight"] = tensors[mlp + "down_proj.weight"][:, order].copy()
    return moved


@pytest.fixture(scope="module")
def strangers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[megasim.Workspace]:
    folder = tmp_path_factory.mktemp("strangers")
    for seed in range(40):
        save_file(transformer(seed), folder / f"m{seed:02}.safetensors")
    with megasim.open_store(folder / "s.duckdb") as store:
        store.ingest(folder)
        yield store


@pytest.fixture(scope="module")
def kin(tmp_path_factory: pytest.TempPathFactory) -> Iterator[megasim.Workspace]:
    folder = tmp_path_factory.mktemp("kin")
    base = transformer(1)
    models = {
        "base": base,
        "tuned": trained(base, 2),
        "far": trained(base, 3, by=1.0),
        "permuted": permuted(base, 4),
        "permuted_tuned": permuted(trained(base, 2), 5),
        "stranger": transformer(6),
        "half": {key: value.astype("f2") for key, value in permuted(base, 7).items()},
        "other": {"a.weight": np.ones((20, 20), dtype="f4")},
    }
    for name, tensors in models.items():
        save_file(tensors, folder / f"{name}.safetensors")
    with megasim.open_store(folder / "s.duckdb") as store:
        store.ingest(folder)
        yield store


def test_p_values_of_strangers_are_uniform(strangers: megasim.Workspace) -> None:
    test = kinship_test(strangers.store, "all")
    p = np.exp(test.log_p[np.triu_indices(40, 1)])
    assert kstest(p, "uniform").pvalue > 0.01
    assert not test.related(ERROR_RATE)[np.triu_indices(40, 1)].any()
    assert (test.units == LAYERS * HIDDEN).all()


def test_no_more_units_are_compared_than_say_enough(
    strangers: megasim.Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("megasim.estimate.kinship._ENOUGH_UNITS", HIDDEN + 1)
    test = kinship_test(strangers.store, "all")
    assert (test.units == 2 * HIDDEN).all()


def test_few_units_of_strangers_are_found_again(strangers: megasim.Workspace) -> None:
    held, found = shared_units(strangers.store, "m00", "m01", "all")
    assert (held, found) == (LAYERS * HIDDEN, 0)


def test_kin_are_told_from_strangers(kin: megasim.Workspace) -> None:
    table = kin.kinship("base").set_index("other")
    expected = {
        "tuned": Kinship.RELATED,
        "far": Kinship.RELATED,
        "permuted": Kinship.PERMUTED,
        "half": Kinship.PERMUTED,
        "stranger": Kinship.NOT_FOUND,
        "other": Kinship.NOT_TESTABLE,
    }
    assert {name: table["kinship"][name] for name in expected} == expected
    # training after the permutation hides it: nothing found is no proof that there is none
    assert table["kinship"]["permuted_tuned"] == Kinship.NOT_FOUND
    assert table["p_value"]["tuned"] < 1e-30 < 0.01 < table["p_value"]["stranger"]
    assert table["units"]["other"] == 0
    assert np.isnan(table["p_value"]["other"])


def test_one_other_is_tested_by_component_too(kin: megasim.Workspace) -> None:
    table = kin.kinship("base", ["tuned"])
    assert table["component"][0] == "all"
    assert len(table) > 1


def test_the_command_says_no_more_than_was_checked(
    kin: megasim.Workspace, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--db", str(kin.store.path), "kinship", "base", "tuned", "stranger", "-c", "all"]
    assert run(arguments) == 0
    lines = {line.split()[1]: line for line in capsys.readouterr().out.splitlines()}
    assert "related" in lines["tuned"]
    assert "< 1e-12" in lines["tuned"]
    assert "none found" in lines["stranger"]


def test_models_that_share_large_parts_by_construction_are_no_family(tmp_path: Path) -> None:
    """Norms near 1 weigh more than all that was learned: by their cosine all would be kin."""
    first, second = transformer(1, gain=30.0), transformer(2, gain=30.0)
    models = {
        "a": first,
        "a_tuned": trained(first, 3),
        "b": second,
        "b_tuned": trained(second, 4),
    }
    for name, tensors in models.items():
        save_file(tensors, tmp_path / f"{name}.safetensors")
    with megasim.open_store(tmp_path / "s.duckdb") as store:
        store.ingest(tmp_path)
        store.compare()
        lineage = store.lineage("all")
    assert [family.models for family in lineage.families] == [("a", "a_tuned"), ("b", "b_tuned")]
    assert {(e.parent[0], e.child[0]) for e in lineage.edges} == {("a", "a"), ("b", "b")}


def test_the_lineage_draws_a_permuted_copy_as_a_copy(tmp_path: Path) -> None:
    base = transformer(1)
    models = {
        "base": base,
        "tuned": trained(base, 2),
        "moved": permuted(base, 4),
        "half": {key: value.astype("f2") for key, value in permuted(base, 7).items()},
        "stranger": transformer(6),
    }
    for name, tensors in models.items():
        save_file(tensors, tmp_path / f"{name}.safetensors")
    with megasim.open_store(tmp_path / "s.duckdb") as store:
        store.ingest(tmp_path)
        store.compare()
        lineage = store.lineage()
    assert set(lineage.families[0].models) == {"base", "tuned", "moved", "half"}
    edges = {e.child: e for e in lineage.edges}
    copies = {child for child, e in edges.items() if e.kind == "permuted copy"}
    assert len(copies) == 2
    assert copies < {"base", "moved", "half"}
    assert all("in another order" in edges[c].evidence[0].text for c in copies)
    assert not any(edges[c].decided for c in copies)
