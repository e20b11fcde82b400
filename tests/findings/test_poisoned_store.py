"""One odd file in a store changes nothing of what is said of the pairs without it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from megasim.findings.overview import findings_report
from megasim.store.rows import Store
from tests.small_sd import UNET, cast, compared_store, small_sd, trained, without

StateDict = dict[str, torch.Tensor]


def family() -> dict[str, StateDict]:
    base = small_sd(1)
    tuned = trained(base, 2, UNET)
    return {
        "base": base,
        "half": cast(base, torch.float16),
        "tuned": tuned,
        "later": trained(tuned, 3, UNET),
        "no-text": without(base, "cond_stage_model."),
    }


def poison(kind: str) -> StateDict:
    state = {key: value.clone() for key, value in small_sd(1).items()}
    for key, value in state.items():
        if not value.is_floating_point():
            continue
        if kind == "zeros":
            state[key] = torch.zeros_like(value)
        elif kind == "huge":
            state[key] = value * 1e30
        elif kind == "nan":
            state[key] = torch.full_like(value, torch.nan)
        elif kind == "codes":
            state[key] = (value * 100).clamp(-400, 400).to(torch.float8_e4m3fn)
        elif kind == "one element":
            value.view(-1)[0] = 1e20
    return state


def said(store: Store) -> str:
    pairs = [(a, b) for a in family() for b in family() if a < b]
    report = findings_report(store, pairs).to_json()
    # which others hold the same components is what the odd file may add to
    return json.dumps({k: report[k] for k in ("pairs", "findings", "relations")}, sort_keys=True)


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> str:
    with Store(compared_store(tmp_path_factory.mktemp("plain"), family())) as store:
        return said(store)


@pytest.mark.parametrize("kind", ["zeros", "huge", "nan", "codes", "one element"])
def test_the_other_pairs_are_told_byte_for_byte_as_without_it(
    tmp_path: Path, plain: str, kind: str
) -> None:
    with Store(compared_store(tmp_path, family() | {"poisoned": poison(kind)})) as store:
        assert "poisoned" in store.model_ids()
        assert said(store) == plain
