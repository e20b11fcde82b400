"""Recipes and base models claimed in metadata or in a file, checked against the weights."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path, PureWindowsPath
from typing import Any

import networkx as nx
import numpy as np

from megasim.checkpoint.strict_json import read_json
from megasim.errors import MegasimError, UsageError, printable
from megasim.lineage.evidence import ModelFacts
from megasim.lineage.recipe import recover_recipe
from megasim.lineage.recipe_result import Recipe
from megasim.lineage.result import Lineage
from megasim.lineage.settings import SETTINGS, LineageSettings
from megasim.matrix.distance_matrix import DistanceMatrix, LayerMatrices
from megasim.words import ClaimVerdict, EdgeKind

LARGEST_FILE = 16 * 2**20
_SUFFIXES = (".safetensors", ".ckpt", ".pt", ".pth", ".bin")


@dataclass(frozen=True)
class Claim:
    """What somebody says a model was made of.

    Attributes:
        parents: names as they are written; of one parent, it is the base.
        weights: as many as parents, or none when they are not stated.
        origin: where it is written.
    """

    model: str
    parents: tuple[str, ...]
    weights: tuple[float, ...]
    origin: str

    def sentence(self) -> str:
        """Return the claim in words."""
        names = [printable(p, 60) for p in self.parents]
        if self.weights:
            names = [f"{w:.4g} × {n}" for w, n in zip(self.weights, names, strict=True)]
        return (
            f"{printable(self.model, 60)} from {' + '.join(names)} ({printable(self.origin, 60)})"
        )


@dataclass(frozen=True)
class CheckedClaim:
    """A claim and what the weights say of it.

    Attributes:
        reason: why, with the numbers.
        recipe: what the claimed parents explain, where that was asked.
    """

    claim: Claim
    verdict: ClaimVerdict
    reason: str
    recipe: Recipe | None = None

    def to_json(self) -> dict[str, object]:
        """Return plain data."""
        return {
            "model": self.claim.model,
            "parents": list(self.claim.parents),
            "weights": list(self.claim.weights),
            "origin": self.claim.origin,
            "verdict": self.verdict,
            "reason": self.reason,
            "recipe": self.recipe.to_json() if self.recipe else None,
        }


def claims_of_metadata(facts: Iterable[ModelFacts]) -> list[Claim]:
    """Return what the metadata of models claims; what cannot be read claims nothing.

    Read are `sd_merge_recipe` with `sd_merge_models` (the stable-diffusion-webui merger),
    `modelspec.merged_from` and `ss_sd_model_name` (the base that a training started from).
    """
    found: list[Claim] = []
    for fact in facts:
        merge = _webui_claim(fact)
        if merge is not None:
            found.append(merge)
        merged_from = fact.metadata.get("modelspec.merged_from")
        if isinstance(merged_from, str):
            parents = tuple(p.strip() for p in merged_from.split(",") if p.strip())
            if len(parents) >= 2:
                found.append(Claim(fact.name, parents, (), "metadata modelspec.merged_from"))
        base = fact.metadata.get("ss_sd_model_name")
        if isinstance(base, str) and base.strip():
            found.append(Claim(fact.name, (base.strip(),), (), "metadata ss_sd_model_name"))
    return found


def _webui_claim(fact: ModelFacts) -> Claim | None:
    recipe = _decoded(fact.metadata.get("sd_merge_recipe"))
    models = _decoded(fact.metadata.get("sd_merge_models"))
    if not isinstance(recipe, dict):
        return None
    parents: list[str] = []
    for role in ("primary", "secondary", "tertiary"):
        key = recipe.get(f"{role}_model_hash")
        if not isinstance(key, str):
            continue
        entry = models.get(key) if isinstance(models, dict) else None
        name = entry.get("name") if isinstance(entry, dict) else None
        parents.append(name if isinstance(name, str) else key)
    method = str(recipe.get("interp_method", ""))
    share = recipe.get("multiplier")
    weights: tuple[float, ...] = ()
    if isinstance(share, int | float) and math.isfinite(share):
        if method == "Weighted sum" and len(parents) >= 2:
            parents, weights = parents[:2], (1 - share, float(share))
        elif method == "Add difference" and len(parents) == 3:
            weights = (1.0, float(share), -float(share))
    if not parents:
        return None
    return Claim(fact.name, tuple(parents), weights, "metadata sd_merge_recipe")


def _decoded(value: object) -> object:
    """Return JSON written as a string as data; any other value as it is; rubbish as None."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value) if len(value) <= LARGEST_FILE else None
    except (ValueError, RecursionError):
        return None


