"""What is said of a training file and of what was published out of it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from megasim import open_store


@pytest.fixture(scope="module")
def db(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("parts")
    net = torch.nn.Sequential(
        torch.nn.Conv2d(3, 16, 3), torch.nn.BatchNorm2d(16), torch.nn.Conv2d(16, 32, 3)
    )
    raw = {k: v.clone() for k, v in net.state_dict().items()}
    ema = {
        k: v + 0.01 * torch.randn_like(v) if v.is_floating_point() else v for k, v in raw.items()
    }
    step = torch.optim.AdamW(net.parameters())
    net(torch.randn(2, 3, 9, 9)).sum().backward()
    step.step()
    train = {"model": raw, "ema": ema, "optimizer": step.state_dict(), "epoch": 3}
    torch.save(train, folder / "train.pt")
    torch.save(ema, folder / "released.pt")
    torch.save(raw, folder / "wrong_upload.pt")
    with open_store(folder / "s.duckdb") as store:
        store.ingest(folder)
        store.compare()
    return folder / "s.duckdb"


def relations(db: Path, *pair: str) -> list[str]:
    with open_store(db, "read") as store:
        return [relation.text for relation in store.findings(*pair).relations]


def test_a_published_average_is_found_though_the_file_was_named(db: Path) -> None:
    for pair in (("train", "released"), ("released", "train")):
        assert relations(db, *pair)[0] == "released is the EMA of train"
    assert "wrong_upload is the raw weights of train" in relations(db)
    assert relations(db, "train", "wrong_upload") == ["wrong_upload is the raw weights of train"]


def test_the_optimizer_is_recorded_and_compared_with_nothing(db: Path) -> None:
    with open_store(db, "read") as store:
        models = store.models().set_index("name")
        assert models.loc["train", "beside"].tolist() == ["optimizer"]
        assert sorted(models.index) == ["released", "train", "train#ema", "wrong_upload"]
        keys = store.sql("select distinct key from layers")["key"]
        assert not keys.str.contains("exp_avg").any()


def test_parts_are_counted_apart_from_files(db: Path) -> None:
    with open_store(db, "read") as store:
        report = store.findings()
        text = report.page().headline
        assert text == "4 models of 3 files, 6 pairs"
