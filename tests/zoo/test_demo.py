"""The demo: from files to findings, and nothing is touched the second time."""

from __future__ import annotations

from pathlib import Path

import pytest

from megasim import demo
from megasim.workspace import open_store
from megasim.zoo.building import NETWORKS, TRUTH, build_zoo

SOME = ("base-ema", "base-pruned", "base-fp16", "nai-layout", "vae-only")


def contents(folder: Path) -> dict[str, tuple[int, bytes]]:
    return {
        str(path.relative_to(folder)): (path.stat().st_mtime_ns, path.read_bytes())
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.suffix != ".duckdb"
    }


def test_the_second_run_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = [planned for planned in TRUTH if planned.name in SOME]

    def some_models(folder: Path, **options: object) -> object:
        if folder.exists():
            return plan
        return build_zoo(plan, folder, seed=0, width=1 / 32)

    def some_networks(folder: Path, **options: object) -> object:
        few = [planned for planned in NETWORKS if planned.name in ("cnn-e01", "cnn-e02")]
        return few if folder.exists() else build_zoo(few, folder, seed=0, width=1 / 32)

    monkeypatch.setattr(demo, "build_demo_zoo", some_models)
    monkeypatch.setattr(demo, "build_networks", some_networks)
    first = demo.demo(tmp_path)
    assert all(path.is_file() for path in first.files)
    assert any("same VAE" in sentence for sentence in first.sentences)
    before = contents(tmp_path)
    with monkeypatch.context() as undrawn:
        undrawn.setattr(demo, "_draw", None)  # what is there is not drawn again
        again = demo.demo(tmp_path)
    assert contents(tmp_path) == before
    assert again.sentences[0] == "7 models, 21 pairs, 21 of them known before."
    assert again.sentences[1:] == first.sentences[1:]

    # what is missing, or drawn of another store, is drawn again
    (tmp_path / "unet.png").unlink()
    demo.demo(tmp_path)
    assert contents(tmp_path).keys() == before.keys()
    assert [c for _, c in contents(tmp_path).values()] == [c for _, c in before.values()]
    with monkeypatch.context() as changed:
        changed.setattr(demo, "code_digest", lambda: "other code")
        changed.setattr(demo, "_draw", lambda *_, **__: ["drawn anew"])
        assert demo.demo(tmp_path).sentences[1:] == ("drawn anew",)
    with open_store(tmp_path / "demo.duckdb") as store:
        store.forget("vae-only")
    demo.demo(tmp_path)  # and is ingested again
    assert (tmp_path / "drawn.json").read_bytes() != before["drawn.json"][1]
