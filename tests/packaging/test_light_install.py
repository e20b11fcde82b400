"""The main job needs no torch, and what lacks an extra says how to install it."""

from __future__ import annotations

import ast
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

import megasim
from megasim.errors import EXTRAS, MissingExtraError, require_extra

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]

# As if torch were not installed: no import finds it. (`None` in `sys.modules` would do for our own
# imports; SciPy takes what it finds there to be torch.)
WITHOUT_TORCH = """
import sys
from importlib.machinery import PathFinder

find = PathFinder.find_spec
PathFinder.find_spec = lambda name, *rest: None if name == "torch" else find(name, *rest)
from megasim.cli import run

code = run(sys.argv[1:])
assert "torch" not in sys.modules
sys.exit(code)
"""


def without_torch(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a command of megasim in a process of its own that has no torch."""
    return subprocess.run(
        [sys.executable, "-c", WITHOUT_TORCH, *arguments],
        capture_output=True,
        text=True,
        cwd=folder,
    )


@pytest.fixture(scope="module")
def two_models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of two models and the store that was filled from it, all without torch."""
    folder = tmp_path_factory.mktemp("light")
    random = np.random.default_rng(0)
    weights = {f"layers.{i}.weight": random.standard_normal((16, 32)) for i in range(3)}
    save_file({key: w.astype(np.float32) for key, w in weights.items()}, folder / "a.safetensors")
    weights["layers.1.weight"] += 0.1
    save_file({key: w.astype(np.float32) for key, w in weights.items()}, folder / "b.safetensors")
    for command in (["ingest", "a.safetensors", "b.safetensors"], ["compare"]):
        ran = without_torch(folder, *command)
        assert ran.returncode == 0, ran.stderr
    return folder


@pytest.mark.parametrize(
    "command",
    [
        ["findings"],
        ["findings", "a", "b"],
        ["matrix", "-c", "all"],
        ["heatmap", "-c", "all", "-o", "all.png"],
        ["report", "-o", "report"],
        ["sql", "select * from layer_distances"],
    ],
    ids=" ".join,
)
def test_the_main_job_runs_without_torch(two_models: Path, command: list[str]) -> None:
    ran = without_torch(two_models, *command)
    assert ran.returncode == 0, ran.stderr


@pytest.mark.parametrize(
    ("command", "extra"),
    [(["compare", "--device", "cuda"], "torch"), (["demo", "-o", "demo"], "demo")],
    ids=["--device", "demo"],
)
def test_a_missing_extra_is_one_sentence_with_the_command(
    two_models: Path, command: list[str], extra: str
) -> None:
    ran = without_torch(two_models, *command)
    assert ran.returncode == 1
    *_, said = ran.stderr.strip().splitlines()
    assert "needs torch" in said
    assert said.endswith(f"run `pip install 'megasim[{extra}]'`")
    assert "Traceback" not in ran.stderr


def test_nothing_is_missing_where_all_is_installed() -> None:
    require_extra("torch", "--device")


def test_an_extra_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(EXTRAS, "some", ("there_is_no_such_module", "json"))
    with pytest.raises(MissingExtraError, match=r"^it needs there_is_no_such_module: run `pip"):
        require_extra("some", "it")


def test_the_extras_are_those_of_the_project() -> None:
    """`all` is the others together; `dev` and `docs` are for work on the project itself."""
    listed = PROJECT["optional-dependencies"]
    assert set(EXTRAS) == set(listed) - {"all", "dev", "docs"}
    (everything,) = listed["all"]
    assert everything == f"megasim[{','.join(EXTRAS)}]"


def test_all_that_is_imported_is_declared() -> None:
    """No import leans on what another library happens to bring."""
    imported: set[str] = set()
    for path in Path(megasim.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                imported |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                imported.add(node.module.split(".")[0])
    assert {"numpy", "duckdb"} <= imported
    # Triton is part of torch's builds for CUDA, and is looked for before it is imported
    foreign = imported - set(sys.stdlib_module_names) - {"megasim", "triton"}
    brought = packages_distributions()
    extras = [line for name in EXTRAS for line in PROJECT["optional-dependencies"][name]]
    declared = {distribution(line) for line in [*PROJECT["dependencies"], *extras]}
    assert {distribution(brought[module][0]) for module in foreign} <= declared


def distribution(requirement: str) -> str:
    """Return the name that a requirement begins with."""
    name = requirement.split(">")[0].split("=")[0].split("[")[0]
    return name.strip().lower().replace("_", "-")
