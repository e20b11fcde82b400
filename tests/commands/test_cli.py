"""The command line: exit codes, streams, and what it must not import."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

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


def test_an_error_of_sql_is_one_line(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    megasim(capsys, "ingest", "models/m0.safetensors")
    code, _, err = megasim(capsys, "sql", "select * from nope")
    assert code == 2
    assert re.fullmatch(r"error: Catalog Error: .*nope.* · LINE 1: select \* from nope\n", err), err
    assert " ·  · " not in err


def test_help_names_every_command_in_a_whole_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    _, out, _ = megasim(capsys, "--help")
    assert "..." not in out.partition("Commands:")[2]
    assert re.search(r"similar models side by\s+side\.", out)


def test_tables_hold_whatever_sql_gives(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    megasim(capsys, "ingest", "models")
    query = (
        "select list(model order by model) as who, null::int as none, any_value(shape) as shape, "
        "sum(numel)::hugeint as n, true as yes, date '2020-02-03' as day, '模型' as name, 1 as name"
        " from layers union all select [], 3, null, 123456789012, false, null, 'm', 2 order by n"
    )
    code, out, err = megasim(capsys, "sql", query)
    assert (code, err) == (0, "")
    head, first, second = (re.split(r"  +", line.strip()) for line in out.splitlines())
    assert head == ["who", "none", "shape", "n", "yes", "day", "name", "name_1"]
    assert first[2:] == ["16, 24", "4608", "yes", "2020-02-03 00:00:00", "模型", "1"]
    assert (first[0].split(", ")[:3], first[1]) == (["m0", "m0", "m0"], "–")
    assert second == ["3", "–", "123456789012", "no", "–", "m", "2"]
    assert megasim(capsys, "sql", "")[0] == 2
    assert megasim(capsys, "sql", "-- nothing")[0] == 2


def test_only_ingest_and_import_make_a_store(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for arguments in (
        ["compare"],
        ["forget", "x"],
        ["compact"],
        ["nearest", "x"],
        ["matrix", "--estimate"],
    ):
        code, _, err = megasim(capsys, *arguments)
        assert (code, "megasim ingest" in err) == (1, True)
        assert not Path("megasim.duckdb").exists()
    assert megasim(capsys, "ingest", "nowhere", "--name", "a=neither")[0] == 2
    assert not Path("megasim.duckdb").exists()


def test_no_distances_are_an_error_with_its_remedy(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    megasim(capsys, "ingest", "models")
    code, out, err = megasim(capsys, "matrix", "-c", "block")
    assert (code, out, "run `megasim compare`" in err) == (1, "", True)
    megasim(capsys, "compare")
    for command in (["matrix"], ["heatmap", "-o", "x.png"]):
        code, out, err = megasim(capsys, *command, "-c", "block", "-m", "linf")
        assert (code, out, "run `megasim compare --metric linf`" in err) == (1, "", True)
    assert not Path("x.png").exists()


@pytest.mark.parametrize(
    "arguments",
    [
        ["--db", "nowhere/s.duckdb", "ingest", "models"],
        ["matrix", "-c", "block", "-o", "nowhere/m.csv"],
        ["matrix", "-c", "block", "-o", "nowhere/m.json"],
        ["heatmap", "-c", "block", "-o", "nowhere/m.png"],
        ["export", "--fingerprints", "nowhere/f.parquet"],
        ["export", "--format", "mega-cmp", "/proc/nowhere"],
    ],
    ids=" ".join,
)
def test_what_cannot_be_written_is_said_with_a_remedy(
    folder: Path, capsys: pytest.CaptureFixture[str], arguments: list[str]
) -> None:
    megasim(capsys, "ingest", "models")
    megasim(capsys, "compare")
    code, _, err = megasim(capsys, *arguments)
    error, remedy = err.splitlines()[-2:]
    assert code in (1, 2)
    assert error.startswith("error: ")
    assert "nowhere" in error
    assert remedy.startswith("  ")


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


HOSTILE = ["\x1b[31m\x1b]0;t\x07", "\0", "\n\r\t", "\u202e", "\udc80", "<script>alert(1)</script>"]
HOSTILE += [
    "'; drop table model; --",
    '"',
    "$x^2_{$",
    "%s{0}",
    "a|b",
    "*_[l](javascript:1)",
    "../..",
]
HOSTILE += ["k" * 4000, "", ".", " ", "\ufeff", "x + y", "=1+1"]


def test_hostile_names_are_escaped_everywhere(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def hostile(seed: int) -> dict[str, torch.Tensor]:
        values = iter(nudged(random_model(0, 3 * len(HOSTILE), (8, 16)), seed).values())
        keys = [key for name in HOSTILE for key in (name, f"{name}.0.weight", f"{name}.1.weight")]
        return dict(zip(keys, values, strict=True))

    (folder / "h").mkdir()
    evil = "evil\x1b[31m\n\u202e'$x^2_{$<script>|%s"
    for name, seed in (("a", 0), (evil, 1), ("c\x1b", 2)):
        content = {"state_dict": hostile(seed), "epoch": float("inf"), "\0\x1b": "\0\x1b\ud800"}
        torch.save(content, folder / "h" / f"{name}.ckpt")
    for arguments in (
        ["ingest", "h"],
        ["compare"],
        ["models"],
        ["findings"],
        ["findings", "a", evil],
        ["sql", "select * from layers"],
        ["sql", "select * from models", "--json"],
        ["matrix", "-c", "all"],
        ["heatmap", "-c", "$x^2_{$", "-o", "h.png"],
        ["histogram", "a", evil, "-c", "all", "-o", "i.png"],
        ["export", "--format", "mega-cmp", "exported"],
        ["map", "-c", "all", "-o", "map.png"],
        ["lineage", "-c", "all", "-o", "lineage.html"],
        ["report", "-o", "report"],
    ):
        code, out, err = megasim(capsys, *arguments)
        assert code == 0, (arguments, err)
        shown = out + err
        shown += "".join(page.read_text() for page in folder.rglob("*.html"))
        assert not [c for c in shown if not c.isprintable() and c not in "\n\t"], arguments
        assert "<script>alert(1)" not in (shown if arguments[0] in ("report", "lineage") else "")


def test_estimates_are_marked(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    megasim(capsys, "ingest", "models")
    code, _, err = megasim(capsys, "matrix", "-c", "block", "--estimate", "-o", "m.csv")
    assert code == 0
    assert "one row per pair" in err
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
    models = megasim(capsys, "models")[1]
    assert "new" not in models
    assert {"size", "ingested"} <= set(models.split())
    assert re.search(r"\d kB +20\d\d-\d\d-\d\d ", models)


def test_every_example_runs(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from megasim.workspace import Workspace

    megasim(capsys, "ingest", "models")
    megasim(capsys, "compare")
    examples = Workspace.sql_examples()
    assert len(examples) >= 10
    for name in examples:
        code, _, err = megasim(capsys, "sql", "--example", name)
        assert code == 0, err
