"""What a command does not need is not imported: real processes, and what they have loaded."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from shutil import ignore_patterns

import numpy as np
import pytest
from safetensors.numpy import save_file

import megasim
from megasim.cli import run
from megasim.kernels.machine_code import Loop

HEAVY = ("numpy", "torch", "numba", "duckdb", "pandas", "matplotlib", "scipy.linalg", "sklearn")


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
    drawing = {"torch", "numba", "matplotlib", "sklearn"}
    assert not loaded("matrix", "-c", "all", folder=tmp_path) & drawing
    assert not loaded("matrix", "-c", "all", "-o", "m.npz", folder=tmp_path) & drawing
    assert not loaded("models", folder=tmp_path) & {"torch", "numba"}


def test_filling_a_store_needs_numpy_and_duckdb_alone(tmp_path: Path) -> None:
    """Of a comparison of seconds pandas, numba and the SciPy it asks for would be a fifth."""
    weights = np.arange(3000, dtype=np.float16)
    for name in ("a", "b"):
        save_file({"weight": weights}, tmp_path / f"{name}.safetensors")
        weights = weights[::-1].copy()
    models = ["a.safetensors", "b.safetensors"]
    for command in (["ingest", "--reread", *models], ["compare"]):
        loaded(*command, folder=tmp_path)  # compiles, where nothing has yet
        (tmp_path / "megasim.duckdb").unlink()
        loaded("ingest", *models, folder=tmp_path)
        assert loaded(*command, folder=tmp_path) == {"numpy", "duckdb"}


def test_what_was_compiled_is_kept_where_it_can_be(tmp_path: Path) -> None:
    """Real processes, of a copy of the package whose own folder cannot keep what was compiled."""
    package = tmp_path / "copy" / "megasim"
    shutil.copytree(Path(megasim.__file__).parent, package, ignore=ignore_patterns("__pycache__"))
    (package / "kernels" / "__pycache__").touch()  # no folder can be made there
    (tmp_path / "file").touch()
    unusable = str(tmp_path / "file" / "folder")
    note = "from megasim.kernels import machine_code as m, loops; print(m.compile_note(loops.FN))"
    fill = "; import numpy as np; loops.FN(np.zeros(3, np.uint16), np.zeros(3, np.float32))"

    def told(code: str, cache: str, home: str) -> str:
        ran = subprocess.run(
            [sys.executable, "-c", code.replace("FN", "half_to_single")],
            capture_output=True,
            text=True,
            cwd=package.parent,
            env={
                **{k: v for k, v in os.environ.items() if k != "XDG_CACHE_HOME"},
                "PYTHONPATH": str(package.parent),
                "NUMBA_CACHE_DIR": cache,
                "HOME": home,
            },
        )
        assert ran.returncode == 0, ran.stderr
        return ran.stdout.strip()

    for kept, home in (tmp_path / "kept", unusable), (unusable, tmp_path / "home"):
        assert told(note + fill, str(kept), str(home)).startswith("compiling the inner loops, once")
        assert list(tmp_path.glob("[kh]*/**/*.half_to_single-*.o"))
        assert told(note, str(kept), str(home)) == "None"
    assert "as on every run, because there is no folder" in told(note, unusable, unusable)


def test_the_note_on_compiling_ends_with_files_of_one_dtype(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "a.safetensors"
    save_file({"layer.weight": np.ones((8, 8), np.float32)}, path)
    compiled: set[str] = set()
    monkeypatch.setattr(Loop, "is_kept", lambda loop: loop.name in compiled)
    for noted in (True, False):
        for command in (("ingest", str(path)), ("compare",)):
            assert run(["--db", str(tmp_path / "s.duckdb"), *command]) == 0
            printed = capsys.readouterr()
            assert ("compiling the inner loops" in printed.out + printed.err) == noted
        compiled |= {"walk_singles", "add_singles"}
