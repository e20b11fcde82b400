"""Tasks of real work, each answered by one command that the help of megasim names."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest

from megasim import cli
from megasim.workspace import open_store
from tests.answers.test_notebook import small_demo
from tests.exchange.merged_models import store_of
from tests.models import write_model
from tests.small_sd import UNET, trained


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return store_of(tmp_path_factory.mktemp("tasks"), small_demo())


@pytest.fixture
def ask(path: Path, capsys: pytest.CaptureFixture[str]):
    """Run a command whose name and options its help names; return its output and notes."""

    def asked(*arguments: str, store: Path = path, code: int = 0) -> tuple[str, str]:
        assert cli.run([arguments[0], "--help"]) == 0
        text = capsys.readouterr().out
        for option in (a for a in arguments if re.fullmatch(r"--?[a-z][a-z-]*", a)):
            assert re.search(rf"(^|\s|,){option}[\s,]", text), option
        assert cli.run(["--help"]) == 0
        assert re.search(rf"^  {arguments[0]} ", capsys.readouterr().out, re.MULTILINE)
        assert cli.run(["--db", str(store), *arguments]) == code
        return capsys.readouterr()

    return asked


def test_is_it_the_same_vae_and_which(ask, path: Path) -> None:
    with open_store(path) as store:
        store.add_known("kl-f8", "base-fp16", "vae")
    out, _ = ask("findings", "--groups")
    (line,) = (x for x in out.splitlines() if x.startswith("VAE: "))
    assert re.match(
        r"VAE: the same in 8 models: .*; known as kl-f8; fingerprint [0-9a-f]{12}$", line
    )


def test_the_change_by_block(ask) -> None:
    out, _ = ask("findings", "base-fp16", "chain-1", "--by", "block", "-c", "unet")
    assert re.search(r"^IN01 +3 of 3 .* █+", out, re.MULTILINE)


def test_a_recipe_for_a_merge_tool(ask, tmp_path: Path) -> None:
    """That the tools run on it is held by test_merge_tools."""
    for file in ("r.yaml", "r.mecha"):
        ask("recipe", "mix-30", "-o", str(tmp_path / file))
        text = (tmp_path / file).read_text(encoding="utf-8")
        assert "mix-00.safetensors" in text
        assert "mix-100.safetensors" in text


def test_a_slide_of_five_models(ask, tmp_path: Path) -> None:
    file = tmp_path / "slide.svg"
    some = "base-fp16,mix-00,mix-30,mix-70,mix-100"
    ask("heatmap", "--models", some, "--size", "16x9", "-o", str(file))
    (head,) = re.findall(r"<svg[^>]*>", file.read_text(encoding="utf-8"))[:1]
    size = dict(re.findall(r'\b(width|height)="([\d.]+)', head))
    assert float(size["width"]) / float(size["height"]) == pytest.approx(16 / 9, rel=0.01)


def test_ten_layers_as_csv(ask) -> None:
    out, _ = ask("layers", "base-fp16", "chain-1", "--top", "10", "-c", "unet", "--csv")
    lines = out.splitlines()
    assert lines[0].startswith("canonical_key,component,block,role")
    assert 2 <= len(lines) <= 11


def test_files_added_and_deleted(ask, tmp_path: Path) -> None:
    some = {name: state for name, state in small_demo().items() if name.startswith("mix")}
    store = store_of(tmp_path, some)
    write_model(tmp_path / "new.safetensors", trained(some["mix-00"], 9, UNET))
    (tmp_path / "mix-70.safetensors").unlink()
    out, err = ask("ingest", str(tmp_path), store=store)
    assert "added new" in out
    assert "the files of mix-70 are gone" in err
    out, _ = ask("findings", store=store)
    assert "4 of 10 pairs were not compared" in out
    assert "forgot mix-70" in ask("forget", "--missing", store=store)[0]


def test_a_disk_that_is_unplugged(ask, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    some = {name: state for name, state in small_demo().items() if name.startswith("mix")}
    store = store_of(disk, some).rename(tmp_path / "s.duckdb")
    shutil.move(disk, tmp_path / "elsewhere")
    assert ask("models", store=store)[0].count(" gone ") == 4
    assert "the same in 4 models" in ask("findings", "--groups", store=store)[0]
    out, _ = ask("matrix", "-c", "unet", "--estimate", store=store)
    assert "mix-00" in out
    assert "0.7 × mix-00 + 0.3 × mix-100" in ask("recipe", "mix-30", store=store)[0]


def test_a_gate_in_ci(ask) -> None:
    found = json.loads(ask("findings", "base-fp16", "new-decoder", "--json")[0])
    changed = {f["component"] for f in found if f["verdict"] not in ("identical", "absent")}
    assert changed == {"vae_decoder"}


def test_a_page_for_a_colleague(ask, tmp_path: Path) -> None:
    file = tmp_path / "findings.html"
    ask("findings", "-o", str(file))
    text = file.read_text(encoding="utf-8")
    assert all(name in text for name in small_demo())


def test_how_sure(ask) -> None:
    out, _ = ask("why", "mix-00", "mix-30")
    assert len(out.splitlines()) == 5
    assert re.search(r"^How sure: exact distances over \d+ keys; the merge explains", out, re.M)


def test_a_larger_vocabulary(ask, tmp_path: Path) -> None:
    import torch

    from tests.models import nudged, random_model

    body = random_model(1, keys=4)
    words = random_model(2, keys=1, shape=(40, 24))["block.0.weight"]
    more = torch.cat([words, random_model(3, keys=1, shape=(8, 24))["block.0.weight"]])
    old = {**body, "embed_tokens.weight": words}
    new = {**nudged(body, 5), "embed_tokens.weight": more}
    store = store_of(tmp_path, {"old": old, "new": new})
    out, _ = ask("findings", "old", "new", store=store)
    assert "old → new" in out
    assert "embed_tokens" in out
