"""Trajectories: the published chain, and what gaps and metrics do to the figures."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from megasim.errors import NoAnswerError, UsageError
from megasim.geometry.layer_geometry import layer_figures
from megasim.geometry.trajectory import (
    layer_groups,
    layer_trajectories,
    step_table,
    summary_table,
    to_json,
    trajectory,
)
from megasim.geometry.walk import find_walk
from megasim.matrix.distance_matrix import DistanceMatrix, LayerMatrices

CHAIN = ("ac", "mk0", "mk3", "mk5", "nman")


def published_chain(shared: Path) -> LayerMatrices:
    pairs = [*pairwise(CHAIN), ("ac", "nman")]
    found = {
        (a, b): json.loads((shared / "published" / "v1" / f"bp_{a}_{b}.json").read_text())["kv"]
        for a, b in pairs
    }
    keys = sorted(k for k in found["ac", "mk0"] if k.startswith("model.diffusion_model."))
    values = np.full((len(keys), 5, 5), np.nan)
    values[:, range(5), range(5)] = 0.0
    for (a, b), kv in found.items():
        i, j = CHAIN.index(a), CHAIN.index(b)
        values[:, i, j] = values[:, j, i] = [kv[key] for key in keys]
    roles = [next((r for r in ("attn1", "attn2") if r in key), "") for key in keys]
    blocks = ["OUT11" if ".output_blocks.11." in key else "" for key in keys]
    return LayerMatrices(
        models=CHAIN,
        component="unet",
        metric="l2",
        keys=tuple(keys),
        blocks=tuple(blocks),
        roles=tuple(roles),
        numels=np.zeros(len(keys), dtype=np.int64),
        values=values,
    )


@pytest.mark.parametrize(
    ("part", "steps", "end", "coherence"),
    [
        ("others", [96.0301, 51.6394, 20.2971, 22.4227], 113.7759, 0.006),
        ("attn1", [23.2504, 16.5754, 8.0633, 7.5967], 35.8125, 0.161),
        ("attn2", [26.0299, 13.6055, 4.6885, 5.7737], 30.5798, 0.011),
    ],
)
def test_published_chain(
    shared: Path, part: str, steps: list[float], end: float, coherence: float
) -> None:
    layers = published_chain(shared)
    found = {
        t.label: t for t in layer_trajectories(layers, CHAIN, layer_groups(layers, "attention"))
    }
    t = found[part]
    np.testing.assert_array_equal(t.steps.round(4), steps)
    assert round(t.direct, 4) == end
    assert round(t.coherence, 3) == coherence
    # the pairs in between were never compared
    assert np.isnan(t.from_start[2:4]).all() and np.isnan(t.turn_cosines).all()
    assert t.keys == {"others": 526, "attn1": 80, "attn2": 80}[part]


def test_published_direction_of_self_attention_lies_in_the_last_block(shared: Path) -> None:
    layers = published_chain(shared)
    attn1 = np.array([role == "attn1" for role in layers.roles])
    last = np.array([block == "OUT11" for block in layers.blocks])
    t = layer_trajectories(layers, CHAIN, {"last": attn1 & last, "before": attn1 & ~last})
    assert t[0].coherence > 0.7
    assert t[1].coherence < 0.03


def test_published_direction_of_self_attention_is_not_firm_over_layers(shared: Path) -> None:
    layers = published_chain(shared)
    walk = find_walk(np.zeros((5, 5)), range(5))
    row = layer_figures(layers, CHAIN, walk).summary("role").loc["attn1"]
    assert round(row["coherence"], 3) == 0.161
    assert round(row["coherence_error"], 3) == 0.083
    assert row["persists"] == "in few layers"
    assert ".output_blocks.11." in row["leading_key"]


def square(metric: str = "l2") -> DistanceMatrix:
    return DistanceMatrix.from_values("abc", [[0, 3, 5], [3, 0, 4], [5, 4, 0]], metric=metric)


def test_tables() -> None:
    t = trajectory(square(), "abc", label="unet")
    table = step_table([t])
    assert table["cumulative"].tolist() == [0.0, 3.0, 7.0]
    assert table["from_start"].tolist() == [0.0, 3.0, 5.0]
    np.testing.assert_array_equal(table["turn"], [np.nan, 0.0, np.nan])
    row = summary_table([t]).loc["unet"]
    assert row["to b"] == 3.0 and row["sum"] == 7.0
    assert row["root_of_squares"] == 5.0 and row["direct"] == 5.0 and row["coherence"] == 0.0
    assert json.loads(json.dumps(to_json([t]), allow_nan=False))[0]["turn_cosines"] == [0.0]


def test_angles_are_those_of_l2_alone() -> None:
    t = trajectory(square("l1"), "abc")
    assert t.total == 7.0
    assert np.isnan(t.coherence) and np.isnan(t.turn_cosines).all()


@pytest.mark.parametrize(("metric", "step"), [("l0", 7.0), ("l1", 7.0), ("l2", 5.0), ("linf", 4.0)])
def test_layers_add_as_their_metric_does(metric: str, step: float) -> None:
    values = np.zeros((2, 2, 2))
    values[0, 0, 1] = values[0, 1, 0] = 3.0
    values[1, 0, 1] = values[1, 1, 0] = 4.0
    layers = LayerMatrices(
        ("a", "b"), "unet", metric, ("x", "y"), ("", ""), ("", ""), np.ones(2, np.int64), values
    )
    (t,) = layer_trajectories(layers, "ab", layer_groups(layers, "role"))
    assert t.label == "unnamed" and t.steps.tolist() == [step]


def test_a_layer_without_a_step_is_left_out_and_counted() -> None:
    values = np.zeros((2, 3, 3))
    values[:, [0, 1, 0, 1, 2, 2], [1, 2, 2, 0, 1, 0]] = [1.0, 1.0, 2.0, 1.0, 1.0, 2.0]
    values[1, 0, 1] = values[1, 1, 0] = np.nan
    layers = LayerMatrices(
        ("a", "b", "c"),
        "unet",
        "l2",
        ("x", "y"),
        ("", ""),
        ("ff", "ff"),
        np.ones(2, np.int64),
        values,
    )
    (t,) = layer_trajectories(layers, "abc", layer_groups(layers, "role"))
    assert (t.keys, t.keys_left_out) == (1, 1)
    assert t.coherence == pytest.approx(1.0)
    values[0, 0, 2] = values[0, 2, 0] = np.nan
    with pytest.raises(NoAnswerError, match="no layer of unet"):
        layer_trajectories(layers, "abc", layer_groups(layers, "role"))


@pytest.mark.parametrize(
    ("chain", "message"), [("a", "two models"), ("aba", "twice"), ("ax", "no such model")]
)
def test_chains_that_are_none(chain: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        trajectory(square(), chain)


def test_a_similarity_has_no_steps() -> None:
    with pytest.raises(UsageError, match="not a length"):
        trajectory(DistanceMatrix.from_values("ab", np.ones((2, 2)), metric="cossim"), "ab")


def test_unknown_division() -> None:
    layers = LayerMatrices(
        ("a",), "unet", "l2", (), (), (), np.ones(0, np.int64), np.zeros((0, 1, 1))
    )
    with pytest.raises(UsageError, match="cannot be grouped"):
        layer_groups(layers, "colour")
