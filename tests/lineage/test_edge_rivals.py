"""How likely an edge is, and what could stand in its place."""

from __future__ import annotations

import json

import numpy as np
import pytest

from megasim.lineage.calibration import calibrated_edge
from megasim.lineage.edge_rivals import edge_odds
from megasim.lineage.family_tree import build_lineage
from megasim.lineage.settings import SETTINGS
from megasim.matrix.distance_matrix import DistanceMatrix


def squares(values: list[list[float]]) -> np.ndarray[tuple[int, int], np.dtype[np.float64]]:
    return np.sqrt(np.array(values, dtype=np.float64))


def test_a_clear_edge_has_no_rival_and_a_doubtful_one_names_it() -> None:
    # c stands a little nearer to b than to a; d clearly beside a
    clear = squares([[0, 1, 1.02, 1], [1, 0, 1, 2], [1.02, 1, 0, 2], [1, 2, 2, 0]])
    found = build_lineage(DistanceMatrix.from_values("abcd", clear))
    by_ends = {frozenset((e.parent, e.child)): e for e in found.edges}
    doubtful = by_ends[frozenset("bc")]
    assert 0.5 < doubtful.edge_confidence < 0.75
    (rival,) = [r for r in doubtful.rivals if {r.parent, r.child} == {"a", "c"}]
    assert 0.2 < rival.probability < 1 - doubtful.edge_confidence + 1e-9
    assert by_ends[frozenset("ad")].edge_confidence > 0.99
    assert not by_ends[frozenset("ad")].rivals
    assert f"or {rival.sentence()}" in doubtful.sentence()
    data = json.loads(json.dumps(doubtful.to_json()))
    assert data["rivals"][0]["probability"] == round(doubtful.rivals[0].probability, 4)
    assert data["edge_confidence"] == doubtful.edge_confidence
    assert data["edge_decided"] == (doubtful.edge_confidence >= SETTINGS.edge_decided)


def test_probabilities_of_an_edge_and_all_its_rivals_sum_to_one() -> None:
    rng = np.random.default_rng(0)
    costs = rng.normal(size=(7, 7)) / 5
    costs = costs + costs.T
    every = SETTINGS.__class__(most_rivals=100, least_rival=0.0)
    for edge, side in (((0, 3), {0, 1, 2}), ((5, 6), {0, 1, 2, 3, 4, 5})):
        odds = edge_odds(edge, side, costs, (), every)
        assert odds.probability + sum(p for *_, p in odds.rivals) == pytest.approx(1)
        assert len(odds.rivals) == len(side) * (7 - len(side)) - 1
        assert all(a in side and b not in side for a, b, _ in odds.rivals)
        less = edge_odds(edge, side, costs, (1, 4), every)
        assert less.probability >= odds.probability
        assert not any({a, b} & {1, 4} for a, b, _ in less.rivals)


def test_an_edge_and_its_rival_are_as_likely_as_their_costs_say() -> None:
    costs = np.log(np.array([[1, 1, 1.02], [1, 1, 1], [1.02, 1, 1]]))
    odds = edge_odds((1, 2), {0, 1}, costs, ())
    ((a, b, probability),) = odds.rivals
    assert (a, b) == (0, 2)
    assert probability == pytest.approx(odds.probability * 1.02**-SETTINGS.edge_sureness)


def test_the_confidence_of_an_edge_grows_with_its_probability() -> None:
    told = [0.0, 0.2, 0.36, 0.5, 0.6, 0.8, 0.95, 1.0]
    assert [calibrated_edge(p) for p in told] == sorted(calibrated_edge(p) for p in told)
    assert calibrated_edge(1.0) < 1


def test_copies_and_merges_have_no_rivals() -> None:
    values = squares([[0, 4, 1, 0], [4, 0, 1, 4], [1, 1, 0, 1], [0, 4, 1, 0]])
    found = build_lineage(DistanceMatrix.from_values(["a", "b", "mix", "again"], values))
    kinds = {e.kind: e for e in found.edges}
    assert {"merge", "copy"} <= {str(kind) for kind in kinds}
    for edge in found.edges:
        if str(edge.kind) in ("merge", "copy"):
            assert np.isnan(edge.edge_confidence)
            assert not edge.rivals
            assert edge.edge_decided
            assert edge.to_json()["edge_confidence"] is None
