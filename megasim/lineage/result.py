"""The history of models: families and the steps between them, in words, as data, as a graph."""

from __future__ import annotations

from dataclasses import dataclass

import networkx as nx
import numpy as np

from megasim.errors import printable
from megasim.lineage.evidence import Evidence
from megasim.lineage.recipe_result import Recipe
from megasim.lineage.settings import SETTINGS
from megasim.wording.sentences import counted, number_or_none
from megasim.words import EdgeKind


@dataclass(frozen=True)
class RivalEdge:
    """Another step that could stand in the place of one that was drawn.

    Attributes:
        parent, child: as the tree would have them.
        probability: of this step, among all that would join the same two parts of the tree.
    """

    parent: str
    child: str
    probability: float

    def sentence(self) -> str:
        """Return the rival in words."""
        return f"{printable(self.parent, 80)} — {printable(self.child, 80)} {self.probability:.2f}"

    def to_json(self) -> dict[str, object]:
        """Return plain data."""
        return {
            "parent": self.parent,
            "child": self.child,
            "probability": round(self.probability, 4),
        }


@dataclass(frozen=True)
class Edge:
    """One step of the history.

    Attributes:
        parent, child: in the likelier direction.
        length: L2 over the component.
        weight: the parent's share, for a merge; NaN otherwise.
        confidence: the probability of the direction; for a merge the share of it explained.
        decided: whether the evidence decides the direction.
        evidence: the named pieces, `log_odds` positive for the direction as drawn.
        edge_confidence: the probability that the two stand next to each other, whichever came
            first; NaN where that is not in question, as for copies and merges.
        rivals: the likeliest steps that could stand in its place.
    """

    parent: str
    child: str
    kind: EdgeKind
    length: float
    weight: float
    confidence: float
    decided: bool
    evidence: tuple[Evidence, ...]
    edge_confidence: float = float("nan")
    rivals: tuple[RivalEdge, ...] = ()

    @property
    def edge_decided(self) -> bool:
        """Whether the evidence decides that the two stand next to each other."""
        return not self.edge_confidence < SETTINGS.edge_decided

    def sentence(self) -> str:
        """Return the edge in words."""
        arrow = "→" if self.decided else "—"
        reasons = "; ".join(f"{e.name}: {e.text}" for e in self.evidence)
        share = "" if np.isnan(self.weight) else f" × {self.weight:.3g}"
        stands = "" if np.isnan(self.edge_confidence) else f", edge {self.edge_confidence:.2f}"
        stands += "" if self.edge_decided else " undecided"
        stands += "".join(f", or {rival.sentence()}" for rival in self.rivals)
        return (
            f"{printable(self.parent, 80)}{share} {arrow} {printable(self.child, 80)} "
            f"({self.kind}, length {self.length:.4g}, confidence {self.confidence:.2f}{stands})"
            + (f": {reasons}" if reasons else "")
        )

    def to_json(self) -> dict[str, object]:
        """Return plain data; NaN becomes None."""
        return {
            "parent": self.parent,
            "child": self.child,
            "kind": self.kind,
            "length": number_or_none(self.length),
            "weight": number_or_none(self.weight),
            "confidence": self.confidence,
            "decided": self.decided,
            "edge_confidence": number_or_none(self.edge_confidence),
            "edge_decided": self.edge_decided,
            "rivals": [rival.to_json() for rival in self.rivals],
            "evidence": [e.to_json() for e in self.evidence],
        }


@dataclass(frozen=True)
class Family:
    """Models related to each other and to no other.

    Attributes:
        models: sorted by name.
        root: the base from which all edges lead in their likelier direction.
        root_probability: how likely all the others here came from it.
    """

    models: tuple[str, ...]
    root: str
    root_probability: float

    def to_json(self) -> dict[str, object]:
        """Return plain data."""
        return {
            "models": list(self.models),
            "root": self.root,
            "root_probability": self.root_probability,
        }


@dataclass(frozen=True)
class Lineage:
    """The history of all models of a matrix, as far as the evidence goes.

    Attributes:
        families: largest first.
        edges: of all families; a model that is not the root of its family has one edge into
            it, a merge has one from each parent.
        recipes: of the models that are merges.
        uncompared: models compared with no other: nothing is known of their descent.
    """

    component: str
    source: str
    families: tuple[Family, ...]
    edges: tuple[Edge, ...]
    recipes: tuple[Recipe, ...]
    notes: tuple[str, ...]
    uncompared: tuple[str, ...] = ()

    def __repr__(self) -> str:
        count = sum(len(family.models) for family in self.families)
        what = f"{printable(self.component)} of {count} models"
        count = sum(len(family.models) > 1 for family in self.families)
        families = counted(count, "family").replace("familys", "families")
        return f"<lineage, {what}: {counted(len(self.edges), 'step')} in {families}>"

    @property
    def unrelated(self) -> tuple[str, ...]:
        """The models that were compared with others and are related to none, by name."""
        alone = (f.root for f in self.families if len(f.models) == 1)
        return tuple(m for m in alone if m not in self.uncompared)

    def to_json(self) -> dict[str, object]:
        """Return plain data, ready for `json.dumps(…, allow_nan=False)`."""
        return {
            "component": self.component,
            "source": self.source,
            "families": [f.to_json() for f in self.families],
            "edges": [e.to_json() for e in self.edges],
            "recipes": [r.to_json() for r in self.recipes],
            "uncompared": list(self.uncompared),
            "notes": list(self.notes),
        }

    def to_graph(self) -> nx.DiGraph[str]:
        """Return a directed graph: nodes with `family` and `base`, edges with all but evidence.

        An undecided edge is drawn one way too; its attribute `decided` tells.
        """
        graph: nx.DiGraph[str] = nx.DiGraph(component=self.component)
        for number, family in enumerate(self.families):
            for model in family.models:
                graph.add_node(model, family=number, base=model == family.root)
        for edge in self.edges:
            graph.add_edge(
                edge.parent,
                edge.child,
                kind=str(edge.kind),
                length=edge.length,
                weight=edge.weight,
                confidence=edge.confidence,
                decided=edge.decided,
                evidence="; ".join(f"{e.name}: {e.text}" for e in edge.evidence),
            )
        return graph
