"""Steps told by how few directions they have, where lengths would join siblings."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
from safetensors.numpy import save_file

from megasim.compare.elements import ElementFiles, MatrixCorner
from megasim.lineage.step_spectra import near_pairs, spectral_negentropies
from megasim.workspace import open_store

Floats = npt.NDArray[np.float64]
KEY = "layers.0.mlp.up_proj.weight"
ROWS, COLUMNS, RANK = 64, 96, 8


def random_change(rng: np.random.Generator, rank: int) -> Floats:
    return np.asarray(rng.normal(size=(ROWS, rank)) @ rng.normal(size=(rank, COLUMNS)))


def siblings(folder: Path) -> None:
    """Write a base and fine-tunes of low rank, two of which went mostly the same way."""
    rng = np.random.default_rng(0)
    base = rng.normal(size=(ROWS, COLUMNS))
    up, down = rng.normal(size=(ROWS, RANK)), rng.normal(size=(RANK, COLUMNS))
    alike = [0.85 * m + 0.53 * rng.normal(size=m.shape) for m in (up, down)]
    changes = {
        "base": 0 * base,
        "a": up @ down,
        "b": alike[0] @ alike[1],
        "c": random_change(rng, RANK),
    }
    folder.mkdir()
    for name, change in changes.items():
        weights = (base + 0.02 * change).astype(np.float32)
        save_file({KEY: weights, "norm.weight": weights[0]}, folder / f"{name}.safetensors")


def test_siblings_that_went_the_same_way_are_told_by_the_directions_of_their_steps(
    tmp_path: Path,
) -> None:
    siblings(tmp_path / "models")
    with open_store(tmp_path / "store.duckdb") as store:
        store.ingest(tmp_path / "models")
        store.compare()
        lengths = store.matrix("all")
        place = {name: i for i, name in enumerate(lengths.models)}
        base, a, b = (place[name] for name in ("base", "a", "b"))
        assert lengths.values[a, b] < 0.8 * lengths.values[base, b]
        read = store.lineage("all")
        assert {frozenset((e.parent, e.child)) for e in read.edges} == {
            frozenset(("base", name)) for name in "abc"
        }
        assert not any("directions of steps" in note for note in read.notes)
        for file in (tmp_path / "models").iterdir():
            file.unlink()
        unread = store.lineage("all")
        assert frozenset("ab") in {frozenset((e.parent, e.child)) for e in unread.edges}
        assert any("the directions of steps were not looked at" in note for note in unread.notes)


def test_what_a_change_lacks_in_directions_grows_as_its_rank_falls() -> None:
    rng = np.random.default_rng(1)
    base = rng.normal(size=(ROWS, COLUMNS))
    changes = [random_change(rng, rank) for rank in (2, 8, 32)] + [rng.normal(size=base.shape)]
    values = np.stack([base, *(base + 0.01 * c / np.linalg.norm(c) for c in changes)])
    corner = MatrixCorner("w", ("float32",) * 5, values)
    near = ~np.eye(5, dtype=bool)
    lacks = spectral_negentropies([corner], near)["w"]
    assert lacks[0, 1] > lacks[0, 2] > lacks[0, 3] > lacks[0, 4] >= 0
    assert lacks[0, 4] < 0.5
    assert np.array_equal(lacks, lacks.T)
    # its length does not matter, nor which way the matrix lies
    longer = MatrixCorner("w", corner.dtypes, base + 7 * (values - base))
    assert np.allclose(spectral_negentropies([longer], near)["w"][0], lacks[0], atol=1e-6)
    lying = MatrixCorner("w", corner.dtypes, values.swapaxes(1, 2))
    assert np.allclose(spectral_negentropies([lying], near)["w"], lacks, atol=1e-6)
    # what was not asked for is 0, and rounding is no lack of directions
    few = spectral_negentropies(
        [corner], near_pairs(np.square(np.arange(5.0)[:, None] - np.arange(5)), 1)
    )
    assert few["w"][0, 4] == 0
    rounded = MatrixCorner("w", ("float16",) * 5, values)
    assert spectral_negentropies([rounded], near)["w"][0, 1] < lacks[0, 1]


def test_corners_are_the_first_rows_and_columns_of_what_all_models_hold(tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    (tmp_path / "models").mkdir()
    written = {}
    for name in ("a", "b"):
        written[name] = {
            "conv.weight": rng.normal(size=(40, 6, 3, 3)).astype(np.float32),
            "conv.bias": rng.normal(size=40).astype(np.float32),
            "embed.weight": rng.normal(size=(10 + len(written), 8)).astype(np.float32),
            "head.weight": rng.normal(size=(4, 200)).astype(np.float32),
        }
        save_file(written[name], tmp_path / "models" / f"{name}.safetensors")
    with open_store(tmp_path / "store.duckdb") as store:
        store.ingest(tmp_path / "models")
        found = {
            corner.key: corner.values
            for corner in ElementFiles(store.store).corners(
                ["a", "b"], "all", rows=32, columns=128, most_keys=9
            )
        }
    assert set(found) == {"conv.weight", "head.weight"}
    for i, weights in enumerate(written.values()):
        flat = weights["conv.weight"].reshape(40, -1)
        assert np.array_equal(found["conv.weight"][i], flat[:32])
        assert np.array_equal(found["head.weight"][i], weights["head.weight"][:, :128])
