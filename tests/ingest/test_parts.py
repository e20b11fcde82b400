"""Parts of a file come to the store as models of their own, with all that is known of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from megasim.workspace import Workspace


def state(seed: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {f"block.{i}.weight": torch.randn(16, 24, generator=generator) for i in range(4)}


@pytest.fixture
def workspace(tmp_path: Path) -> Any:
    with Workspace(tmp_path / "s.duckdb", "write") as opened:
        yield opened


def rows(workspace: Workspace, sql: str) -> list[tuple[Any, ...]]:
    return [tuple(row) for row in workspace.sql(sql).itertuples(index=False)]


def test_an_ema_is_found_identical_to_the_file_that_is_it(
    workspace: Workspace, tmp_path: Path
) -> None:
    raw, ema = state(0), state(1)
    torch.save({"model": raw, "ema": ema}, tmp_path / "train.pt")
    torch.save(ema, tmp_path / "released.pt")
    workspace.ingest(tmp_path)
    workspace.compare()
    found = rows(
        workspace,
        "select name, part, part_role, coalesce(file_model, '') from models order by name",
    )
    assert found == [
        ("released", "", "weights", ""),
        ("train", "", "weights", ""),
        ("train#ema", "ema", "ema", "train"),
    ]
    verdicts = {
        frozenset((a, b)): identical
        for a, b, identical in rows(
            workspace,
            "select model_a, model_b, sum(identical) from component_distances group by all",
        )
    }
    assert verdicts[frozenset(("released", "train#ema"))] == 4
    assert verdicts[frozenset(("released", "train"))] == 0


def test_what_is_unread_tied_or_beside_is_in_the_store(
    workspace: Workspace, tmp_path: Path
) -> None:
    weight = torch.randn(4, 4)
    optimizer = {"state": {0: {"exp_avg": weight, "step": torch.tensor(3.0)}}, "param_groups": []}
    for name, code in (("a", 1), ("b", 1), ("c", 2)):
        codes = torch.full((8,), code, dtype=torch.uint8).view(torch.float4_e2m1fn_x2)
        model = {"w": weight, "tied": weight, "codes": codes, "gone": torch.empty(2, device="meta")}
        torch.save({"model": model, "optimizer": optimizer}, tmp_path / f"{name}.pt")
    workspace.ingest(tmp_path)
    unread = rows(
        workspace,
        "select m.name, u.key, u.reason, u.dtype, u.numel, u.digest from unread_key u "
        "join model m on m.id = u.model_id order by all",
    )
    digests = {name: digest for name, key, *_, digest in unread if key == "codes"}
    assert digests["a"] == digests["b"] != digests["c"]
    assert [row[1:5] for row in unread[:2]] == [
        ("codes", "dtype", "float4_e2m1fn_x2", 8),
        ("gone", "placeholder", "float32", 2),
    ]
    assert rows(workspace, "select distinct key, tied_to from tied_key") == [("tied", "w")]
    beside = rows(
        workspace, "select distinct place, role, tensors, numel, bytes, digest from beside"
    )
    assert [row[:-1] for row in beside] == [("optimizer", "optimizer", 2, 17, 68)]
    assert beside[0][-1]


def test_parts_follow_the_model_of_their_file(workspace: Workspace, tmp_path: Path) -> None:
    path = tmp_path / "train.pt"
    torch.save({"model": state(0), "ema": state(1), "teacher": state(2)}, path)
    names = "select name from models order by name"
    workspace.ingest(path)
    workspace.compare()
    assert rows(workspace, names) == [("train",), ("train#ema",), ("train#teacher",)]
    ids = dict(rows(workspace, "select name, id from model"))
    # renamed, and copied under another name
    workspace.ingest(names={"run": path})
    assert rows(workspace, names) == [("run",), ("run#ema",), ("run#teacher",)]
    # another file in its place: a part of the same place keeps its id, and what is gone is gone
    torch.save({"model": state(3), "ema": state(1)}, path)
    workspace.ingest(path)
    assert rows(workspace, names) == [("run",), ("run#ema",)]
    assert dict(rows(workspace, "select name, id from model"))["run#ema"] == ids["train#ema"]
    moved = path.rename(tmp_path / "moved.pt")
    workspace.ingest(moved)
    assert rows(workspace, "select distinct path from models") == [(str(moved),)]
    workspace.forget("run")
    assert rows(workspace, names) == []
    for table in ("model_tensor", "model_pair", "unread_key"):
        assert rows(workspace, f"select count(*) from {table}") == [(0,)]


def test_parts_of_equal_roles_get_names_of_their_own(workspace: Workspace, tmp_path: Path) -> None:
    content = {"model": state(0), "ema_a": state(1), "ema_b": state(2), "x": {"ema_a": state(3)}}
    torch.save(content, tmp_path / "m.pt")
    workspace.ingest(tmp_path)
    assert len(rows(workspace, "select name from models")) == 4
    assert {name for (name,) in rows(workspace, "select name from models")} >= {"m", "m#ema"}


def test_factors_of_low_rank_are_a_component_of_their_own(
    workspace: Workspace, tmp_path: Path
) -> None:
    plain = {"model.embed_tokens.weight": torch.randn(8, 4), "model.norm.weight": torch.ones(4)}
    factors = {f"model.embed_tokens.lora_embedding_{x}": torch.randn(4, 2) for x in "AB"}
    torch.save({**plain, **factors}, tmp_path / "tuned.pt")
    peft = {f"base_model.model.model.layers.{i}.q.lora_A.weight": torch.randn(2, 4) for i in (0, 1)}
    torch.save(peft, tmp_path / "adapter.pt")
    workspace.ingest(tmp_path)
    assert set(rows(workspace, "select key from layers where component = 'adapter'")) == {
        (key,) for key in [*factors, *peft]
    }
    roles = dict(rows(workspace, "select name, part_role from models"))
    assert roles == {"adapter": "adapter", "tuned": "weights"}
