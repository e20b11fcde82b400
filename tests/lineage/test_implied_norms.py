"""Families of models of which nothing but distances is known."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from scipy.spatial.distance import pdist, squareform

from megasim.lineage.family_tree import build_lineage
from megasim.lineage.implied_norms import implied_norms
from megasim.matrix.distance_matrix import DistanceMatrix

ELEMENTS = 20_000
# Squared norms of published models of 7B, and how many models of each base.
SQUARES, SIZES = (6250, 8700, 8700, 11050, 15800), (1, 2, 3, 2, 1)


def bases_with_models(sizes: tuple[int, ...]) -> dict[str, np.ndarray]:
    """Return families whose members are farther apart than some unrelated models are."""
    rng = np.random.default_rng(7)
    weights = {}
    for family, (size, square) in enumerate(zip(sizes, SQUARES, strict=False)):
        scale = np.sqrt(square / ELEMENTS)
        base = rng.normal(0, scale, ELEMENTS)
        for member in range(size):
            step = rng.normal(0, scale * rng.uniform(0.2, 0.9), ELEMENTS) if member else 0
            weights[f"f{family}-{member}"] = base + step
    return weights


def matrix_of(weights: dict[str, np.ndarray]) -> DistanceMatrix:
    values = squareform(pdist(np.stack(list(weights.values()))))
    return DistanceMatrix.from_values(list(weights), values, source="imported")


def test_norms_and_families_follow_from_distances_alone() -> None:
    weights = bases_with_models(SIZES)
    matrix = matrix_of(weights)
    found = implied_norms(matrix, {})
    assert found is not None
    assert found.families == len(SIZES)
    assert found.error < 0.03
    for name, values in weights.items():
        assert found.norms[name] == pytest.approx(np.linalg.norm(values), rel=0.02)

    lineage = build_lineage(matrix)
    families = {frozenset(name[:2] for name in f.models) for f in lineage.families}
    assert families == {frozenset({f"f{i}"}) for i in range(len(SIZES))}
    assert sorted(len(f.models) for f in lineage.families) == sorted(SIZES)
    assert all(e.parent[:2] == e.child[:2] for e in lineage.edges)
    (note,) = lineage.notes
    assert "5 families stand at right angles" in note


def test_known_norms_are_kept_and_others_are_not_guessed() -> None:
    matrix = matrix_of(bases_with_models(SIZES))
    known = dict.fromkeys(matrix.models[:6], 1.0)
    found = implied_norms(matrix, known)
    assert found is None or not found.norms.keys() & known.keys()
    # Three models have as many norms as pairs: whatever they are, they fit.
    assert implied_norms(matrix.subset(["f0-0", "f1-0", "f2-0"]), {}) is None
    assert implied_norms(matrix_of(bases_with_models((4, 5))), {}) is None


def test_a_base_with_its_models_is_one_family() -> None:
    # Seen from their base, models that were trained from it stand at right angles as well.
    rng = np.random.default_rng(3)
    base = rng.normal(0, 1, ELEMENTS)
    weights = {f"m{i}": base + rng.normal(0, 0.1, ELEMENTS) for i in range(6)}
    matrix = matrix_of({"base": base, **weights})
    assert implied_norms(matrix, {}) is None
    assert len(build_lineage(matrix).families) == 1


@pytest.mark.parametrize("name", ["aobp", "ccbp", "cwd", "main", "sdxl0", "wdacnai"])
def test_published_families_stay_whole(shared: Path, name: str) -> None:
    data = json.loads((shared / "published" / "v2" / f"{name}.json").read_text())
    matrix = DistanceMatrix.from_values(data["ml"], data["dm"]["unet"], source="imported")
    assert implied_norms(matrix, {}) is None
