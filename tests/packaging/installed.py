"""megasim as a user gets it: built, installed, and with no checkout that could stand in for it."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tarfile
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
_NOT_BUILT_FROM = ("build", "demo", "dist", "site", "*.egg-info", "__pycache__", "*.duckdb")


@dataclass(frozen=True)
class Built:
    """A source distribution, and the wheel that was built from it."""

    sdist: Path
    wheel: Path


def build(folder: Path) -> Built:
    """Build both distributions of a copy of the checkout, in which nothing is left behind.

    Without a network: setuptools is that of the environment.
    """
    copy = folder / "checkout"
    hidden = {path.name for path in ROOT.glob(".?*")}  # here, not below: .metadata is a golden file
    shutil.copytree(ROOT, copy, ignore=shutil.ignore_patterns(*hidden, *_NOT_BUILT_FROM))
    shutil.copy(ROOT / ".pre-commit-config.yaml", copy)
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", folder / "dist", copy)
    shutil.rmtree(copy)
    (sdist,), (wheel,) = (list((folder / "dist").glob(name)) for name in ("*.tar.gz", "*.whl"))
    return Built(sdist, wheel)


def make_environment(folder: Path, python: Path | str = sys.executable) -> Path:
    """Make an empty environment with pip and return the path of its Python."""
    run(python, "-m", "venv", folder)
    return folder / "bin" / "python"


def install_beside(folder: Path, wheel: Path) -> Path:
    """Install the wheel in an environment that shares the libraries of this one; its Python.

    The checkout is no part of it: Python reads the .pth files of an environment's own folder, not
    those of a folder that one of them names, so an editable installation does not come along.
    """
    run(sys.executable, "-m", "venv", "--without-pip", folder)
    python = folder / "bin" / "python"
    (packages,) = (folder / "lib").glob("python*/site-packages")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", python]
    run(*pip, "install", "--quiet", "--no-deps", "--no-index", wheel)
    shared = [path for path in sys.path if Path(path).name == "site-packages"]
    (packages / "shared.pth").write_text("\n".join(shared) + "\n", encoding="utf-8")
    # What was compiled of the same sources need not be compiled again.
    kept = ROOT / "megasim" / "kernels" / "__pycache__"
    inside = packages / "megasim" / "kernels" / "__pycache__"
    inside.mkdir(exist_ok=True)
    for code in kept.glob("*.o"):
        shutil.copy(code, inside)
    return python


def unpack_tests(built: Built, folder: Path) -> Path:
    """Unpack the source distribution without the package, with ../shared beside; its folder."""
    with tarfile.open(built.sdist) as archive:
        archive.extractall(folder, filter="data")
    (tests,) = folder.glob("megasim-*")
    for name in ("megasim", "sql", "data"):
        shutil.rmtree(tests / name)
    shared = ROOT.parent / "shared"
    if shared.exists():
        (folder / "shared").symlink_to(shared.resolve())
    return tests


def run_tests(python: Path, tests: Path, *arguments: str) -> int:
    """Run pytest on unpacked tests; return its exit status. The folder is not on the path."""
    code = "import sys, pytest; sys.path.remove(''); sys.exit(pytest.main(sys.argv[1:]))"
    return subprocess.run([python, "-c", code, *arguments], cwd=tests).returncode


def run(*command: Path | str, cwd: Path | None = None) -> str:
    """Run a command and return what it wrote; where it fails, raise with all that it said."""
    ran = subprocess.run(command, cwd=cwd, capture_output=True, text=True)
    if ran.returncode:
        said = f"{ran.stdout}\n{ran.stderr}"
        raise RuntimeError(f"{' '.join(map(str, command))}: exit {ran.returncode}\n{said}")
    return ran.stdout
