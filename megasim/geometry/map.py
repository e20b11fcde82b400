"""The map of models: points out of distances, the walk over them, and the flat-plane test."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import numpy as np
import pandas as pd
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from megasim.errors import NoAnswerError, UsageError, printable
from megasim.geometry.comparable import (
    at_originals,
    layers_at_originals,
    left_out_sentence,
    quantised_sentence,
)
from megasim.geometry.completion import complete_matrix
from megasim.geometry.embedding import (
    classical_mds,
    metric_mds,
    negative_mass,
    planarity_error,
    spread,
    squared_distances,
)
from megasim.geometry.layer_geometry import LayerFigures, layer_figures, plain
from megasim.geometry.plane_evidence import state_evidence
from megasim.geometry.plane_test import PlaneTest, distinct_models, plane_test
from megasim.geometry.walk import Walk, edge_turns, find_walk
from megasim.matrix.distance_matrix import DistanceMatrix, Floats, LayerMatrices, places


@dataclass(frozen=True)
class MapResult:
    """Where the models lie, and what their lying so means.

    Attributes:
        matrix: the N × N distances behind it, without gaps.
        coordinates: (N, 3) float64 of classical MDS, in the unit of the metric.
        metric_coordinates: (N, 2) of metric MDS, the layout of least `stress`.
        eigenvalues: (N,) float64 descending, negative ones included.
        stress: Kruskal's stress-1 of `metric_coordinates`, 0 to 1.
        spread: dimensions the variance is spread over, 1 up.
        negative_mass: Σ|λ⁻|/Σλ⁺; about 0 for l2 over the same keys.
        walk: the path or spanning tree; its numbers index `matrix.models`.
        turns: (N−1,) cosine at the start of each edge of the walk, NaN for the first ones.
        test: the flat-plane test.
        layers: the same figures layer by layer, or None.
        evidence: the verdict's reasons as sentences, then what it does not show.
        left_out: models that hold the component in another architecture, and are not on the map.
        quantised: quantised copies, each with the model that it stands at: the matrix has the
            distances of that one in their place.
    """

    matrix: DistanceMatrix = field(repr=False)
    coordinates: Floats = field(repr=False)
    metric_coordinates: Floats = field(repr=False)
    eigenvalues: Floats = field(repr=False)
    stress: float
    spread: float
    negative_mass: float
    walk: Walk = field(repr=False)
    turns: Floats = field(repr=False)
    test: PlaneTest
    layers: LayerFigures | None = field(repr=False)
    evidence: tuple[str, ...]
    left_out: tuple[str, ...] = ()
    quantised: Mapping[str, str] = field(default_factory=dict)

    def __repr__(self) -> str:
        what = f"{printable(self.matrix.component)} of {len(self.models)} models"
        return f"<map, {what}: {self.verdict}>"

    @property
    def models(self) -> tuple[str, ...]:
        """The N model names."""
        return self.matrix.models

    @property
    def verdict(self) -> str:
        """One of `plane_test.VERDICTS`."""
        return self.test.verdict

    @property
    def direction(self) -> str:
        """Whether the path goes in one direction, see `plane_test.PathDirection.name`."""
        return self.test.direction.name

    @property
    def planarity(self) -> float:
        """(λ1+λ2)/Σλ⁺, 0 to 1."""
        return self.test.planarity

    @property
    def orthogonal_walk(self) -> float:
        """The planarity of the same steps at right angles to each other."""
        return self.test.orthogonal_walk

    @property
    def coherence(self) -> float:
        """Of the path, or of the longest path of the tree; NaN below two steps."""
        return self.test.direction.coherence

    @property
    def turn_cosines(self) -> Floats:
        """(m − 1,) at each inner model of the path, or of the longest path of the tree."""
        return self.test.direction.turn_cosines

    @property
    def path(self) -> tuple[str, ...]:
        """The models of the path, or of the longest path of the tree, in order."""
        return tuple(self.models[i] for i in self.walk.order)

    def to_json(self) -> dict[str, Any]:
        """Return everything as plain values: NaN is None, arrays are lists.

        `path` holds the kind ("path" or "spanning tree"), the models in order, the direction
        with its p-value and number of sign patterns, and every edge with its length and turn
        (the cosine at its start).
        """
        direction = self.test.direction
        edges = self.steps().to_dict("records")
        return {
            "component": self.matrix.component,
            "metric": self.matrix.metric,
            "models": list(self.models),
            "left_out": list(self.left_out),
            "quantised": dict(self.quantised),
            "coordinates": self.coordinates.tolist(),
            "eigenvalues": self.eigenvalues.tolist(),
            "stress": plain(self.stress),
            "planarity": plain(self.planarity),
            "orthogonal_walk": plain(self.orthogonal_walk),
            "spread": plain(self.spread),
            "negative_mass": plain(self.negative_mass),
            "path": {
                "kind": self.walk.kind,
                "models": list(self.path),
                "direction": direction.name,
                "p_value": plain(direction.p_value),
                "patterns": direction.patterns,
                "edges": plain(edges),
            },
            "coherence": plain(self.coherence),
            "turn_cosines": plain(self.turn_cosines.tolist()),
            "layers": None if self.layers is None else self.layers.to_json(),
            "verdict": self.verdict,
            "evidence": list(self.evidence),
        }

    def to_frame(self) -> pd.DataFrame:
        """Return a row per model: x, y, z, the metric layout, and the step that leads to it.

        `step_from` is "" and the step NaN for the model that the walk begins with.
        """
        frame = pd.DataFrame(
            np.hstack([self.coordinates, self.metric_coordinates]),
            index=pd.Index(self.models, name="model"),
            columns=["x", "y", "z", "metric_x", "metric_y"],
        )
        edges = self.steps().set_index("to").reindex(list(self.models))
        frame["step_from"] = edges["from"].fillna("").to_numpy()
        frame["step_length"] = edges["length"].to_numpy(dtype=float)
        frame["turn"] = edges["turn"].to_numpy(dtype=float)
        return frame

    def steps(self) -> pd.DataFrame:
        """Return a row per step of the walk: from, to, length, turn.

        The turn is the cosine at the start of the step, NaN for the first ones.
        """
        squared = squared_distances(self.matrix)
        a, b = self.walk.edges.T
        names = np.array(self.models, dtype=object)
        return pd.DataFrame(
            {
                "from": names[a],
                "to": names[b],
                "length": np.sqrt(squared[a, b]),
                "turn": self.turns,
            }
        )

    def _repr_html_(self) -> str:
        title = f"{self.matrix.component}, {self.matrix.metric}, {len(self.models)} models"
        reasons = "".join(f"<li>{html.escape(s)}</li>" for s in self.evidence)
        table = self.to_frame().to_html(float_format="{:.4g}".format, max_rows=40)
        return (
            f"<p><b>{html.escape(printable(title))}: {html.escape(self.verdict)}</b></p>"
            f"<ul>{reasons}</ul>{table}"
        )


def map_models(
    matrix: DistanceMatrix,
    *,
    path: Sequence[str] = (),
    layers: LayerMatrices | None = None,
    without_layers: str = "",
    left_out: Sequence[str] = (),
    quantised: Mapping[str, str] = MappingProxyType({}),
    complete: bool = False,
) -> MapResult:
    """Return the map of the models of a matrix, with the flat-plane test.

    Args:
        matrix: distances of two models or more. `cossim` is turned into a distance first.
        path: models in the order they came, two or more; models not named hang on the path by
            the shortest edges. Empty: the minimum spanning tree.
        layers: the matrices beneath, to say where a direction persists.
        without_layers: why there are no `layers`, as a sentence of the evidence.
        left_out: models of another architecture that are not in the matrix; the evidence names
            them.
        quantised: models that are others of them rounded to codes: they stand at these, and the
            evidence names them. See `comparable.at_originals`.
        complete: fill the gaps of the matrix, see `completion.complete_matrix`. The evidence says
            how many, and which models had to be left out.

    Raises:
        NoAnswerError: fewer than two models, all models identical, or gaps and not `complete`.
        UsageError: a path with one model, an unknown model, or one named twice.

    >>> points = np.arange(5.0)
    >>> line = DistanceMatrix.from_values("abcde", np.abs(np.subtract.outer(points, points)))
    >>> result = map_models(line)
    >>> result.verdict, result.coordinates[:, 0].round(9).tolist()
    ('line', [2.0, 1.0, 0.0, -1.0, -2.0])
    """
    # many small decompositions: threads cost more than they give, and change the last digits
    with threadpool_limits(limits=1, user_api="blas"):
        return _map_models(
            matrix, path, layers, without_layers, tuple(left_out), quantised, complete
        )


def _map_models(
    matrix: DistanceMatrix,
    path: Sequence[str],
    layers: LayerMatrices | None,
    without_layers: str,
    left_out: tuple[str, ...],
    quantised: Mapping[str, str],
    complete: bool,
) -> MapResult:
    given = len(matrix.models)
    matrix = _answerable(matrix, complete)
    there = set(matrix.models)
    copies = {a: b for a, b in quantised.items() if a in there and b in there}
    beyond = at_originals(matrix, copies)
    copies = copies if beyond is not matrix else {}
    matrix = beyond
    layers = layers_at_originals(layers, copies) if layers is not None else None
    order = _order(matrix.models, path)
    squared = squared_distances(matrix)
    if not squared.any():
        n = len(matrix.models)
        who = "both models" if n == 2 else f"all {n} models"
        raise NoAnswerError(
            f"{who} are identical in {printable(matrix.component)}: there is nothing to map",
            "choose another component",
        )
    embedding = classical_mds(squared)
    layout, stress = metric_mds(squared, embedding.coordinates[:, :2])
    walk = find_walk(squared, order)
    test = plane_test(squared, walk)
    mass = float(negative_mass(embedding.eigenvalues))
    figures = None if layers is None else layer_figures(layers, matrix.models, walk)
    evidence = state_evidence(
        matrix,
        walk,
        test,
        negative_mass=mass,
        distinct=distinct_models(squared),
        planarity_error=planarity_error(matrix),
        layers=figures,
        without_layers=without_layers,
    )
    if len(matrix.models) < given:
        evidence = (
            f"{given - len(matrix.models)} of {given} models have no distances that join them to "
            "the others, and are left out.",
            *evidence,
        )
    if copies:
        evidence = (quantised_sentence(copies), *evidence)
    if left_out:
        evidence = (left_out_sentence(left_out, given + len(left_out)), *evidence)
    return MapResult(
        matrix=matrix,
        coordinates=embedding.coordinates,
        metric_coordinates=layout,
        eigenvalues=embedding.eigenvalues,
        stress=stress,
        spread=float(spread(embedding.eigenvalues)),
        negative_mass=mass,
        walk=walk,
        turns=edge_turns(squared, walk),
        test=test,
        layers=figures,
        evidence=evidence,
        left_out=left_out,
        quantised=copies,
    )


def _answerable(matrix: DistanceMatrix, complete: bool) -> DistanceMatrix:
    name = printable(matrix.component)
    n = len(matrix.models)
    if n < 2:
        have = "no model has" if n == 0 else "only one model has"
        raise NoAnswerError(
            f"{have} the component {name}: a map needs at least two", "ingest more models"
        )
    if complete:
        matrix = complete_matrix(matrix)
    gaps = np.argwhere(np.triu(~np.isfinite(matrix.values), 1))
    if len(gaps):
        a, b = (printable(matrix.models[i]) for i in gaps[0])
        raise NoAnswerError(
            f"{len(gaps)} of {n * (n - 1) // 2} pairs have no {matrix.metric} distance for {name}, "
            f"the first is {a} × {b}",
            "run `megasim compare`; networks of other kinds have no keys in common: choose models "
            "with --models, or fill the gaps with --complete",
        )
    if len(matrix.models) < 2:
        raise NoAnswerError(
            f"no two models have a distance for {name}", "run `megasim compare` first"
        )
    return matrix


def _order(models: Sequence[str], path: Sequence[str]) -> list[int]:
    order = places(models, path)
    if len(set(path)) < len(path):
        twice = next(name for i, name in enumerate(path) if name in path[:i])
        raise UsageError(f"the path names {printable(twice)!r} twice", "name each model once")
    if len(path) == 1:
        raise UsageError("a path of one model has no steps", "name two models or more")
    return order
