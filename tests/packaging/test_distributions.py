"""What is built holds what is needed, and works with no checkout beside it."""

from __future__ import annotations

import tarfile
import zipfile
from pathlib import Path

import pytest

from megasim.resources import __version__
from tests.packaging.installed import (
    ROOT,
    Built,
    build,
    install_beside,
    run,
    run_tests,
    unpack_tests,
)

pytestmark = pytest.mark.skipif(
    not (ROOT / "megasim").is_dir(), reason="there is no checkout to build from"
)

# Quick ones that read SQL and tables of the package; `make wheel` runs all.
SMOKE = ("tests/findings/test_identity.py", "tests/matrix", "tests/store/test_views.py")


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    return build(tmp_path_factory.mktemp("built"))


@pytest.fixture(scope="module")
def python(built: Built, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of an environment with the wheel, and this environment's libraries."""
    return install_beside(tmp_path_factory.mktemp("installed") / "venv", built.wheel)


def resources() -> set[str]:
    """Return the files beside the code (SQL, tables, templates …) as the wheel names them."""
    found = {f"megasim/{folder}/": ROOT / folder for folder in ("sql", "data")}
    beside = [
        path
        for path in (ROOT / "megasim").rglob("*")
        if path.suffix in (".j2", ".js", ".css", ".svg")
    ]
    return {path.relative_to(ROOT).as_posix() for path in beside} | {
        prefix + path.relative_to(folder).as_posix()
        for prefix, folder in found.items()
        for path in folder.rglob("*")
        if path.is_file() and path.suffix not in (".py", ".pyc")
    }


def test_the_wheel_holds_the_package_and_nothing_else(built: Built) -> None:
    code = {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "megasim").rglob("*.py")
        if "__pycache__" not in path.parts
    }
    with zipfile.ZipFile(built.wheel) as archive:
        names = set(archive.namelist())
    inside = {name for name in names if not name.split("/")[0].endswith(".dist-info")}
    markers = {"megasim/py.typed"}
    assert inside == code | resources() | markers
    assert any(name.endswith("/licenses/LICENSE") for name in names)


def test_the_source_distribution_can_be_tested_and_documented(built: Built) -> None:
    with tarfile.open(built.sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    needed = ["Makefile", "CHANGELOG.md", "mkdocs.yml", "requirements.lock", "docs/concepts.md"]
    needed += ["tests/conftest.py", "tests/golden/findings.txt", "benchmarks/__main__.py"]
    assert set(needed) <= names
    assert not [name for name in names if "__pycache__" in name or name.startswith(".venv")]


def test_the_metadata_is_what_the_readme_says(built: Built, python: Path) -> None:
    code = (
        "from importlib.metadata import metadata as m; d = m('megasim');"
        "print(d['Version'], d['Requires-Python'], *sorted(d.get_all('Provides-Extra')))"
    )
    version, requires, *extras = run(python, "-c", code).split()
    assert (version, requires) == (__version__, ">=3.11")
    assert {"torch", "demo", "all"} <= set(extras)


def test_the_installed_command_goes_the_whole_way(python: Path, tmp_path: Path) -> None:
    make = (
        "import numpy as np; from safetensors.numpy import save_file;"
        "w = np.arange(3000, dtype=np.float16); save_file({'w': w}, 'a.safetensors');"
        "save_file({'w': w[::-1].copy()}, 'b.safetensors')"
    )
    run(python, "-c", make, cwd=tmp_path)
    megasim = python.with_name("megasim")
    run(megasim, "ingest", ".", cwd=tmp_path)
    run(megasim, "compare", cwd=tmp_path)
    assert "a → b" in run(megasim, "findings", cwd=tmp_path)
    run(megasim, "report", "-o", "report", cwd=tmp_path)
    assert "L2" in (tmp_path / "report" / "index.html").read_text(encoding="utf-8")
    assert "closest_models" in run(megasim, "sql", "--examples", cwd=tmp_path)
    where = run(python, "-c", "import megasim; print(megasim.__file__)", cwd=tmp_path)
    assert Path(where.strip()).is_relative_to(python.parents[1])


def test_the_tests_of_the_source_distribution_pass_on_the_wheel(
    built: Built, python: Path, tmp_path: Path
) -> None:
    tests = unpack_tests(built, tmp_path)
    assert run_tests(python, tests, "-p", "no:cacheprovider", "-n", "0", *SMOKE) == 0