def read_claims(path: Path) -> list[Claim]:
    """Return the claims of a JSON or CSV file.

    JSON is a list of `{"model": …, "parents": [names], "weights": [numbers]}`, or with
    `"parents": {name: weight}`; CSV has the columns model, parents and weights, with ";"
    between names and between numbers. Weights may be left out.

    Raises:
        UsageError: a file that cannot be read as either.
    """
    try:
        if path.suffix.lower() == ".csv":
            if path.stat().st_size > LARGEST_FILE:
                raise ValueError("larger than 16 MiB")
            text = path.read_text(encoding="utf-8-sig")
            rows: list[Mapping[str, Any]] = [
                {
                    "model": row["model"],
                    "parents": [p.strip() for p in row["parents"].split(";")],
                    "weights": [float(w) for w in (row.get("weights") or "").split(";") if w],
                }
                for row in csv.DictReader(text.splitlines())
            ]
        else:
            read = read_json(path)
            if not isinstance(read, list):
                raise ValueError("not a list")
            rows = [row for row in read if isinstance(row, dict)]
            if len(rows) < len(read):
                raise ValueError("not a list of objects")
        return [_claim_of_row(row, path.name) for row in rows]
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UsageError(
            f"{printable(path, 300)} is not a file of claims: {printable(error, 100)}",
            'write a JSON list of {"model", "parents", "weights"}, or a CSV with those columns',
        ) from None


def _claim_of_row(row: Mapping[str, Any], origin: str) -> Claim:
    model, parents, weights = row["model"], row["parents"], row.get("weights") or []
    if isinstance(parents, dict):
        weights, parents = list(parents.values()), list(parents)
    if not isinstance(model, str) or not isinstance(parents, list) or not parents:
        raise ValueError("a claim needs a model and its parents")
    if not isinstance(weights, list) or len(weights) not in (0, len(parents)):
        raise ValueError("a claim has as many weights as parents, or none")
    numbers = tuple(float(w) for w in weights)
    if not all(math.isfinite(w) for w in numbers):
        raise ValueError("a weight is a finite number")
    return Claim(model, tuple(str(p) for p in parents), numbers, origin)


def resolve_name(written: str, models: Sequence[str]) -> str | None:
    """Return the model that a written name means: the same name, or the same without its
    folder and file ending and case. None when no model or more than one is meant.

    >>> resolve_name("models\\\\SD_v1-4.ckpt", ["sd_v1-4", "other"])
    'sd_v1-4'
    """
    if written in models:
        return written
    meant = [m for m in models if _stem(m) == _stem(written)]
    return meant[0] if len(meant) == 1 else None


def _stem(name: str) -> str:
    last = PureWindowsPath(name).name.strip().lower()
    for suffix in _SUFFIXES:
        last = last.removesuffix(suffix)
    return last


def check_claims(
    claims: Iterable[Claim],
    matrix: DistanceMatrix,
    *,
    layers: LayerMatrices | None = None,
    rounding: Mapping[str, float] | None = None,
    lineage: Lineage | None = None,
    settings: LineageSettings = SETTINGS,
) -> list[CheckedClaim]:
    """Return each claim with what the weights say of it.

    A merge is confirmed when the claimed parents explain the model and the weights found are
    within the tolerance of the settings, or three standard errors, of those claimed;
    contradicted when they explain it by other weights, or leave half of it or more. A base is
    confirmed when the lineage leads from it to the model, contradicted when it is of another
    family or leads the other way.

    Args:
        lineage: needed for claims of a base; without it those are not decidable.
    """
    graph = lineage.to_graph() if lineage else None
    checked: list[CheckedClaim] = []
    for claim in claims:
        names = {n: resolve_name(n, matrix.models) for n in (claim.model, *claim.parents)}
        absent = [printable(n, 60) for n, m in names.items() if m is None]
        if absent:
            reason = f"not among the models: {', '.join(absent)}"
            checked.append(CheckedClaim(claim, ClaimVerdict.UNDECIDED, reason))
            continue
        model, *parents = (str(names[n]) for n in (claim.model, *claim.parents))
        if len(parents) == 1:
            verdict, reason = _check_base(model, parents[0], lineage, graph)
            checked.append(CheckedClaim(claim, verdict, reason))
            continue
        try:
            recipe = recover_recipe(
                matrix,
                model,
                parents=parents,
                layers=layers,
                rounding=rounding,
                settings=settings,
            )
        except MegasimError as error:
            checked.append(CheckedClaim(claim, ClaimVerdict.UNDECIDED, error.message))
            continue
        wanted = dict(zip(parents, claim.weights, strict=True)) if claim.weights else None
        verdict, reason = _check_weights(recipe, wanted, settings)
        checked.append(CheckedClaim(claim, verdict, reason, recipe))
    return checked


