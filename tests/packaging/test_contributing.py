"""What CONTRIBUTING says of the tree is so."""

from __future__ import annotations

import re
import tomllib

import pytest

from tests.packaging.installed import ROOT

pytestmark = pytest.mark.skipif(
    not (ROOT / "megasim").is_dir(), reason="there is no checkout to look into"
)
TEXT = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
QUESTIONS = re.findall(r"^\| (Where .*\?) \| (.*) \|$", TEXT, re.MULTILINE)


def test_there_are_at_least_ten_questions() -> None:
    assert len(QUESTIONS) >= 10


@pytest.mark.parametrize(("question", "answer"), QUESTIONS, ids=[q for q, _ in QUESTIONS])
def test_each_question_is_answered_by_files_that_are_there(question: str, answer: str) -> None:
    """A name in brackets after a file is one that the file defines."""
    files = re.findall(r"`([\w/.]+)`(?: \(`(\w+)`\))?", answer)
    paths = [(path, name) for path, name in files if "/" in path]
    assert paths
    for path, name in paths:
        assert (ROOT / path).exists(), path
        if name:
            text = (ROOT / path).read_text(encoding="utf-8")
            assert re.search(rf"^\s*(def {name}\(|class {name}\b|{name}\b.*=)", text, re.MULTILINE)


def test_every_path_that_is_named_is_there() -> None:
    named = set(re.findall(r"`((?:megasim|tests|sql|data|docs|benchmarks)/[\w/.-]*)`", TEXT))
    assert len(named) > 15
    assert not [path for path in named if not (ROOT / path).exists()]


def test_the_statement_that_saves_a_distance_is_there() -> None:
    statements = (ROOT / "sql" / "queries.sql").read_text(encoding="utf-8")
    assert "-- name: add_distances\n" in statements


def test_every_make_target_that_is_named_is_there() -> None:
    text = TEXT + (ROOT / "README.md").read_text(encoding="utf-8")
    named = set(re.findall(r"\bmake ([a-z][a-z-]+)(?=[`\s])", "\n".join(_code(text))))
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE))
    assert {"test", "demo", "matrix", "wheel", "docs", "lock"} <= named <= targets


def _code(text: str) -> list[str]:
    """Return what stands in backticks, and indented lines."""
    return re.findall(r"`[^`]+`|^ {4}.*$", text, re.MULTILINE)


def test_the_lock_has_every_library_and_torch_has_its_own() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    wanted = [*project["dependencies"]]
    for extra in project["optional-dependencies"].values():
        wanted += extra
    names = {re.split(r"[\[<>=]", line)[0].lower() for line in wanted} - {"megasim", "torch"}
    lock = (ROOT / "requirements.lock").read_text(encoding="utf-8")
    locked = set(re.findall(r"^([a-z0-9-]+)==", lock, re.MULTILINE))
    assert names <= locked
    assert "torch" not in locked
    entries = re.split(r"(?m)^(?=[a-z0-9-]+==)", lock)[1:]
    assert all("--hash=sha256:" in entry for entry in entries)
    torch = (ROOT / "requirements-torch.lock").read_text(encoding="utf-8")
    assert re.search(r"^torch==\d+\.\d+\.\d+$", torch, re.MULTILINE)
