"""Profiles in the store: what ingest keeps of each matrix, and what is said where it kept none."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from megasim import open_store
from megasim.errors import NoAnswerError
from megasim.estimate.profiles import model_profiles
from tests.models import write_model


def norms(x: torch.Tensor, dim: int) -> np.ndarray:
    return x.double().movedim(dim, 0).reshape(x.shape[dim], -1).norm(dim=1).numpy()


def test_every_matrix_has_its_norms(tmp_path: Path) -> None:
    torch.manual_seed(0)
    shared = torch.randn(30, 20)
    tensors = {
        "a.weight": torch.randn(48, 32),
        "a.bias": torch.randn(48),
        "b.weight": torch.randn(8, 4, 3, 3).half(),
        "c.weight": shared,
        "d.weight": shared.reshape(60, 10).clone(),  # the same content in another shape
        "e.weight": torch.full((4, 4), float("nan")),
    }
    write_model(tmp_path / "m.safetensors", tensors)
    write_model(tmp_path / "n.safetensors", {"x.weight": shared.reshape(12, 50).clone()})
    with open_store(tmp_path / "s.duckdb") as workspace:
        workspace.ingest(tmp_path / "m.safetensors")
        workspace.ingest(tmp_path / "n.safetensors")
        found = model_profiles(workspace.store, "m")
        assert sorted(found) == ["a.weight", "b.weight", "c.weight", "d.weight"]
        for key, profile in found.items():
            for side, dim in ((profile.rows, 0), (profile.columns, 1)):
                np.testing.assert_allclose(side, norms(tensors[key], dim), rtol=5e-4)
        (profile,) = model_profiles(workspace.store, "n").values()
        np.testing.assert_allclose(profile.rows, norms(shared.reshape(12, 50), 0), rtol=5e-4)
        # one row for each content and shape, also when it is read again
        count = "select count(*) as n from profile"
        assert workspace.sql(count)["n"].tolist() == [5]
        workspace.ingest(tmp_path / "m.safetensors", reread=True)
        assert workspace.sql(count)["n"].tolist() == [5]


def test_an_older_store_says_what_is_missing_and_reading_again_adds_it(tmp_path: Path) -> None:
    write_model(tmp_path / "m.safetensors", {"a.weight": torch.randn(48, 32)})
    with open_store(tmp_path / "s.duckdb") as workspace:
        workspace.ingest(tmp_path / "m.safetensors")
        store = workspace.store
        store.connection.execute("delete from profile")
        store.connection.execute("update model set fingerprint_version = 3")
        with pytest.raises(NoAnswerError, match="without norms") as caught:
            model_profiles(store, "m")
        assert "megasim ingest --reread" in caught.value.remedy
        workspace.ingest(tmp_path / "m.safetensors")  # known, but of an older version
        assert list(model_profiles(store, "m")) == ["a.weight"]
