"""Kinship of models that were read as samples: what the whole says, from the matrices it needs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
import pytest
from safetensors.numpy import save_file

import megasim
from megasim.cli import run
from megasim.errors import MegasimError, NoAnswerError
from megasim.words import Kinship

Tensors = dict[str, npt.NDArray[np.float32]]

WIDTH, HIDDEN, LAYERS, TOKENS = 96, 512, 3, 8000  # matrices of 49,152 elements are not read whole


def transformer(seed: int) -> Tensors:
    """A Llama-like model whose hidden units differ in size."""
    rng = np.random.default_rng(seed)
    tensors: Tensors = {"model.embed_tokens.weight": rng.normal(size=(TOKENS, WIDTH))}
    for i in range(LAYERS):
        size = np.exp(rng.normal(0, 0.2, (HIDDEN, 1)))
        block = f"model.layers.{i}."
        tensors |= {
            block + "input_layernorm.weight": np.ones(WIDTH),
            block + "mlp.gate_proj.weight": rng.normal(0, 0.1, (HIDDEN, WIDTH)) * size,
            block + "mlp.up_proj.weight": rng.normal(0, 0.1, (HIDDEN, WIDTH)) * size,
            block + "mlp.down_proj.weight": rng.normal(0, 0.1, (WIDTH, HIDDEN)) * size.T,
        }
    return {key: value.astype(np.float32) for key, value in tensors.items()}


def trained(tensors: Tensors, seed: int, by: float) -> Tensors:
    rng = np.random.default_rng(seed)
    return {k: (v + rng.normal(0, by * v.std(), v.shape)).astype("f4") for k, v in tensors.items()}


def permuted(tensors: Tensors) -> Tensors:
    moved = dict(tensors)
    for i in range(LAYERS):
        order, mlp = np.random.default_rng(i).permutation(HIDDEN), f"model.layers.{i}.mlp."
        moved[mlp + "gate_proj.weight"] = tensors[mlp + "gate_proj.weight"][order]
        moved[mlp + "up_proj.weight"] = tensors[mlp + "up_proj.weight"][order]
        moved[mlp + "down_proj.weight"] = tensors[mlp + "down_proj.weight"][:, order].copy()
    return moved


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("kin")
    base = transformer(1)
    models = {
        "base": base,
        "tuned": trained(base, 2, 0.1),
        "far": trained(base, 3, 1.0),
        "permuted": permuted(base),
        "stranger": transformer(6),
    }
    for name, tensors in models.items():
        save_file(tensors, folder / f"{name}.safetensors")
    return folder


def kinship(folder: Path, store: Path, sample: str | None) -> pd.DataFrame:
    with megasim.open_store(store) as opened:
        opened.ingest(folder, sample=sample)
        return opened.kinship("base")


@pytest.fixture(scope="module")
def sampled(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    yield tmp_path_factory.mktemp("sampled") / "s.duckdb"


def test_samples_have_the_kinship_of_the_whole(folder: Path, sampled: Path, tmp_path: Path) -> None:
    whole, found = kinship(folder, tmp_path / "s.duckdb", None), kinship(folder, sampled, "5%")
    by_name = dict(zip(whole["other"], whole["kinship"], strict=True))
    assert by_name == {
        "tuned": Kinship.RELATED,
        "far": Kinship.RELATED,
        "permuted": Kinship.PERMUTED,
        "stranger": Kinship.NOT_FOUND,
    }
    models, size = found.attrs.pop("read")
    pd.testing.assert_frame_equal(found, whole)
    # three matrices a layer of each model, once: no embedding, no norms
    assert models == 5
    assert size == 5 * LAYERS * 3 * WIDTH * HIDDEN * 4
    with megasim.open_store(sampled) as store:
        assert set(store.models()["tier"]) == {"sample"}


def test_a_sample_is_tested_against_a_model_that_was_read_in_full(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    db = ["--db", str(tmp_path / "s.duckdb")]
    assert run([*db, "ingest", str(folder / "base.safetensors"), "--sample", "5%"]) == 0
    assert run([*db, "ingest", str(folder / "tuned.safetensors")]) == 0
    assert run([*db, "ingest", str(folder / "far.safetensors"), "--header"]) == 0
    capsys.readouterr()
    assert run([*db, "kinship", "base", "tuned", "-c", "all"]) == 0
    told = capsys.readouterr()
    assert "related" in told.out
    assert "of 1 model read as a sample, the matrices that the test needs were read" in told.err
    with megasim.open_store(tmp_path / "s.duckdb") as store:
        table = store.kinship("base").set_index("other")
        assert table["kinship"]["far"] == Kinship.NOT_TESTABLE
        with pytest.raises(NoAnswerError, match="read as a header"):
            store.kinship("base", ["far"])


def test_without_its_file_a_sample_is_not_tested(folder: Path, tmp_path: Path) -> None:
    models = tmp_path / "m"
    models.mkdir()
    for name in ("base", "tuned", "far"):
        (models / f"{name}.safetensors").write_bytes((folder / f"{name}.safetensors").read_bytes())
    with megasim.open_store(tmp_path / "s.duckdb") as store:
        store.ingest(models, sample="5%")
        (models / "far.safetensors").unlink()
        table = store.kinship("base").set_index("other")
        assert dict(table["kinship"]) == {
            "tuned": Kinship.RELATED,
            "far": Kinship.NOT_TESTABLE,
        }
        assert table.attrs["read"][0] == 2
        with pytest.raises(MegasimError, match="'far' is gone"):
            store.kinship("base", ["far"])
