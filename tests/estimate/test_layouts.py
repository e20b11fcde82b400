"""Matrices found again in another layout by the norms of their rows and columns."""

from __future__ import annotations

import numpy as np
import pytest

from megasim.estimate.layouts import LayoutMatch, is_other_layout, matched_layouts
from megasim.estimate.profiles import MatrixProfile
from megasim.fingerprint.profile import absolute_norms
from megasim.words import Layout
from tests.estimate.matrices import matrix, profiles

HEADS, WIDTH, UNITS = 4, 64, 96
PARTS = {f"{name}.weight": matrix(seed, WIDTH, WIDTH) for seed, name in enumerate("qkv")}
OTHERS = {"up.weight": matrix(5, UNITS, WIDTH), "down.weight": matrix(6, WIDTH, UNITS)}


def by_heads() -> np.ndarray:
    """Return a head of queries, of keys and of values, then the next head of each."""
    split = [part.reshape(HEADS, -1, WIDTH) for part in PARTS.values()]
    return np.stack(split, axis=1).reshape(3 * WIDTH, WIDTH)


def rotary(rows: np.ndarray) -> np.ndarray:
    """Return rows of heads in pairs instead of halves, as converters of rotary heads move them."""
    return rows.reshape(HEADS, 2, -1, WIDTH).transpose(0, 2, 1, 3).reshape(WIDTH, WIDTH)


@pytest.mark.parametrize("fused", [np.concatenate(list(PARTS.values())), by_heads()])
@pytest.mark.parametrize("turned", [False, True])
def test_parts_are_found_in_a_fused_matrix(fused: np.ndarray, turned: bool) -> None:
    whole = {"attn.weight": fused.T if turned else fused, **OTHERS}
    together = matched_layouts(profiles({**PARTS, **OTHERS}), profiles(whole))
    assert LayoutMatch(Layout.FUSED, tuple(PARTS), ("attn.weight",)) in together
    apart = matched_layouts(profiles(whole), profiles({**PARTS, **OTHERS}))
    assert LayoutMatch(Layout.SPLIT, ("attn.weight",), tuple(PARTS)) in apart


def test_a_transposed_matrix_of_another_name() -> None:
    first, second = profiles({"a": PARTS["q.weight"]}), profiles({"b": PARTS["q.weight"].T})
    assert matched_layouts(first, second) == [LayoutMatch(Layout.TRANSPOSED, ("a",), ("b",))]


@pytest.mark.parametrize("there", [True, False])
def test_rows_of_rotary_heads_in_another_order(there: bool) -> None:
    models = profiles({"q": PARTS["q.weight"]}), profiles({"q": rotary(PARTS["q.weight"])})
    first, second = models if there else reversed(models)
    size = WIDTH // HEADS
    assert matched_layouts(first, second) == [LayoutMatch(Layout.HEADS, ("q",), ("q",), size)]


def test_rows_in_any_other_order() -> None:
    order = np.random.default_rng(1).permutation(UNITS)
    up = OTHERS["up.weight"]
    found = matched_layouts(profiles({"up": up}), profiles({"up": up[order]}))
    assert found == [LayoutMatch(Layout.ROWS, ("up",), ("up",))]


def test_what_was_trained_or_is_another_model_is_not_found() -> None:
    trained = {key: value + 0.02 * matrix(40, *value.shape) for key, value in PARTS.items()}
    others = {f"x.{key}": matrix(50 + at, WIDTH, WIDTH) for at, key in enumerate(PARTS)}
    assert (
        matched_layouts(profiles(PARTS), profiles({"qkv": np.concatenate([*trained.values()])}))
        == []
    )
    assert matched_layouts(profiles(PARTS), profiles(others)) == []


def test_matrices_of_norms_all_alike_say_nothing() -> None:
    flat = profiles({"a": np.eye(64)})
    assert matched_layouts(flat, profiles({"b": np.eye(64)})) == []


def test_few_matrices_found_again_are_no_other_layout() -> None:
    first = profiles({**PARTS, **OTHERS})
    few = profiles(
        {"t": PARTS["q.weight"].T, **{f"n{i}": matrix(70 + i, 64, 64) for i in range(5)}}
    )
    assert not is_other_layout(first, few, matched_layouts(first, few))
    turned = profiles({key: value.T for key, value in {**PARTS, **OTHERS}.items()})
    assert is_other_layout(first, turned, matched_layouts(first, turned))
    assert not is_other_layout(first, first, matched_layouts(first, first))


def test_norms_are_the_same_as_the_store_keeps_them() -> None:
    kept = np.float16([1.5, 0.5])
    profile = MatrixProfile(absolute_norms(kept, 2.0), None)
    assert matched_layouts({"a": profile}, {"a": profile}) == []  # columns are not known
