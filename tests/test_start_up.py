"""What a command does not need is not imported: real processes, and what they have loaded."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

HEAVY = ("torch", "numba", "duckdb", "pandas", "matplotlib", "scipy.linalg", "sklearn")


def loaded(*arguments: str, folder: Path) -> set[str]:
    """Return which of the heavy libraries a command of its own process has imported."""
    code = (
        "import sys; from megasim.cli import run; code = run(sys.argv[1:]);"
        f"print('loaded', *(m for m in {HEAVY!r} if m in sys.modules)); sys.exit(code)"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, cwd=folder
    )
    assert ran.returncode == 0, ran.stderr
    return set(ran.stdout.splitlines()[-1].split()[1:])


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["matrix", "--help"]])
def test_help_imports_no_heavy_library(tmp_path: Path, arguments: list[str]) -> None:
    assert loaded(*arguments, folder=tmp_path) == set()


def test_reading_a_store_needs_neither_torch_nor_numba(tmp_path: Path) -> None:
    from tests.simulated_store import model_names, simulate_store

    shapes = {"model.diffusion_model.time_embed.0.weight": (8, 8)}
    simulate_store(tmp_path / "megasim.duckdb", model_names(4), shapes)
    assert not loaded("matrix", "-c", "all", folder=tmp_path) & {"torch", "numba"}
    assert not loaded("models", folder=tmp_path) & {"torch", "numba"}


def test_filling_a_store_needs_neither_pandas_nor_scipy(tmp_path: Path) -> None:
    """Of a comparison of seconds they would be a tenth; numba asks for SciPy, and does without."""
    weights = np.arange(3000, dtype=np.float16)
    for name in ("a", "b"):
        save_file({"weight": weights}, tmp_path / f"{name}.safetensors")
        weights = weights[::-1].copy()
    wanted = {"numba", "duckdb"}
    assert loaded("ingest", "a.safetensors", "b.safetensors", folder=tmp_path) == wanted
    assert loaded("compare", folder=tmp_path) == wanted


def test_the_first_run_says_that_it_compiles_and_the_next_does_not(tmp_path: Path) -> None:
    """Real processes: a folder that keeps what was compiled, and none at all."""
    code = (
        "from megasim.kernels import compiled, pair_loops as p; import numpy as np;"
        "print(compiled.compile_note(p.add_doubles));"
        "p.add_doubles(np.zeros((2, 3)), np.int32([[0, 1]]), np.zeros(1, np.int64), "
        "np.zeros((1, 2)))"
    )

    def told(**environment: str) -> str:
        ran = subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True,
            text=True,
            env={**os.environ, **environment},
        )
        assert ran.returncode == 0, ran.stderr
        return ran.stdout.strip()

    kept = {"NUMBA_CACHE_DIR": str(tmp_path)}
    assert told(**kept).startswith("compiling the inner loops, once")
    assert told(**kept) == "None"
    (tmp_path / "file").touch()
    elsewhere = {"NUMBA_CACHE_DIR": str(tmp_path / "file" / "folder")}
    told(**elsewhere)  # the other place may be empty yet
    nowhere = told(**elsewhere)
    assert "NUMBA_CACHE_DIR" in nowhere or nowhere == "None"  # None: kept in another place
