"""Step and epoch counts are evidence only within one run of training."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest
from scipy.spatial.distance import pdist, squareform

from megasim.estimate.kinship import KinshipTest
from megasim.lineage.evidence import ModelFacts
from megasim.lineage.facts import run_label, step_counts
from megasim.lineage.family_tree import build_lineage
from megasim.lineage.inner_products import Floats
from megasim.lineage.result import Edge
from megasim.matrix.distance_matrix import DistanceMatrix

SIZE = 4000


def edges_of(
    weights: Mapping[str, Floats],
    metadata: Mapping[str, Mapping[str, object]],
    kinship: KinshipTest | None = None,
) -> dict[frozenset[str], Edge]:
    values = squareform(pdist(np.stack(list(weights.values()))))
    facts = [
        ModelFacts(
            name,
            counts=step_counts(metadata[name]),
            run=run_label(metadata[name]),
            norms={"all": float(np.linalg.norm(w))},
        )
        for name, w in weights.items()
    ]
    matrix = DistanceMatrix.from_values(list(weights), values, component="all")
    found = build_lineage(matrix, facts=facts, kinship=kinship)
    return {frozenset((e.parent, e.child)): e for e in found.edges}


def random(seed: int, scale: float = 1.0) -> Floats:
    return np.random.default_rng(seed).normal(0, scale, SIZE)


def names_of(edge: Edge) -> set[str]:
    return {e.name for e in edge.evidence}


def epochs() -> dict[str, Floats]:
    """Return four checkpoints of one run."""
    weights, now = {}, random(0)
    for i in range(4):
        now = now + random(i + 1, 0.1)
        weights[f"e{i}"] = now
    return weights


def test_two_trainings_of_one_set_up_are_no_epochs_of_one_run() -> None:
    # as SevenNet's: one set-up, large parts alike by construction, hidden units not known
    alike = random(0)
    weights = {"may": alike + random(1), "july": alike + random(2)}
    (edge,) = edges_of(weights, {"may": {"epoch": 300}, "july": {"epoch": 600}}).values()
    assert edge.kind != "epoch step"
    assert not edge.decided
    assert "epoch count" not in names_of(edge)


def test_epochs_of_one_run_are_in_order_of_their_counts() -> None:
    edges = edges_of(epochs(), {f"e{i}": {"epoch": 10 * i, "seed": 1} for i in range(4)})
    for i in range(3):
        edge = edges[frozenset((f"e{i}", f"e{i + 1}"))]
        assert (edge.parent, edge.kind, edge.decided) == (f"e{i}", "epoch step", True)


def test_counts_of_another_set_up_say_nothing() -> None:
    edges = edges_of(epochs(), {f"e{i}": {"epoch": 10 * i, "seed": i} for i in range(4)})
    assert not any("epoch count" in names_of(e) for e in edges.values())


def test_counts_that_the_distances_contradict_say_nothing() -> None:
    order = {"e0": 10, "e1": 40, "e2": 20, "e3": 30}
    edges = edges_of(epochs(), {name: {"global_step": n} for name, n in order.items()})
    assert "step count" not in names_of(edges[frozenset(("e0", "e1"))])


def test_a_count_of_two_models_alone_is_no_record() -> None:
    weights = {name: w for name, w in epochs().items() if name in ("e0", "e1")}
    (edge,) = edges_of(weights, {"e0": {"global_step": 10}, "e1": {"global_step": 20}}).values()
    (found,) = (e for e in edge.evidence if e.name == "step count")
    # a fine-tune that counts anew would look the same
    assert (edge.parent, edge.kind, found.log_odds) == ("e0", "fine-tune", 2.0)


@pytest.mark.parametrize(("log_p", "counted"), [(-50.0, True), (-1.0, False)])
def test_hidden_units_decide_who_is_kin(log_p: float, counted: bool) -> None:
    weights, now = {}, random(0)
    for i, name in enumerate("abc", 1):
        now = now + random(i, 0.7)
        weights[name] = now
    test = KinshipTest(
        ("a", "b", "c"),
        np.full((3, 3), 500),
        np.full((3, 3), 0.9 if counted else 0.3),
        np.full((3, 3), 499.0),
        np.full((3, 3), log_p),
    )
    edges = edges_of(weights, {name: {"epoch": i} for i, name in enumerate("abc")}, test)
    assert any("epoch count" in names_of(e) for e in edges.values()) == counted


def test_the_session_of_a_run_tells_it_apart() -> None:
    counts = [
        step_counts({"ss_output_name": "x", "ss_session_id": s, "ss_steps": 1}) for s in ("1", "2")
    ]
    assert counts[0].keys().isdisjoint(counts[1].keys())