def _check_weights(
    recipe: Recipe, wanted: Mapping[str, float] | None, settings: LineageSettings
) -> tuple[ClaimVerdict, str]:
    if not recipe.claimed:
        verdict = (
            ClaimVerdict.CONTRADICTED
            if recipe.unexplained >= settings.contradicted
            else ClaimVerdict.UNDECIDED
        )
        return verdict, f"the parents leave {100 * recipe.unexplained:.3g} % unexplained"
    off: list[str] = []
    for parent in recipe.parents:
        error = 0.0 if np.isnan(parent.error) else 3 * parent.error
        found = f"{printable(parent.model, 60)}: found {parent.weight:.4g} ± {error / 3:.2g}"
        if wanted is None:
            if abs(parent.weight) <= max(0.01, error):
                off.append(f"{found}, which is not a share")
        elif abs(parent.weight - wanted[parent.model]) > max(settings.claim_tolerance, error):
            off.append(f"{found}, claimed {wanted[parent.model]:.4g}")
    if off:
        return ClaimVerdict.CONTRADICTED, "; ".join(off)
    return ClaimVerdict.CONFIRMED, recipe.sentence()


def _check_base(
    model: str, base: str, lineage: Lineage | None, graph: nx.DiGraph[str] | None
) -> tuple[ClaimVerdict, str]:
    if lineage is None or graph is None or model not in graph or base not in graph:
        return ClaimVerdict.UNDECIDED, "no lineage to check it against"
    if model == base:
        return ClaimVerdict.UNDECIDED, "the claimed base is the model itself"
    graph, stands_for = _joined(graph)
    model, base = stands_for[model], stands_for[base]
    if model == base:
        return (
            ClaimVerdict.UNDECIDED,
            f"both hold the same {lineage.component}, which does not show which came first",
        )
    if graph.nodes[model]["family"] != graph.nodes[base]["family"]:
        return ClaimVerdict.CONTRADICTED, "the two are of unrelated families"
    for start, end, verdict, words in (
        (base, model, ClaimVerdict.CONFIRMED, "the lineage leads from it to the model"),
        (model, base, ClaimVerdict.CONTRADICTED, "the lineage leads from the model to it"),
    ):
        if nx.has_path(graph, start, end):
            path = nx.shortest_path(graph, start, end)
            steps = [graph.edges[a, b] for a, b in pairwise(path)]
            least = min(step["confidence"] for step in steps)
            shown = " → ".join(printable(n, 60) for n in path)
            if all(step["decided"] for step in steps):
                return verdict, f"{words}: {shown} (confidence {least:.2f})"
            return ClaimVerdict.UNDECIDED, f"related, the direction undecided: {shown}"
    path = nx.shortest_path(graph.to_undirected(as_view=True), base, model)
    steps = [graph.get_edge_data(a, b) or graph.edges[b, a] for a, b in pairwise(path)]
    words = "both came from other models of their family, neither from the other"
    if all(step["decided"] for step in steps):
        return ClaimVerdict.CONTRADICTED, words
    return ClaimVerdict.UNDECIDED, f"{words}, as far as directions are decided"


def _joined(graph: nx.DiGraph[str]) -> tuple[nx.DiGraph[str], dict[str, str]]:
    """Return the lineage with models of the same weights as one, and model → which stands for it.

    A model was trained from weights, not from a file of them.
    """
    alike: nx.Graph[str] = nx.Graph()
    alike.add_nodes_from(graph)
    alike.add_edges_from(
        (a, b) for a, b, e in graph.edges.data() if EdgeKind(e["kind"]).same_weights
    )
    stands_for: dict[str, str] = {}
    for models in nx.connected_components(alike):
        first = min(models, key=lambda m: (any(p in models for p in graph.predecessors(m)), m))
        stands_for.update(dict.fromkeys(models, first))
    return nx.relabel_nodes(graph, stands_for), stands_for
