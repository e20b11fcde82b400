"""Merges that mix each element by a formula of its own: train-difference and its like.

sd-mecha and SuperMerger have methods that are no sum of whole tensors, but a formula of the
elements of two or three models with one number α for all. With the exact elements there, each is
tried on the nearest models: α follows from each element by itself, and only of the true formula and
models these agree. The formulas are those of sd-mecha 1.1.8 (`merge_methods/linear.py` and
`limiting.py`), which computes them in float32.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import permutations

import numpy as np

from megasim.compare.elements import KeyElements
from megasim.lineage.inner_products import Floats
from megasim.lineage.settings import SETTINGS, LineageSettings
from megasim.lineage.sparse_atoms import densest, step_of
from megasim.words import MergeMethod

# Elements that formulas are tried on, before those that fit are tried on all that were read.
_FEW = 2_000
# α within this of each other may be one.
_WIDTH = 0.01
# So many elements must say what α is.
_FEWEST_ASKED = 30
_MOST_ALPHA = 2.0
# float32 numbers in a formula: relative error of the sum of what goes in.
_FLOAT32 = 2.0**-21


@dataclass(frozen=True)
class FormulaFit:
    """A formula that explains a model.

    Attributes:
        models: places of A and B, and of C where there is one, among the models asked about.
        alpha: its number.
        explained, by_chance: share of elements that follow exactly, and how many would by chance.
        unexplained: squared distance left over that from the nearest of these models.
    """

    method: MergeMethod
    models: tuple[int, ...]
    alpha: float
    explained: float
    by_chance: float
    unexplained: float


@dataclass(frozen=True)
class _Formula:
    """A way to make an element m out of a, b and c.

    Attributes:
        made: of a, b, c and α.
        alphas: what α each element asks for; NaN where it says nothing.
    """

    method: MergeMethod
    made: Callable[[Floats, Floats, Floats, float], Floats]
    alphas: Callable[[Floats, Floats, Floats, Floats], Floats]
    needs_c: bool = True


def _along(mask: Callable[[Floats, Floats, Floats], Floats], method: MergeMethod) -> _Formula:
    """Return the formula m = a + α mask (b − c)."""

    def made(a: Floats, b: Floats, c: Floats, alpha: float) -> Floats:
        return np.asarray(a + alpha * mask(a, b, c) * (b - c))

    def alphas(m: Floats, a: Floats, b: Floats, c: Floats) -> Floats:
        return np.asarray((m - a) / (mask(a, b, c) * (b - c)))

    return _Formula(method, made, alphas)


def _train_difference(a: Floats, b: Floats, c: Floats) -> Floats:
    away = np.abs(b - a)
    return np.asarray(1.8 * np.nan_to_num(away / (away + np.abs(b - c))))


def _opposite(a: Floats, b: Floats, c: Floats) -> Floats:
    away = np.abs(a - b)
    return np.asarray(2 * np.nan_to_num(away / (away + np.abs(a + b - 2 * c))))


def _strict_opposite(a: Floats, b: Floats, c: Floats) -> Floats:
    larger = np.maximum(np.abs(a - c), np.abs(b - c))
    return np.asarray(2 * np.maximum(np.nan_to_num((c - a) * (b - c) / larger**2), 0))


def _clamped(a: Floats, b: Floats, c: Floats, alpha: float) -> Floats:
    return np.asarray(np.clip(a + alpha * (b - c), np.minimum(a, b), np.maximum(a, b)))


def _clamped_alphas(m: Floats, a: Floats, b: Floats, c: Floats) -> Floats:
    return np.asarray(np.where((m == a) | (m == b), np.nan, (m - a) / (b - c)))


def _geometric(a: Floats, b: Floats, c: Floats, alpha: float) -> Floats:
    # of numbers of different signs the real part of a complex power
    size = np.abs(a) ** (1 - alpha) * np.abs(b) ** alpha
    turn = (1 - alpha) * np.where(a < 0, np.pi, 0) + alpha * np.where(b < 0, np.pi, 0)
    return np.asarray(size * np.cos(turn))


def _geometric_alphas(m: Floats, a: Floats, b: Floats, c: Floats) -> Floats:
    alike = (np.sign(a) == np.sign(b)) & (np.sign(m) == np.sign(a))
    return np.asarray(np.where(alike, np.log(np.abs(m / a)) / np.log(np.abs(b / a)), np.nan))


def _quotient_share(a: Floats, b: Floats, c: Floats) -> Floats:
    of_a, of_b = np.log(np.abs(a / c)), np.log(np.abs(b / c))
    larger = np.maximum(np.abs(of_a), np.abs(of_b))
    return np.asarray(np.maximum(-np.nan_to_num(of_a * of_b / larger**2), 0))


def _quotient(a: Floats, b: Floats, c: Floats, alpha: float) -> Floats:
    share = alpha * _quotient_share(a, b, c)
    turn = share * np.where(b * c < 0, np.pi, 0)
    return np.asarray(np.nan_to_num(a * np.abs(b / c) ** share * np.cos(turn)))


def _quotient_alphas(m: Floats, a: Floats, b: Floats, c: Floats) -> Floats:
    alike = (b * c > 0) & (m * a > 0)
    power = _quotient_share(a, b, c) * np.log(np.abs(b / c))
    return np.asarray(np.where(alike, np.log(np.abs(m / a)) / power, np.nan))


_FORMULAS = (
    _along(_train_difference, MergeMethod.TRAIN_DIFFERENCE),
    _along(_opposite, MergeMethod.ADD_OPPOSITE),
    _along(_strict_opposite, MergeMethod.ADD_STRICT_OPPOSITE),
    _Formula(MergeMethod.CLAMPED_DIFFERENCE, _clamped, _clamped_alphas),
    _Formula(MergeMethod.MULTIPLY_QUOTIENT, _quotient, _quotient_alphas),
    _Formula(MergeMethod.GEOMETRIC_SUM, _geometric, _geometric_alphas, needs_c=False),
)


def formula_fit(
    sample: Sequence[KeyElements], bases: Sequence[int], settings: LineageSettings = SETTINGS
) -> FormulaFit | None:
    """Return the formula that made the first of some models of others, or None.

    Args:
        sample: exact elements of N models.
        bases: which of them may be the C of a formula.
    """
    if not sample:
        return None
    values = np.concatenate([key.values for key in sample], axis=1)
    half_step = np.concatenate([step_of(key.values[0], key.dtypes[0]) / 2 for key in sample])
    few = slice(None, None, max(1, values.shape[1] // _FEW))
    others = range(1, len(values))
    first_look = replace(settings, fewest_elements=settings.fewest_elements // 10)
    with np.errstate(all="ignore"):
        for formula in _FORMULAS:
            for c in bases if formula.needs_c else [0]:
                for a, b in permutations([i for i in others if i != c], 2):
                    at = (a, b, c) if formula.needs_c else (a, b)
                    first = _fit(formula, values[:, few], half_step[few], at, first_look)
                    if first is not None:
                        found = _fit(formula, values, half_step, at, settings)
                        if found is not None:
                            return found
    return None


def _fit(
    formula: _Formula,
    values: Floats,
    half_step: Floats,
    at: tuple[int, ...],
    settings: LineageSettings,
) -> FormulaFit | None:
    m, a, b = values[0], values[at[0]], values[at[1]]
    c = values[at[2]] if formula.needs_c else np.zeros_like(a)
    slack = 1.05 * half_step + _FLOAT32 * (np.abs(a) + np.abs(b) + np.abs(c))
    tells = np.maximum(np.abs(m - a), np.abs(a - b)) > 8 * slack
    if int(tells.sum()) < settings.fewest_elements:
        return None
    asked = formula.alphas(m[tells], a[tells], b[tells], c[tells])
    asked = asked[np.isfinite(asked) & (asked > 0) & (asked < _MOST_ALPHA)]
    if len(asked) < _FEWEST_ASKED:
        return None
    alpha, right = 0.0, 0.0
    for tried in _alphas(asked):
        made = formula.made(a, b, c, tried)
        share = float((np.abs(made - m) <= slack)[tells].mean())
        if share > right:
            alpha, right = tried, share
    made = formula.made(a, b, c, alpha)
    if right < settings.exactly:
        return None
    # of an edited copy nearly all elements are the very ones of a model, which no formula made
    own = tells & (np.abs(values[list(at)] - m) > slack).all(axis=0)
    if int(own.sum()) < settings.fewest_elements:
        return None
    if float((np.abs(made - m) <= slack)[own].mean()) < settings.exactly:
        return None
    by_chance = float((np.abs(np.roll(made - a, 1) + a - m) <= slack)[tells].mean())
    if right - by_chance < settings.beyond_chance * (1 - by_chance):
        return None
    near = min(float(np.square(m - values[i]).sum()) for i in at)
    if _left_by_a_sum(m, [values[i] for i in at]) < settings.nearly_all * near:
        return None  # where models lie on a line, a formula says no more than weights do
    left = float(np.square(made - m).sum()) / near
    return FormulaFit(formula.method, at, alpha, right, by_chance, left)


def _left_by_a_sum(m: Floats, models: Sequence[Floats]) -> float:
    """Return the squared distance that the best weighted sum of models leaves."""
    changes = np.stack([model - models[0] for model in models[1:]], axis=1)
    wanted = m - models[0]
    weights = np.linalg.lstsq(changes, wanted, rcond=None)[0]
    return float(np.square(wanted - changes @ weights).sum())


def _alphas(asked: Floats) -> list[float]:
    """Return what α may be: as people write it first, where rounding hides what it is.

    >>> _alphas(np.array([0.703, 0.7021, 0.25]))
    [0.7, 0.7026, 0.7021]
    """
    found = densest(asked, _WIDTH), float(np.median(asked))
    written = [round(alpha, digits) for digits in (1, 2) for alpha in found]
    return [alpha for alpha in dict.fromkeys([*written, *(round(a, 4) for a in found)]) if alpha]
