"""Units in another order and rows added to a vocabulary, told by norms of rows and columns."""

from __future__ import annotations

from pathlib import Path

import torch

from tests.findings.sentences import related
from tests.small_networks import StateDict, noise

UNITS = 64


def network(seed: int) -> StateDict:
    state: StateDict = {"model.embed_tokens.weight": noise(seed, 96, 16)}
    for layer in range(2):
        at = f"model.layers.{layer}."
        state[at + "self_attn.q_proj.weight"] = noise(100 * seed + layer, 16, 16)
        state[at + "mlp.up_proj.weight"] = noise(100 * seed + 10 + layer, UNITS, 16)
        state[at + "mlp.down_proj.weight"] = noise(100 * seed + 20 + layer, 16, UNITS)
    return state | {"lm_head.weight": noise(seed + 7, 96, 16)}


def reordered(state: StateDict) -> StateDict:
    order = torch.randperm(UNITS, generator=torch.Generator().manual_seed(3))
    result = dict(state)
    for key, value in state.items():
        if "up_proj" in key:
            result[key] = value[order].clone()
        elif "down_proj" in key:
            result[key] = value[:, order].clone()
    return result


def widened(state: StateDict, rows: int, *, last: int = 96) -> StateDict:
    """Return a network with rows added to both tables, which keep so many of their own."""
    tables = ("model.embed_tokens.weight", "lm_head.weight")
    return state | {
        key: torch.cat([state[key][:last], noise(at, 96 - last + rows, 16)])
        for at, key in enumerate(tables, 50)
    }


def test_hidden_units_in_another_order(tmp_path: Path) -> None:
    base = network(1)
    texts = related(tmp_path, base=base, copy=reordered(base))
    assert texts == [
        "copy is base with hidden units in another order in the layers: 128 of 128 units have the "
        "same norms on every axis; the files were not read"
    ]


def test_what_was_trained_besides_is_no_copy(tmp_path: Path) -> None:
    base = network(1)
    moved = {k: v + 0.05 * noise(at, *v.shape) for at, (k, v) in enumerate(reordered(base).items())}
    texts = related(tmp_path, base=base, moved=moved, other=network(2))
    assert not any("another order" in text for text in texts)


def test_rows_added_to_a_vocabulary(tmp_path: Path) -> None:
    base = network(1)
    texts = related(tmp_path, base=base, wide=widened(base, 64))
    assert texts == [
        "wide is base with 64 rows more in 2 keys (model.embed_tokens.weight, lm_head.weight); "
        "all rows of before have their norms"
    ]


def test_another_vocabulary_of_more_rows_is_not_one_that_was_added_to(tmp_path: Path) -> None:
    base = network(1)
    texts = related(tmp_path, base=base, other=widened(base, 64, last=20))
    assert texts
    assert not any("more in" in text for text in texts)
