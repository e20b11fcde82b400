"""Integers that count or index are compared key by key, and enter no distance."""

from __future__ import annotations

import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from megasim.findings.relations import model_relations
from megasim.findings.verdicts import pair_findings
from megasim.store.rows import Store
from megasim.words import RelationKind
from tests.small_networks import transformer
from tests.small_sd import compared_store

BODY = transformer(2)
NAMES = ("num_batches_tracked", "n_averaged", "steps", "relative_position_index", "table", "ids")


@settings(
    max_examples=5,
    deadline=None,
    derandomize=True,
    phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
)
@given(
    name=st.sampled_from(NAMES),
    place=st.sampled_from(["", "blocks.1.attn.", "head.window."]),
    shape=st.sampled_from([(), (1,), (9,), (7, 11)]),
    dtype=st.sampled_from([torch.uint8, torch.int32, torch.int64, torch.bool]),
    apart=st.integers(1, 100),
)
def test_any_integer_buffer_that_differs(
    tmp_path_factory: pytest.TempPathFactory,
    name: str,
    place: str,
    shape: tuple[int, ...],
    dtype: torch.dtype,
    apart: int,
) -> None:
    before = torch.zeros(shape, dtype=dtype)
    after = torch.full(shape, apart).to(dtype)
    models = {"a": BODY | {place + name: before}, "b": BODY | {place + name: after}}
    folder = tmp_path_factory.mktemp("integers")
    with Store(compared_store(folder, models)) as store:
        findings = pair_findings(store)
        (relation,) = model_relations(store)
    assert sum(finding.l2 or 0 for finding in findings) == 0
    assert sum((f.keys_changed or 0) for f in findings) == 1
    # it is said, and as what it is: one key, or a counter, of models whose weights are the same
    assert relation.kind in (RelationKind.SAME_WHERE_USED, RelationKind.ALL_BUT_FEW)
    counters = relation.text == "a and b hold the same weights; counters of training steps differ"
    assert counters or name in relation.text
