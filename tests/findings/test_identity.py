"""A mix of tiers is the weakest; what is missing, odd or of another shape is not equal."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from megasim.findings import identity
from megasim.findings.identity import Counts, component_verdict, is_rounding_level
from megasim.words import TIERS, Verdict

COUNTS = st.builds(Counts, **{name: st.integers(0, 40) for name in Counts.__dataclass_fields__})


@given(COUNTS)
def test_equal_means_that_every_key_is_in_a_tier(counts: Counts) -> None:
    verdict = component_verdict(counts)
    whole = not counts.differing and not counts.unread
    assert verdict.is_tier == (counts.unchanged > 0 and whole)
    if verdict.is_tier:
        present = [tier for tier in TIERS if getattr(counts, tier)]
        assert verdict == present[-1]


@given(COUNTS)
def test_both_directions_say_the_same(counts: Counts) -> None:
    turned = {Verdict.ABSENT_A: Verdict.ABSENT_B, Verdict.ABSENT_B: Verdict.ABSENT_A}
    verdict = component_verdict(counts)
    assert component_verdict(counts.swapped()) == turned.get(verdict, verdict)


@given(COUNTS)
def test_one_equal_key_is_enough_not_to_be_another_architecture(counts: Counts) -> None:
    if counts.unchanged:
        assert component_verdict(counts) != Verdict.OTHER_ARCHITECTURE


@pytest.mark.parametrize(
    ("counts", "verdict"),
    [
        (Counts(), "absent"),
        (Counts(missing_b=686), "absent_b"),
        (Counts(missing_a=197), "absent_a"),
        (Counts(missing_a=294, missing_b=197), "other_architecture"),
        (Counts(changed=622, shape_mismatch=64), "other_architecture"),  # SD1 and SD2
        (Counts(changed=654, shape_mismatch=32), "other_architecture"),  # with 1x1 as linear
        (Counts(changed=685, shape_mismatch=1), "changed"),  # inpainting
        (Counts(identical=20, shape_mismatch=2), "partly_changed"),
        (Counts(changed=20, shape_mismatch=2), "changed"),  # a new head
        (Counts(changed=100, missing_a=900, missing_b=50), "other_architecture"),
        (Counts(changed=100, missing_a=900), "changed"),  # the one is a part of the other
        (Counts(identical=1, changed=280), "changed"),  # all but position_ids
        (Counts(identical=130, changed=64), "partly_changed"),
        (Counts(identical=196, missing_b=1), "contained"),
        (Counts(identical=196, missing_a=1, missing_b=1), "contained"),
        (Counts(identical=1, missing_a=50, missing_b=50), "partly_changed"),
        (Counts(identical=9, unread=1), "same_as_read"),
        (Counts(identical=9, unread=1, missing_a=3), "same_as_read"),
        (Counts(unread=3), "not_read"),
        (Counts(identical=9, unread=1, changed=1), "partly_changed"),
        (Counts(identical=9, other_bytes=1), "partly_changed"),
        (Counts(other_bytes=1), "changed"),
        (Counts(identical=685, non_finite=1), "partly_changed"),
        (Counts(non_finite=3), "changed"),
        (Counts(identical=1, same_at_fp16=196), "same_at_fp16"),
        (Counts(same_at_fp16=3, same_at_bf16=1), "same_at_bf16"),
    ],
)
def test_verdicts(counts: Counts, verdict: str) -> None:
    assert component_verdict(counts) == verdict


def test_what_is_the_same_where_used_says_so_only_when_something_differs() -> None:
    assert component_verdict(Counts(identical=280, changed=14), True) == "same_where_used"
    assert component_verdict(Counts(identical=294), True) == "identical"


def layers(seed: int) -> dict[str, np.ndarray]:
    random = np.random.default_rng(seed)
    sizes = {"conv_in": (128, 27), "mid": (512, 4608), "down": (256, 1152), "attn": (512, 512)}
    weights = {}
    for name, (rows, columns) in sizes.items():
        noise = random.standard_normal((rows, columns))
        weights[f"{name}.weight"] = noise / columns**0.5
        weights[f"{name}.bias"] = 0.1 * random.standard_normal(rows)
        weights[f"{name}_norm.weight"] = 1 + 0.2 * random.standard_normal(rows)
    return weights


@pytest.mark.parametrize("seed", range(5))
def test_a_rounding_is_of_the_size_of_a_rounding(seed: int) -> None:
    weights = layers(seed)
    apart = {
        key: float(np.linalg.norm(w - w.astype(np.float16).astype(np.float64)))
        for key, w in weights.items()
    }
    assert is_rounding_level(apart)
    for key, w in weights.items():  # the constant of the rule is that of the arithmetic
        assert 0.5 < apart[key] / (identity.FP16_RELATIVE_ERROR * np.linalg.norm(w)) < 1.5
    assert not is_rounding_level({key: 50 * d for key, d in apart.items()})
    assert not is_rounding_level({key: d / 1000 for key, d in apart.items()})
    assert not is_rounding_level(dict.fromkeys(apart, 0.0))
    untouched = dict(list(apart.items())[:4])
    assert not is_rounding_level(apart | dict.fromkeys(untouched, 0.0))
