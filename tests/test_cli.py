"""The command line: exit codes, streams, and what it must not import."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from megasim import cli
from tests.models import nudged, random_model, write_model

HEAVY = ("torch", "numba", "duckdb", "pandas", "sklearn", "matplotlib", "scipy")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MEGASIM_DB", raising=False)
    for i in range(3):
        write_model(tmp_path / "models" / f"m{i}.safetensors", nudged(random_model(0), i))
    return tmp_path


def megasim(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    code = cli.run(list(arguments))
    out, err = capsys.readouterr()
    return code, out, err


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys, megasim.cli as c; c.run(['--help']);"
        f"print([m for m in {HEAVY!r} if m in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "[]"
    assert all(command in done.stdout for command in cli.COMMANDS)


@pytest.mark.parametrize("command", cli.COMMANDS)
def test_every_command_has_help(capsys: pytest.CaptureFixture[str], command: str) -> None:
    code, out, _ = megasim(capsys, command, "--help")
    assert code == 0
    assert "Usage: megasim" in out


def test_from_files_to_a_matrix(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert megasim(capsys, "ingest", "models")[0] == 0
    code, out, _ = megasim(capsys, "compare", "--json")
    assert (code, json.loads(out)["pairs_done"]) == (0, 3)
    code, out, err = megasim(capsys, "matrix", "-c", "block", "-o", "m.csv")
    assert (code, out) == (0, "")
    assert "wrote m.csv" in err
    assert Path("m.csv").read_text().splitlines()[0] == "model,m0,m1,m2"
    code, out, _ = megasim(
        capsys, "sql", "--json", "select count(*) as n from layer_distances where status='changed'"
    )
    assert json.loads(out) == [{"n": 12}]


def test_exit_codes(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert megasim(capsys, "models")[0] == 1
    assert megasim(capsys, "nonsense")[0] == 2
    (folder / "models" / "bad.safetensors").write_text("no weights")
    code, out, err = megasim(capsys, "ingest", "models")
    assert code == 4
    assert out.count("added") == 3
    assert "bad.safetensors" in err
    assert "Traceback" not in err
    assert megasim(capsys, "matrix", "-c", "unknown")[0] == 1
    assert megasim(capsys, "matrix", "-o", "m.xlsx")[0] == 2
    assert megasim(capsys, "sql", "selekt")[0] == 2
    assert megasim(capsys, "forget", "nobody")[0] == 2


def test_a_locked_store_exits_with_3(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    megasim(capsys, "ingest", "models")
    hold = "import duckdb; c = duckdb.connect('megasim.duckdb'); print('held', flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-c", hold], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout is not None
        holder.stdout.readline()
        code, _, err = megasim(capsys, "models")
        assert (code, f"process {holder.pid}" in err) == (3, True)
        holder.communicate("\n")


def test_hostile_names_are_escaped(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    name = "evil\x1b[31m\u202e.w"
    write_model(folder / "e.safetensors", {name: random_model(0)["block.0.weight"]})
    megasim(capsys, "ingest", "e.safetensors")
    for arguments in (["sql", "select key from layers"], ["models"]):
        code, out, err = megasim(capsys, *arguments)
        assert code == 0
        assert "\x1b" not in out + err
        assert "\u202e" not in out + err


def test_estimates_are_marked(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    megasim(capsys, "ingest", "models")
    code, _, err = megasim(capsys, "matrix", "-c", "block", "--estimate", "-o", "m.csv")
    assert code == 0
    assert "one row a pair" in err
    lines = Path("m.csv").read_text().splitlines()
    assert lines[0].startswith("model_a,model_b,component,l2,source,error")
    assert all(",estimated," in line for line in lines[1:])


def test_nearest_to_a_file_that_is_not_kept(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    megasim(capsys, "ingest", "models")
    write_model(folder / "new.safetensors", nudged(random_model(0), 1, by=0.0101))
    code, out, _ = megasim(capsys, "nearest", "new.safetensors", "-k", "1", "--json")
    (row,) = json.loads(out)
    assert (code, row["model"], row["source"]) == (0, "m1", "estimated")
    assert "new" not in megasim(capsys, "models")[1]


def test_every_example_runs(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from megasim.workspace import sql_examples

    megasim(capsys, "ingest", "models")
    megasim(capsys, "compare")
    examples = sql_examples()
    assert len(examples) >= 10
    for name in examples:
        code, _, err = megasim(capsys, "sql", "--example", name)
        assert code == 0, err
