"""The whole test suite on megasim as it is installed: `make wheel` and `make matrix`.

    python -m tests.packaging.suite wheel    in this Python, with the libraries of this environment
    python -m tests.packaging.suite matrix   in environments of their own, with what they need from
                                             the package index: every Python from 3.11 to 3.14
                                             that is here with what is locked, and the oldest with
                                             the lowest versions that pyproject.toml admits

What follows goes to pytest. Exits with 1 where tests failed, and says which Pythons are not here.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.packaging.installed import (
    ROOT,
    Built,
    build,
    install_beside,
    make_environment,
    run,
    run_tests,
    unpack_tests,
)

VERSIONS = ("3.11", "3.12", "3.13", "3.14")
# What the tests need beside megasim and its extras.
_TEST_TOOLS = (
    *("build", "hypothesis", "ipykernel", "ipywidgets", "nbclient"),
    *("pytest", "pytest-xdist", "selenium", "setuptools"),
)


def main() -> int:
    """Run what the command line asks for and return the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("what", choices=["wheel", "matrix", "lowest", *VERSIONS])
    chosen, arguments = parser.parse_known_args()
    with tempfile.TemporaryDirectory(prefix="megasim-") as temporary:
        folder = Path(temporary)
        built = build(folder)
        tests = unpack_tests(built, folder)
        if chosen.what == "wheel":
            return run_tests(install_beside(folder / "venv", built.wheel), tests, *arguments)
        wanted = [*VERSIONS, "lowest"] if chosen.what == "matrix" else [chosen.what]
        results = {name: _in_own_environment(name, built, folder, arguments) for name in wanted}
    for name, result in results.items():
        print(f"{name}: {result}", file=sys.stderr)
    return int("failed" in results.values())


def _in_own_environment(name: str, built: Built, folder: Path, arguments: list[str]) -> str:
    """Run the tests on one Python, or on the lowest versions; say how it went."""
    found = find_python(VERSIONS[0] if name == "lowest" else name)
    if found is None:
        return "not on this machine"
    print(f"--- {name}: {found}", file=sys.stderr)
    python = make_environment(folder / name, found)
    pip = [str(python), "-m", "pip", "--disable-pip-version-check", "install", "--quiet"]
    if name == "lowest":
        lowest = folder / "lowest.txt"
        lowest.write_text(_lowest_versions(python), encoding="utf-8")
        run(*pip, "-r", lowest)
        run(*pip, "-c", lowest, *_locked(_TEST_TOOLS))
    else:
        run(*pip, "--require-hashes", "--no-deps", "-r", ROOT / "requirements.lock")
        run(*pip, "-r", ROOT / "requirements-torch.lock")
    run(*pip, "--no-deps", built.wheel)
    run(python, "-m", "pip", "check")
    tests = unpack_tests(built, folder / f"{name}-tests")
    return "failed" if run_tests(python, tests, *arguments) else "passed"


def find_python(version: str) -> str | None:
    """Return the path of a Python, from the path or from pyenv; None where there is none."""
    managed = Path.home() / ".pyenv" / "versions"
    candidates = [f"python{version}", *map(str, sorted(managed.glob(f"{version}.*/bin/python")))]
    for candidate in candidates:
        code = "import sys; print('%d.%d' % sys.version_info[:2], sys.executable)"
        try:
            ran = subprocess.run([candidate, "-c", code], capture_output=True, text=True)
        except OSError:
            continue
        if ran.returncode == 0 and ran.stdout.split()[0] == version:
            return ran.stdout.split(maxsplit=1)[1].strip()
    return None


def _lowest_versions(python: Path) -> str:
    """Return the lowest versions of what pyproject.toml asks for, and what goes with them."""
    run(python, "-m", "pip", "--disable-pip-version-check", "install", "--quiet", "uv")
    uv = python.with_name("uv")
    options = ["--quiet", "--no-config", "--resolution", "lowest-direct", "--extra", "all"]
    return run(uv, "pip", "compile", *options, "--python", python, ROOT / "pyproject.toml")


def _locked(names: tuple[str, ...]) -> list[str]:
    """Return the locked version of each, as a requirement."""
    lines = (ROOT / "requirements.lock").read_text(encoding="utf-8").splitlines()
    pins = dict(line.split()[0].split("==") for line in lines if "==" in line[:60])
    return [f"{name}=={pins[name]}" for name in names]


if __name__ == "__main__":
    sys.exit(main())
