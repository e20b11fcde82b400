"""Components with names of their own, known by their contents wherever they turn up."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from megasim import cli
from megasim.errors import NoAnswerError, UsageError
from megasim.findings.component_groups import ComponentGroup
from megasim.workspace import Workspace, open_store
from megasim.workspace.jobs import compact
from tests.models import write_model
from tests.small_sd import UNET, VAE, cast, only, small_sd, trained


def ingest(folder: Path, **models: dict[str, torch.Tensor]) -> Path:
    files = [write_model(folder / f"{name}.safetensors", m) for name, m in models.items()]
    with open_store(folder / "s.duckdb") as store:
        assert not store.ingest(*files).failed
    return folder / "s.duckdb"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    base = small_sd()
    return ingest(
        tmp_path,
        base=base,
        half=cast(base, torch.float16),
        tuned=trained(base, 1, UNET),
        baked=trained(base, 2, UNET, VAE),
    )


def vae_groups(store: Workspace) -> dict[tuple[str, ...], ComponentGroup]:
    return {g.models: g for g in store.shared_components() if g.component == "vae"}


def test_a_named_vae_is_known_in_every_model_that_holds_it(path: Path) -> None:
    with open_store(path) as store:
        (added,) = store.add_known("kl-f8", "base")
        (group,) = vae_groups(store).values()
        assert group.models == ("base", "half", "tuned")
        assert (group.known_as, group.fingerprints) == (("kl-f8",), (added.fingerprint,))
        assert store.known() == [added]
        assert store.add_known("kl-f8", "half") == [added]  # the same, once rounded
        assert len(store.known()) == 1


def test_a_lone_component_is_told_once_it_has_a_name(path: Path) -> None:
    with open_store(path) as store:
        assert ("baked",) not in vae_groups(store)
        store.add_known("my own", "baked")
        assert vae_groups(store)["baked",].known_as == ("my own",)
        store.compare()
        text = store.findings("base", "baked").to_text()
        assert "VAE of baked: known as my own" in text
        assert "VAE: only in baked; known as my own" in store.findings().to_text()
        assert store.remove_known("my own") == 1
        assert ("baked",) not in vae_groups(store)


def test_a_fingerprint_is_the_same_in_every_store_and_file(path: Path, tmp_path: Path) -> None:
    alone = only(cast(small_sd(), torch.float16), VAE)
    other = ingest(tmp_path / "other", alone=alone, unrelated=small_sd(7))
    with open_store(path) as first, open_store(other) as second:
        here, there = first.add_known("x", "base"), second.add_known("x", "alone")
        assert here == there
        assert second.add_known("y", "unrelated") != there


def test_all_components_of_a_model_get_a_name_at_once(path: Path) -> None:
    with open_store(path) as store:
        added = store.add_known("sd", "base", "all")
        assert {known.component for known in added} == {"unet", "text_encoder", "vae"}
        assert store.remove_known("sd") == 3


def test_a_name_means_one_component(path: Path) -> None:
    with open_store(path) as store:
        store.add_known("x", "base")
        with pytest.raises(UsageError, match="name of another VAE"):
            store.add_known("x", "baked")
        store.add_known("x", "baked", "unet")  # of another kind
        with pytest.raises(UsageError, match="no component is known as 'y'"):
            store.remove_known("y")
        with pytest.raises(UsageError, match="1 to 200"):
            store.add_known(" ", "base")
        with pytest.raises(NoAnswerError, match="no depth_model"):
            store.add_known("z", "base", "depth_model")


def test_names_outlive_their_models_and_a_compaction(path: Path) -> None:
    with open_store(path) as store:
        (added,) = store.add_known("x", "base")
        store.forget("base", "tuned")
    compact(path)
    with open_store(path) as store:
        assert store.known() == [added]
        assert vae_groups(store)["half",].known_as == ("x",)


def test_commands_name_and_show_them(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def run(*arguments: str) -> str:
        assert cli.run(["--db", str(path), *arguments]) == 0
        return capsys.readouterr().out

    assert "VAE" in run("known", "add", "kl-f8", "base", "-c", "vae")
    assert "kl-f8: VAE" in run("known", "list")
    assert json.loads(run("known", "list", "--json"))[0]["name"] == "kl-f8"
    fingerprint = json.loads(run("known", "list", "--json"))[0]["fingerprint"]
    line = next(x for x in run("findings", "--groups").splitlines() if x.startswith("VAE: "))
    assert line.endswith(f"; known as kl-f8; fingerprint {fingerprint[:12]}")
    groups = json.loads(run("findings", "--groups", "--json"))
    assert any(g["known_as"] == ["kl-f8"] and fingerprint in g["fingerprints"] for g in groups)
    assert "forgotten" in run("known", "remove", "kl-f8")
    assert run("known", "list") == ""


def test_files_name_all_models_and_a_terminal_says_where_the_rest_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base = small_sd()
    many = {f"model-{i:02}": trained(base, i, UNET) for i in range(20)}
    path = ingest(tmp_path, **many)
    with open_store(path) as store:
        store.compare()
    for ending in ("txt", "md", "html"):
        file = tmp_path / f"findings.{ending}"
        assert cli.run(["--db", str(path), "findings", "-o", str(file)]) == 0
        line = next(x for x in file.read_text().splitlines() if "the same in 20 models" in x)
        assert all(name in line for name in many)
    capsys.readouterr()
    for arguments in (["findings"], ["findings", "--groups"]):
        assert cli.run(["--db", str(path), *arguments]) == 0
        out, err = capsys.readouterr()
        assert "and 9 more" in out
        assert "-o " in err
