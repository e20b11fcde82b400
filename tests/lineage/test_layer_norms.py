"""What norms by layer tell of kinship and of directions."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from megasim.lineage.evidence import COUNTERS, ModelFacts, drift_evidence
from megasim.lineage.family_tree import build_lineage
from megasim.lineage.layer_norms import cosines_by_elements, growth_by_layer, growth_log_odds
from megasim.matrix.distance_matrix import DistanceMatrix, LayerMatrices


def layered(models: dict[str, dict[str, np.ndarray]]) -> tuple[LayerMatrices, dict]:
    names = tuple(models)
    keys = tuple(models[names[0]])
    values = np.array(
        [
            [[np.linalg.norm(models[a][k] - models[b][k]) for b in names] for a in names]
            for k in keys
        ]
    )
    layers = LayerMatrices(
        models=names, component="all", metric="l2", keys=keys, blocks=keys,
        roles=("",) * len(keys), numels=np.array([models[names[0]][k].size for k in keys]),
        values=values,
    )  # fmt: skip
    return layers, {n: {k: float(np.linalg.norm(v)) for k, v in models[n].items()} for n in names}


def two_families() -> dict[str, dict[str, np.ndarray]]:
    """Return models with small matrices and large gains and variances, alike in all."""
    rng = np.random.default_rng(2)
    models = {}
    for family in "ab":
        base = rng.normal(0, 0.05, 2000)
        for i in range(3):
            models[f"{family}{i}"] = {
                "conv": base + rng.normal(0, 0.01, 2000) * (i > 0),
                "norm": 1 + rng.normal(0, 0.02, 32),
                "running_var": 1 + rng.normal(0, 0.1, 32),
            }
    return models


def test_gains_and_variances_make_no_family() -> None:
    layers, norms = layered(two_families())
    of_all = {n: float(np.sqrt(sum(v * v for v in by.values()))) for n, by in norms.items()}
    total = layers.total()
    raw = (of_all["a0"] ** 2 + of_all["b0"] ** 2 - total[0, 3] ** 2) / 2
    assert raw / of_all["a0"] / of_all["b0"] > 0.8
    cosine = cosines_by_elements(layers, norms)
    assert cosine[0, 1] > 0.9
    assert abs(cosine[0, 3]) < 0.15

    facts = [ModelFacts(n, norms={"all": of_all[n]}) for n in layers.models]
    matrix = DistanceMatrix.from_values(layers.models, total, component="all")
    found = build_lineage(
        matrix, layers=layers, facts=facts, layer_norms=lambda some: {n: norms[n] for n in some}
    )
    assert sorted(f.models for f in found.families) == [("a0", "a1", "a2"), ("b0", "b1", "b2")]
    assert all(e.parent[0] == e.child[0] for e in found.edges)


def test_an_unknown_layer_is_no_evidence() -> None:
    layers, norms = layered(two_families())
    norms["a0"] = {}
    cosine = cosines_by_elements(layers, norms)
    assert np.isnan(cosine[0]).all()
    assert np.isfinite(cosine[1:, 1:]).all()


def test_growth_tells_only_where_it_is_of_the_size_of_the_step() -> None:
    layers, norms = layered(two_families())
    growth = growth_by_layer(layers, norms, 0, 1, fewest=100)
    assert growth is not None
    assert growth.elements.tolist() == [2000]
    assert growth.layers[0] == pytest.approx(1, abs=0.3)
    assert growth.log_odds(0.5) > 1
    backwards = growth_by_layer(layers, norms, 1, 0, fewest=100)
    assert backwards is not None
    assert backwards.log_odds(0.5) == growth.turned().log_odds(0.5) == -growth.log_odds(0.5)
    # over all layers that differ, those of few elements among them
    assert growth.squared == pytest.approx(layers.total()[0, 1] ** 2)
    assert abs(growth_log_odds([300.0], None, 0.5)) < 0.02


def test_a_training_counts_on_from_where_its_start_had_come() -> None:
    def model(name: str, **counters: float) -> ModelFacts:
        return ModelFacts(name, counters=counters)

    (found,) = drift_evidence(model("a", bn=40, bn2=40), model("b", bn=90, bn2=90), "all")
    assert (found.name, found.text, found.backwards) == (COUNTERS, "bn 40 → 90", "bn 90 → 40")
    assert found.log_odds > 0
    assert not drift_evidence(model("a", bn=40), model("b", bn=40), "all")
    # Where a tool dropped the counts, or two disagree, they say nothing.
    assert not drift_evidence(model("a", bn=0), model("b", bn=90), "all")
    assert not drift_evidence(model("a", bn=40, bn2=90), model("b", bn=90, bn2=40), "all")
    assert not drift_evidence(model("a"), model("b", bn=90), "all")


def step_of(matrix: DistanceMatrix, norms: dict[str, float], **more: object) -> list[str]:
    facts = [ModelFacts(n, norms={matrix.component: size}) for n, size in norms.items()]
    found = build_lineage(matrix, facts=facts, **more)  # type: ignore[arg-type]
    return [e.text for edge in found.edges for e in edge.evidence if e.name == "norm growth"]


def test_growth_is_of_the_keys_of_the_step_or_not_told() -> None:
    """The second model has weights besides, which the distance of the two does not cover."""
    matrix = DistanceMatrix.from_values("ab", [[0, 0.1], [0.1, 0]], component="all")
    (text,) = step_of(matrix, {"a": 10.0, "b": 10.0005})
    assert text == "squared norm changes by +1 of the squared step"
    half = replace(matrix, coverage=np.where(np.eye(2), 1.0, 0.6))
    assert not step_of(half, {"a": 10.0, "b": 13.0})

    layers, norms = layered({n: {"conv": np.full(200, x)} for n, x in (("a", 1.0), ("b", 1.01))})
    for name in norms:
        norms[name]["text"] = 15.0 if name == "b" else 1.0
    (text,) = step_of(
        replace(half, values=layers.total()),
        {n: float(np.sqrt(sum(v * v for v in by.values()))) for n, by in norms.items()},
        layers=layers,
        layer_norms=lambda some: {n: norms[n] for n in some},
    )
    assert text == "norm 14.14 → 14.28, by far more than the step alone would change it"


def test_steps_of_as_many_batches_are_one_run() -> None:
    """They turn at right angles, as epochs of a net with batch normalisation may."""
    rng = np.random.default_rng(0)
    points = np.cumsum(rng.normal(size=(4, 400)), axis=0)
    values = np.sqrt(np.square(points[:, None] - points[None]).sum(axis=2))
    matrix = DistanceMatrix.from_values("abcd", values, component="all")

    def kinds(*counts: int) -> list[str]:
        facts = [
            ModelFacts(n, counters={"bn": float(c)}) for n, c in zip("abcd", counts, strict=True)
        ]
        return [e.kind.value for e in build_lineage(matrix, facts=facts).edges]

    assert kinds(800, 834, 867, 900) == ["fine-tune", "epoch step", "epoch step"]
    assert kinds(800, 834, 900, 934) == ["fine-tune"] * 3
