"""What the command line prints: notes, progress in a log, and where to begin."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pytest

from megasim import cli
from megasim.commands import console
from megasim.commands.console import ConsoleProgress
from megasim.workspace import open_store
from tests.small_sd import TEXT, UNET, compared_store, small_sd, trained


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    base = small_sd()
    models = {f"m{i:02}": trained(base, i, UNET) for i in range(15)}
    return compared_store(tmp_path_factory.mktemp("console"), models)


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    code = cli.run(list(arguments))
    return code, *capsys.readouterr()


def test_no_arguments_say_where_to_begin(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, store: Path
) -> None:
    code, out, _ = run(capsys, "--db", str(tmp_path / "my store.duckdb"))
    assert code == 0
    steps = [line.split()[-3:] for line in out.splitlines() if line.startswith("  megasim --db '")]
    assert len(steps) == 3
    assert not list(tmp_path.iterdir())
    code, out, _ = run(capsys, "--db", str(store))
    assert (code, out.startswith("Usage: megasim")) == (0, True)


def test_quiet_prints_results_and_errors_alone(
    capsys: pytest.CaptureFixture[str], store: Path
) -> None:
    loud = run(capsys, "--db", str(store), "matrix")
    quiet = run(capsys, "--quiet", "--db", str(store), "matrix")
    assert quiet[:2] == loud[:2]
    assert (bool(loud[2]), quiet[2]) == (True, "")
    assert "no such model" in run(capsys, "-q", "--db", str(store), "recipe", "nobody")[2]
    assert run(capsys, "--db", str(store), "matrix")[2]  # the next run is not quiet


def test_a_log_gets_a_line_now_and_then(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter([0.0, 1.0, 31.0, 31.0, 32.0, 62.0, 62.0])
    monkeypatch.setattr(console.time, "monotonic", lambda: next(clock))
    progress = ConsoleProgress()
    progress.start("Comparing", 40, "pairs")
    for _ in range(4):
        progress.advance(10)
    progress.finish()
    assert capsys.readouterr().err.splitlines() == [
        "Comparing: 40 pairs",
        "Comparing: 20 pairs of 40 pairs, 50 %",
        "Comparing: 40 pairs of 40 pairs, 100 %",
    ]


def test_groups_are_written_whole(
    capsys: pytest.CaptureFixture[str], store: Path, tmp_path: Path
) -> None:
    arguments = ("--db", str(store), "findings", "--groups")
    assert "more" in run(capsys, *arguments)[1]
    assert run(capsys, *arguments, "-o", str(tmp_path / "groups.txt"))[:2] == (0, "")
    text = (tmp_path / "groups.txt").read_text()
    assert all(f"m{i:02}" in text for i in range(15))
    assert run(capsys, *arguments, "-o", str(tmp_path / "groups.json"))[0] == 0
    groups = json.loads((tmp_path / "groups.json").read_text())
    with open_store(store, "read") as workspace:
        assert groups == [group.to_json() for group in workspace.shared_components()]
    assert run(capsys, *arguments, "-o", str(tmp_path / "groups.html"))[0] == 2
    assert run(capsys, *arguments, "m00", "m01")[0] == 2


def test_lists_are_one_cell_of_csv(capsys: pytest.CaptureFixture[str], store: Path) -> None:
    query = "select name, components, epoch from models order by name limit 2"
    _, out, _ = run(capsys, "--db", str(store), "sql", "--csv", query)
    rows = list(csv.reader(io.StringIO(out)))
    assert rows[0] == ["name", "components", "epoch"]
    assert len(rows) == 3
    assert "unet" in json.loads(rows[1][1])
    assert rows[1][2] == ""


def test_a_name_with_its_path_is_enough(
    capsys: pytest.CaptureFixture[str], store: Path, tmp_path: Path
) -> None:
    db = ("--db", str(tmp_path / "new.duckdb"))
    named = f"mine={store.parent / 'm00.safetensors'}"
    code, out, _ = run(capsys, *db, "ingest", "--name", named)
    assert (code, out) == (0, "added mine\n")
    code, _, err = run(capsys, *db, "ingest")
    assert (code, "no path" in err) == (2, True)


def test_all_components_can_be_asked_for(
    capsys: pytest.CaptureFixture[str], store: Path, tmp_path: Path
) -> None:
    db = ("--db", str(store))
    some = ("--models", "m00,m01,m02,m03")
    figure = str(tmp_path / "f.svg")
    commands = [
        ("heatmap", "--layers", *some, "-o", figure),
        ("heatmap", "--tiers", *some, "-o", figure),
        ("histogram", "m00", "m01", "-o", figure),
        ("map", *some),
        ("trajectory", "m00", "m01", "m02"),
        ("recipe", "m00"),
        ("direction", "m00", "m01", "m02", "m03"),
        ("lineage", *some),
        ("nearest", "m00"),
        ("matrix", *some),
        ("report", *some, "-o", str(tmp_path / "report")),
    ]
    for command in commands:
        code, _, err = run(capsys, *db, *command, "-c", "all")
        assert code == 0, (command, err)
    with open_store(store, "read") as workspace:
        changes = workspace.layer_changes("all", "m00")
    assert {key.startswith(TEXT) for key in changes["canonical_key"]} == {True, False}
