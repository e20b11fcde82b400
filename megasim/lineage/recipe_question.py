"""What a recipe is sought from: the models that can be compared, and what is noise in them."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
import numpy.typing as npt

from megasim.errors import NoAnswerError, UsageError, printable
from megasim.lineage.inner_products import (
    Floats,
    effective_dimensions,
    require_l2,
    source_of,
    sum_by_block,
)
from megasim.lineage.recipe_search import Candidate
from megasim.lineage.settings import SETTINGS, LineageSettings
from megasim.matrix.distance_matrix import DistanceMatrix, LayerMatrices

# The row of the model asked about; its candidates follow.
MODEL = 0


@dataclass
class Question:
    """Squared distances of the model and its candidates, and what is noise in them.

    Row 0 is the model; layers (K, N, N) and blocks (B, N, N) hold squared distances. The K layers
    have keys, blocks and roles.
    """

    names: tuple[str, ...]
    component: str
    blocks: tuple[str, ...]
    squared: Floats  # (B, N, N)
    layers: Floats | None  # (K, N, N)
    rounding: Floats  # (N,)
    precision: float
    dimensions: float
    source: str
    notes: list[str] = field(default_factory=list)
    settings: LineageSettings = SETTINGS
    keys: tuple[str, ...] = ()
    key_blocks: tuple[str, ...] = ()
    key_roles: tuple[str, ...] = ()

    @cached_property
    def total(self) -> Floats:
        """The (N, N) squared distances of the component."""
        return np.asarray(self.squared.sum(axis=0))

    def noise(self, model: int, parents: Sequence[int]) -> float:
        """Return the squared distance from a weighted sum that is no evidence of anything."""
        named = [model, *parents]
        reach = float(self.total[np.ix_(named, named)].max())
        return float(self.rounding[model] ** 2) + self.precision * reach

    def noise_ceiling(self, model: int, parents: Sequence[int]) -> float:
        """Return the squared distance up to which a weighted sum leaves no more than noise."""
        return self.settings.clear_of_noise * self.noise(model, parents)

    def dependence(self, pool: Collection[int]) -> float:
        """Return the squared distance from the plane of others that is none, among a pool."""
        named = sorted(pool)
        widest = float(self.total[np.ix_(named, named)].max())
        rounding = self.settings.dependent_rounding * self.rounding[named].max() ** 2
        return float(rounding + self.settings.dependent_precision * self.precision * widest)

    def dependence_with(self, sets: npt.NDArray[np.intp]) -> Floats:
        """Return (S, N) the squared distance of each model from the plane of a set that is none.

        As `dependence`, of the set and that model: what others there are changes nothing.

        Args:
            sets: (S, k) places of models.
        """
        settings = self.settings
        within = self.total[sets[:, :, None], sets[:, None, :]].max(axis=(1, 2))
        widest = np.maximum(within[:, None], self.total[sets].max(axis=1))
        rounding = np.maximum(self.rounding[sets].max(axis=1)[:, None], self.rounding)
        return np.asarray(
            settings.dependent_rounding * rounding**2
            + settings.dependent_precision * self.precision * widest
        )

    def unexplained(self, model: int, found: Candidate) -> float:
        """Return the squared distance a set leaves, over that to its nearest parent."""
        nearest = float(self.total[model, list(found.parents)].min())
        return found.residual / nearest if nearest > 0 else float("nan")

    def reach(self, model: int, parents: Sequence[int]) -> float:
        """Return the sum of the distances from a model to its parents."""
        return float(np.sqrt(self.total[model, list(parents)]).sum())


@dataclass(frozen=True)
class ParentCandidates:
    """The models that may be parents of one, and those that are no parents.

    Attributes:
        names: the candidates, nearest first.
        same: models that hold the same weights, or a cast or quantised copy of them.
        notes: what else was left out, a sentence each.
    """

    names: tuple[str, ...]
    same: tuple[str, ...]
    notes: tuple[str, ...]


def comparable(
    matrix: DistanceMatrix,
    model: str,
    norms: Mapping[str, float],
    weight_sets: Mapping[str, str],
    *,
    parents: Sequence[str] | None,
    settings: LineageSettings,
) -> ParentCandidates:
    """Return the models that may be parents of one.

    Models of another scale, or at right angles to it, are not among those that are sought: what
    they are changes nothing of the answer.

    Args:
        norms: model → L2 of its weights, where known.
        weight_sets: model → a name for the set of models with the same weights, where known.
        parents: the only ones to consider.

    Raises:
        NoAnswerError: the model has no distances in this component.
    """
    place = {name: i for i, name in enumerate(matrix.models)}
    from_model = matrix.values[place[model]]
    others = [n for n in matrix.models if n != model and np.isfinite(from_model[place[n]])]
    if not others:
        which = "" if matrix.component == "all" else f"{printable(matrix.component)} "
        raise NoAnswerError(
            f"{printable(model)} has no {which}distances",
            "run `megasim compare`, or use --estimate, which takes the sketches; `megasim models` "
            "names the components it has, and whether it was read in full as the others are",
        )
    notes: list[str] = []

    def is_same(a: str, b: str) -> bool:
        # Two merges of nearly the same ratio are near, too: only hashes tell the same weights.
        alike = a in weight_sets and weight_sets[a] == weight_sets.get(b)
        return alike or bool(matrix.values[place[a], place[b]] == 0)

    same = [n for n in others if is_same(model, n)]
    if same:
        shown = ", ".join(printable(n, 60) for n in same[:5])
        said = "the same weights, cast or quantised at most"
        if any(matrix.sources[place[model], place[n]] == "estimated" for n in same):
            said = "at distance 0 as far as it was read"
        notes.append(f"{said}, no parents: {shown}")
    if parents is None:
        sought = [
            n
            for n in others
            if may_be_parent(norms.get(model), norms.get(n), from_model[place[n]], settings)
        ]
    else:
        sought = [n for n in others if n in parents]
    nearest = sorted((n for n in sought if n not in same), key=lambda n: (from_model[place[n]], n))
    kept: list[str] = []
    kept_at: list[int] = []
    kept_sets: set[str] = set()
    twins = gaps = 0
    for name in nearest:
        to_kept = matrix.values[place[name], kept_at]
        if not np.isfinite(to_kept).all():
            gaps += 1
        elif parents is None and (weight_sets.get(name) in kept_sets or not to_kept.all()):
            twins += 1
        elif len(kept) < settings.pool:
            kept.append(name)
            kept_at.append(place[name])
            kept_sets |= {weight_sets[name]} if name in weight_sets else set()
    if twins:
        notes.append(
            f"{twins} model(s) with the weights of another candidate, cast or quantised at most, "
            "were left out"
        )
    if gaps:
        notes.append(f"{gaps} model(s) lack a distance to a nearer candidate and were left out")
    if len(kept) == settings.pool:
        notes.append(f"parents were sought among the {settings.pool} nearest models")
    return ParentCandidates(tuple(kept), tuple(same), tuple(notes))


def may_be_parent(
    norm: float | None, other: float | None, distance: float, settings: LineageSettings
) -> bool:
    """Return whether a model may be a parent of another, by their norms and distance alone.

    A weighted sum has the scale of its parents, and is not at right angles to any of them.
    Where a norm is not known it may be.
    """
    if norm is None or other is None:
        return True
    if not same_scale(norm, other, settings):
        return False
    cosine = (norm**2 + other**2 - distance**2) / (2 * norm * other)
    return bool(cosine > settings.parent_cosine)


def same_scale(norm: float, other: float, settings: LineageSettings = SETTINGS) -> bool:
    """Return whether two norms are of one scale; nothing is of the scale of 0.

    >>> same_scale(10.0, 12.0), same_scale(10.0, 200.0), same_scale(10.0, 0.0)
    (True, False, False)
    """
    return 0 < max(norm, other) <= settings.same_scale * min(norm, other)


def check_parents(
    matrix: DistanceMatrix, model: str, parents: Sequence[str], same: Sequence[str]
) -> None:
    """Raise unless parents that were named can be asked about.

    Raises:
        UsageError: fewer than two, the model itself, or one that is there twice.
        NoAnswerError: two of them, or the model and one, have no distance.
    """
    if len(parents) < 2:
        raise UsageError("a merge has at least two parents", "name more models with --from")
    for parent in parents:
        if parent == model or parent in same:
            what = "the model itself" if parent == model else "the model under another name"
            raise UsageError(f"{printable(parent)} is {what}", "leave it out of --from")
    part = matrix.subset(list(dict.fromkeys([model, *parents])))
    if len(set(parents)) < len(parents):
        raise UsageError("a parent is named twice", "name each parent once")
    if not part.complete:
        a, b = part.missing_pairs()[0]
        raise NoAnswerError(
            f"{printable(a)} and {printable(b)} have no distance over {matrix.component}",
            "run `megasim compare`, ask with --estimate, or choose a component both have",
        )
    rows, cols = np.nonzero(np.triu(part.values == 0, 1))
    for i, j in zip(rows, cols, strict=True):
        raise UsageError(
            f"{printable(part.models[i])} and {printable(part.models[j])} hold the same "
            f"{matrix.component}: their weights cannot be distinguished",
            "leave one of them out of --from",
        )


def ask(
    matrix: DistanceMatrix,
    model: str,
    names: list[str],
    layers: LayerMatrices | None,
    rounding: Mapping[str, float],
    notes: list[str],
    settings: LineageSettings,
    *,
    by_tensor: bool = False,
) -> Question:
    """Return the stacked squared distances of the model and the candidates.

    Args:
        by_tensor: whether each tensor is a block, in which weights may differ.
    """
    blocks: tuple[str, ...] = ("",)
    by_layer: Floats | None = None
    part: LayerMatrices | None = None
    wanted = [model, *names]
    if layers is not None and model in layers.models:
        require_l2(layers.metric)
        layers = layers.subset([n for n in wanted if n in set(layers.models)])
        place = {n: i for i, n in enumerate(layers.models)}
        compared = np.isfinite(layers.values[:, place[model], :])
        compared[:, place[model]] = False
        # Other families in the store have layers of their own, which say nothing of this model.
        layers = layers.keep(np.asarray(compared.any(axis=1)))
        present = np.isfinite(layers.values[:, place[model], :]).sum(axis=0)
        listed = [n for n in wanted if n in place]
        most = max((present[place[n]] for n in listed[1:]), default=0)
        listed = [
            n
            for n in listed
            if n == model or (most and present[place[n]] >= settings.same_layers * most)
        ]
        at = [place[n] for n in listed]
        values = layers.values[np.ix_(range(len(layers.keys)), at, at)]
        whole = np.asarray(np.isfinite(values.sum(axis=(1, 2))))
        if len(listed) >= 3 and whole.any():
            if len(listed) < len(wanted):
                notes.append(f"{len(wanted) - len(listed)} model(s) lack layers of this one")
            if not whole.all():
                notes.append(f"{int((~whole).sum())} of {len(whole)} layers are not in all models")
            wanted = listed
            part = replace(layers, models=tuple(listed), values=values).keep(whole)
            by_layer = np.square(part.values)
            blocks, squared = (part.keys, by_layer) if by_tensor else sum_by_block(part)
    part_matrix = matrix.subset(wanted)
    if by_layer is None:
        squared = part_matrix.squared()[None]
    source = source_of(part_matrix)
    keys = part_matrix.keys_compared
    dimensions = effective_dimensions(part_matrix)
    if not np.isfinite(dimensions):
        dimensions = float(np.median(keys[keys > 0])) if (keys > 0).any() else float("nan")
    return Question(
        names=tuple(wanted),
        component=matrix.component,
        blocks=blocks,
        squared=squared,
        layers=by_layer,
        rounding=np.array([rounding.get(n, 0.0) for n in wanted]),
        precision=settings.precision[source],
        dimensions=dimensions,
        source=source,
        notes=notes,
        settings=settings,
        keys=part.keys if part else (),
        key_blocks=part.blocks if part else (),
        key_roles=part.roles if part else (),
    )
