"""Merges by angles, told from distances and norms of each tensor: slerp and model stock."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from megasim.lineage.inner_products import Floats, gram
from megasim.lineage.recipe_question import MODEL, Question
from megasim.lineage.weight_levels import LevelFit, group_of
from megasim.words import MergeMethod, WeightLevel

# Names of models → model → canonical key → L2 of that tensor.
LayerNorms = Callable[[Sequence[str]], Mapping[str, Mapping[str, float]]]

# mergekit interpolates along the line where the cosine of two tensors is larger than this.
_STRAIGHT = 0.9995
_STEPS = np.linspace(0.0, 1.0, 401)


@dataclass(frozen=True)
class MethodFit:
    """A method other than one weighted sum that explains a model.

    Attributes:
        level, groups: what has shares of its own.
        shares: (G, k) share of each of the k parents in each group; they sum to 1.
        left: the squared distance that it leaves.
        numbers: parameters by name.
    """

    method: MergeMethod
    level: WeightLevel
    groups: tuple[str, ...]
    shares: Floats
    left: float
    numbers: tuple[tuple[str, float], ...] = ()


def slerp_fit(
    question: Question,
    parents: Sequence[int],
    norms: Mapping[str, Mapping[str, float]],
    levels: Sequence[LevelFit],
    noise: float,
) -> MethodFit | None:
    """Return the angles by which two parents were mixed, one tensor after the other.

    Slerp gives α a + β b with α = sin((1 − t) Ω) / sin Ω and β = sin(t Ω) / sin Ω, Ω being the
    angle between the two tensors. α + β is above 1 by about ½ t (1 − t) Ω², so it leaves the line
    between the parents, which shows where norms are known. Between fine-tunes of one base Ω is
    often so small that nothing is left to see, and then it is a weighted sum for all purposes.

    Args:
        norms: model → key → L2 of its tensor.
        levels: of the weighted sum of these parents; the same levels are tried.
        noise: squared distance that is none.
    """
    found = _distances_and_norms(question, parents, norms)
    if found is None:
        return None
    left = slerp_left(*found)
    keyed = list(zip(question.keys, question.key_blocks, question.key_roles, strict=True))
    tried: list[MethodFit] = []
    for level in levels:
        at = {name: i for i, name in enumerate(level.groups)}
        sums = np.zeros((len(level.groups), len(_STEPS)))
        np.add.at(sums, [at[group_of(level.level, *row)] for row in keyed], left)
        t, least = _minima(sums)
        shares = np.stack([1 - t, t], axis=1)
        total = float(np.maximum(least, 0.0).sum())
        tried.append(MethodFit(MergeMethod.SLERP, level.level, level.groups, shares, total))
    best = min(fit.left for fit in tried)
    return next(fit for fit in tried if fit.left <= question.settings.rival * (best + noise))


def is_on_arc(
    question: Question, parents: Sequence[int], norms: Mapping[str, Mapping[str, float]]
) -> bool:
    """Return whether a model rises above the line of two parents as an arc does."""
    found = _distances_and_norms(question, parents, norms)
    if found is None or len(question.keys) < question.settings.fewest_layers:
        return False
    slope, error = arc_slope(*found)
    clear = abs(slope) > question.settings.arc_errors * error
    return bool(clear and abs(slope - 1) <= question.settings.arc_slope)


def arc_parents(
    question: Question, among: Sequence[int], layer_norms: LayerNorms
) -> tuple[int, int] | None:
    """Return the two models on whose arc, at some place in each tensor, a model lies; or None.

    Of several such pairs the one that is farthest apart: all others lie on its arc too.
    """
    if question.layers is None:
        return None
    norms = layer_norms([question.names[i] for i in (MODEL, *among)])
    steps = _STEPS[::10]
    found: list[tuple[float, tuple[int, int]]] = []
    for a, b in combinations(among, 2):
        rows = _distances_and_norms(question, (a, b), norms)
        if rows is None:
            return None
        left = float(np.maximum(_minima(slerp_left(*rows, steps), steps)[1], 0.0).sum())
        nearest = float(min(question.total[MODEL, a], question.total[MODEL, b]))
        most = question.settings.nearly_all * nearest
        if left <= max(question.noise_ceiling(MODEL, (a, b)), most):
            found.append((float(question.total[a, b]), (a, b)))
    return max(found)[1] if found else None


def _distances_and_norms(
    question: Question, parents: Sequence[int], norms: Mapping[str, Mapping[str, float]]
) -> tuple[Floats, Floats] | None:
    """Return (K, 3, 3) squared distances and (K, 3) norms of the model and two parents."""
    if question.layers is None or len(parents) != 2:
        return None
    rows = [MODEL, *parents]
    try:
        sizes = np.array([[norms[question.names[r]][key] for r in rows] for key in question.keys])
    except KeyError:
        return None
    return question.layers[:, rows][:, :, rows], sizes


def slerp_left(squared: Floats, norms: Floats, steps: Floats = _STEPS) -> Floats:
    """Return (K, S) squared distances that slerp by each of S steps leaves in each tensor.

    Args:
        squared: (K, 3, 3) of the model and both parents.
        norms: (K, 3) of the same.
        steps: (S,) shares of the second parent, or (K, S).
    """
    m_a, b_a, m_b = squared[:, 0, 1], squared[:, 1, 2], squared[:, 0, 2]
    m2, a2, b2 = (np.square(norms[:, i]) for i in range(3))
    lengths = norms[:, 1] * norms[:, 2]
    cosine = np.divide((a2 + b2 - b_a) / 2, lengths, out=np.ones(len(norms)), where=lengths > 0)
    straight = np.abs(cosine) > _STRAIGHT
    angle = np.arccos(np.where(straight, 0.0, np.clip(cosine, -1, 1)))[:, None]
    on_arc = np.sin((1 - steps) * angle) / np.sin(angle), np.sin(steps * angle) / np.sin(angle)
    alpha = np.where(straight[:, None], 1 - steps, on_arc[0])
    beta = np.where(straight[:, None], steps, on_arc[1])
    # α a + β b = a + β (b − a) + e a with e = α + β − 1: nothing large cancels.
    excess = alpha + beta - 1
    toward = (m_a + b_a - m_b) / 2  # ⟨m − a, b − a⟩
    radial_m, radial_b = (m2 - a2 - m_a) / 2, (b2 - a2 - b_a) / 2  # ⟨m − a, a⟩, ⟨b − a, a⟩
    return np.asarray(
        m_a[:, None]
        + beta**2 * b_a[:, None]
        + excess**2 * a2[:, None]
        - 2 * beta * toward[:, None]
        - 2 * excess * radial_m[:, None]
        + 2 * beta * excess * radial_b[:, None]
    )


def arc_slope(squared: Floats, norms: Floats) -> tuple[float, float]:
    """Return how much of an arc's rise a model shows, 0 on the line and 1 on it, and the error.

    With m ≈ α a + β b in each tensor, α + β − 1 is by how much the model rises above the line; of
    an arc that is known from the angle and β. Rounding has no direction, so it hides little of
    this, however much more than the rise it is. The slope is that of all tensors together, its
    error that of independent tensors. (NaN, NaN) where there is no angle to see.

    Args:
        squared: (K, 3, 3) of the model and both parents.
        norms: (K, 3) of the same.
    """
    m_a, b_a, m_b = squared[:, 0, 1], squared[:, 1, 2], squared[:, 0, 2]
    m2, a2, b2 = (np.square(norms[:, i]) for i in range(3))
    lengths = norms[:, 1] * norms[:, 2]
    told = (b_a > 0) & (lengths > 0)
    with np.errstate(invalid="ignore", divide="ignore"):
        cosine = (a2 + b2 - b_a) / 2 / lengths
        toward, radial_m, radial_b = (m_a + b_a - m_b) / 2, (m2 - a2 - m_a) / 2, (b2 - a2 - b_a) / 2
        beyond = a2 - radial_b**2 / b_a  # |a|² across the line
        told &= (np.abs(cosine) < _STRAIGHT) & (beyond > 0)
        rise = (radial_m - radial_b * toward / b_a) / beyond
        share = np.clip(toward / b_a, 0.0, 1.0)
        angle = np.arccos(np.clip(cosine, -1, 1))
        arc = (np.sin((1 - share) * angle) + np.sin(share * angle)) / np.sin(angle) - 1
    rise, arc = rise[told], arc[told]
    scale = float(np.square(arc).sum())
    if len(arc) < 2 or scale <= 0:
        return float("nan"), float("nan")
    slope = float((arc * rise).sum() / scale)
    error = float(np.sqrt(np.square(arc * (rise - slope * arc)).sum())) / scale
    return slope, error


def _minima(curves: Floats, steps: Floats = _STEPS) -> tuple[Floats, Floats]:
    """Return where each of (G, S) curves over the steps is least, and how low, by a parabola."""
    at = np.clip(curves.argmin(axis=1), 1, curves.shape[1] - 2)
    rows = np.arange(len(curves))
    before, middle, after = (curves[rows, at + k] for k in (-1, 0, 1))
    bend = before - 2 * middle + after
    shift = np.divide(before - after, 2 * bend, out=np.zeros(len(at)), where=bend > 0)
    shift = np.clip(shift, -1, 1)
    t = steps[at] + shift * (steps[1] - steps[0])
    return np.asarray(t), np.asarray(middle - bend * shift**2 / 2)


def model_stock_fit(question: Question, parents: Sequence[int]) -> MethodFit | None:
    """Return the base and the fine-tunes of which a model is the stock, the better of all bases.

    Model stock (Jang et al., 2024) goes from the base towards the mean of N fine-tunes by
    N cos θ / (1 + (N − 1) cos θ), θ being the mean angle between their changes, in each tensor.
    It has no parameters, so distances by layer say all of it.
    """
    if question.layers is None or len(parents) < 3:
        return None
    best: MethodFit | None = None
    for base in parents:
        others = [p for p in parents if p != base]
        count = len(others)
        products = gram(question.layers[:, [base, MODEL, *others]][:, :, [base, MODEL, *others]], 0)
        inner = products[:, 2:, 2:]
        lengths = np.sqrt(np.einsum("kii->ki", inner))
        sizes = lengths[:, :, None] * lengths[:, None, :]
        cosines = np.divide(inner, sizes, out=np.zeros_like(inner), where=sizes > 0)
        pairs = np.triu_indices(count, 1)
        cosine = cosines[:, pairs[0], pairs[1]].mean(axis=1)
        ratio = count * cosine / (1 + (count - 1) * cosine)
        toward = products[:, 1, 2:].mean(axis=1)
        left = products[:, 1, 1] - 2 * ratio * toward + ratio**2 * inner.mean(axis=(1, 2))
        total = float(np.maximum(left, 0.0).sum())
        shares = np.repeat(ratio[:, None] / count, len(parents), axis=1)
        shares[:, list(parents).index(base)] = 1 - ratio
        if best is None or total < best.left:
            best = MethodFit(
                MergeMethod.MODEL_STOCK, WeightLevel.TENSOR, question.keys, shares, total
            )
    return best
