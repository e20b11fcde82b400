"""The verdict of the flat-plane test in sentences, each with its numbers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from megasim.errors import printable
from megasim.geometry.completion import COMPLETED
from megasim.geometry.layer_geometry import LayerFigures
from megasim.geometry.plane_test import (
    ALPHA,
    COHERENCE,
    LEAST_MODELS,
    LINE,
    MORE,
    PLANE,
    TOO_FEW,
    TURN,
    UNRELATED,
    PathDirection,
    PlaneTest,
)
from megasim.geometry.walk import Walk
from megasim.matrix.distance_matrix import DistanceMatrix

_NEGATIVE = 0.01  # negative mass worth a word
_NAMED = 5  # turns and groups named in a sentence
_NAME = 40  # characters of a model name in a sentence
_LIMITS = {
    LINE: "Not shown: which end came first, or that all on the line are merges of its ends; a "
    "straight training path looks the same.",
    PLANE: "Not shown: that the two axes mean anything by themselves, or that other models would "
    "fall into this plane.",
    MORE: "Not shown: what the further dimensions are; they may be single models off the plane.",
    UNRELATED: "Not shown: that the steps are unrelated; only that a picture as flat as this one "
    "is no evidence against it, since unrelated steps of these lengths give the same.",
    TOO_FEW: f"Fewer than {LEAST_MODELS} different models prove nothing: three always lie in a "
    "plane.",
}


def state_evidence(
    matrix: DistanceMatrix,
    walk: Walk,
    test: PlaneTest,
    *,
    negative_mass: float,
    distinct: int,
    planarity_error: float,
    layers: LayerFigures | None,
    without_layers: str = "",
) -> tuple[str, ...]:
    """Return the evidence: what was found, how firm it is, over what, and what it does not show.

    Args:
        matrix, walk, test: the map's; the numbers of the walk are rows of the matrix.
        negative_mass: of its spectrum.
        distinct: how many of the models differ from each other.
        planarity_error: standard error of the planarity, 0 for exact distances.
        layers: the figures layer by layer, if there are any.
        without_layers: why there are none, as a sentence.
    """
    sentences: list[str] = []
    if test.verdict != TOO_FEW:
        sentences += [_planarity(matrix, test, planarity_error), _firmness(test)]
    sentences += _direction(matrix.models, walk, test.direction)
    if layers is not None:
        sentences += _layers(layers)
    elif without_layers:
        sentences.append(without_layers)
    sentences += _material(matrix, negative_mass, distinct)
    return (*sentences, _LIMITS[test.verdict])


def _planarity(matrix: DistanceMatrix, test: PlaneTest, error: float) -> str:
    n = len(matrix.models)
    own = ""
    if test.reference > test.orthogonal_walk + 5e-4:
        own = f" (at most {_percent(test.reference)}, if each model also has a change of its own)"
    estimated = f" ± {100 * error:.2g}" if error > 0 else ""
    return (
        f"Two dimensions hold {_percent(test.planarity)}{estimated} of the variance of {n} models; "
        f"the same {n - 1} steps at right angles to each other give "
        f"{_percent(test.orthogonal_walk)}{own}."
    )


def _firmness(test: PlaneTest) -> str:
    where = {1: "the line", 2: "the plane", 0: "two dimensions"}.get(
        test.dimensions, f"{test.dimensions} dimensions"
    )
    sentence = (
        f"Outside {where} lies {_times(test.outside)} what unrelated steps leave there (1 is "
        "what they leave)"
    )
    low, high = test.outside_left_out
    if np.isnan(high):
        return sentence + "; there are too few models to leave one out."
    one = "with any one model left out"
    if test.groups < test.models:
        one = f"with any of {test.groups} groups of models left out"
    if high < 0.005:
        return f"{sentence}, and so {one}."
    return f"{sentence}; {low:.2f} to {high:.2f} times {one}."


def _direction(models: Sequence[str], walk: Walk, direction: PathDirection) -> list[str]:
    steps = len(walk.order) - 1
    if steps < 2 or np.isnan(direction.coherence):
        return []
    names = [printable(models[i], _NAME) for i in walk.order]
    read = "the order given"
    if walk.kind != "path":
        edges = len(models) - 1
        part = f"{steps} of the {edges}" if steps < edges else f"all {edges}"
        read = (
            f"{part} steps of the spanning tree, an order read off the distances and not known "
            "to be that of time"
        )
    compare = "as much" if direction.coherence >= 0 else "as little"
    sentences = [
        f"Along {names[0]} → {names[-1]} ({read}) the coherence is {direction.coherence:z.3f} (0 "
        f"at right angles, 1 straight); steps reversed at random give {compare} with "
        f"p = {direction.p_value:.2g} ({direction.patterns:,} patterns)."
    ]
    if direction.name == "not testable":
        return [*sentences, f"{steps} steps are too few to show a direction by that test."]
    if direction.name == "none":
        if direction.p_value <= ALPHA:
            return [*sentences, f"A coherence below {COHERENCE} is no direction, however certain."]
        return [*sentences, "No persistent direction."]
    if direction.name == "turning back":
        return [*sentences, "The steps turn back on the whole."]
    turns = zip(names[1:-1], direction.turn_cosines, strict=True)
    going_on = [f"{name} {turn:z.3f}" for name, turn in turns if turn >= TURN]
    found = f"no turn cosine reaches {TURN}"
    if going_on:
        found = f"turn cosines of {TURN} or more at {_list(going_on)}"
    return [*sentences, f"Direction {direction.name}: {found}."]


def _layers(layers: LayerFigures) -> list[str]:
    whole = layers.summary()
    if whole.empty or not whole["n"].iloc[0]:
        return ["No layer has all steps of the path, so layers say nothing of the direction."]
    row = whole.iloc[0]
    sentences = [
        f"Layer by layer ({row['n']} of {row['layers']} layers, each counted once) the coherence "
        f"has the median {row['layer_median']:z.3f}, quartiles {row['layer_q1']:z.3f} and "
        f"{row['layer_q3']:z.3f}; it is above 0 in {_percent(row['positive'])}."
    ]
    for by in ("role", "block"):
        table = layers.summary(by)
        if len(table) > 1:
            sentences.append(f"By {by}: {_where(table)}")
    return sentences


def _where(table: pd.DataFrame) -> str:
    ranked = table.sort_values(["coherence", "n"], ascending=False, kind="stable")
    parts = []
    for verdict, words in (
        ("yes", "a direction persists in"),
        ("in most layers", "in most layers but not the largest of"),
        ("in few layers", "in few layers only of"),
        ("no", "not in"),
    ):
        rows = ranked[ranked["persists"] == verdict]
        named = [
            f"{printable(name, _NAME) or 'unnamed'} ({coherence:z.3f} ± {error:z.3f})"
            for name, coherence, error in zip(
                rows.index, rows["coherence"], rows["coherence_error"], strict=True
            )
        ]
        if named:
            parts.append(f"{words} {_list(named)}")
    return ("; ".join(parts) or "too few layers in each") + "."


def _material(matrix: DistanceMatrix, negative_mass: float, distinct: int) -> list[str]:
    sources = matrix.sources[np.triu_indices(len(matrix.models), 1)]
    total = sources.size
    sentences = []
    completed = int((sources == COMPLETED).sum())
    if completed:
        sentences.append(
            f"{completed} of {total} pairs were missing and are filled in as if the steps between "
            "them were unrelated."
        )
    estimated = int((sources == "estimated").sum())
    if estimated:
        sentences.append(f"{estimated} of {total} distances are estimates.")
    imported = int(np.isin(sources, ("imported", "unproven")).sum())
    if imported:
        sentences.append(f"{imported} of {total} distances were measured by others.")
    if negative_mass > _NEGATIVE:
        sentences.append(
            f"Negative mass {_percent(negative_mass)}: no points have exactly these distances; "
            "pairs may cover different keys."
        )
    if distinct < len(matrix.models):
        sentences.append(f"{distinct} of the {len(matrix.models)} models differ from each other.")
    if matrix.metric not in ("l2", "cossim"):
        sentences.append(
            f"{matrix.metric} is not a Euclidean distance: angles and dimensions are those of a "
            "picture that imitates it."
        )
    return sentences


def _list(names: Sequence[str]) -> str:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more


def _percent(value: float) -> str:
    return f"{100 * value:.1f} %"


def _times(value: float) -> str:
    return f"{value:.2f} times" if value >= 0.005 else "less than 0.01 times"
