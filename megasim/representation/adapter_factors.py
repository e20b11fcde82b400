"""Factors of an adapter → the change that they make to one weight, alone or together with it.

Sources: E. Hu et al., arXiv:2106.09685 (LoRA); N. Hyeon-Woo et al., arXiv:2108.06098 (the product
of LoHa); S.-Y. Yeh et al., arXiv:2309.14859 (LyCORIS: LoCon, LoHa, LoKr); S.-Y. Liu et al.,
arXiv:2402.09353 (DoRA); Z. Qiu et al., arXiv:2306.07280 (OFT); W. Liu et al., arXiv:2311.06243
(BOFT). As lycoris-lora 4.1 and peft 0.21 compute them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from megasim.checkpoint.adapter_keys import AdapterKind, AdapterLayer
from megasim.representation.adapter_changes import (
    BadFactors,
    Change,
    Doubles,
    HadamardChange,
    KroneckerChange,
    LowRankChange,
    ScaledChange,
    Shape,
    WholeChange,
    check_fit,
)

# Factors of a few bytes may stand for a change without end.
LARGEST_CHANGE = 1 << 33


@dataclass(frozen=True, eq=False)
class LayerChange:
    """What the factors of one layer come to.

    Attributes:
        change: the change at strength 1; None where it depends on the weight: see `change_of`.
        shape: of the weight; of a convolution all four sizes. Where it depends on the weight, the
            rows alone.
        rank: as the factors are wide; 0 where they are no factors.
        scale: what the file multiplies the product by (alpha / rank), within `change`.
        alpha: as the file says it; None where it does not.
        factors: the values, by role.
    """

    layer: AdapterLayer
    change: Change | None
    shape: Shape
    rank: int
    scale: float
    alpha: float | None
    factors: Mapping[str, Doubles]


def layer_change(
    layer: AdapterLayer,
    factors: Mapping[str, Doubles],
    alpha: float | None = None,
    is_root_scaled: bool = False,
) -> LayerChange:
    """Return the change of one layer out of the values of its factors.

    Args:
        factors: by role, each of the shape that it has in the file.
        alpha: where the file itself has none: what its settings say.
        is_root_scaled: whether the strength is alpha / √rank (rank-stabilised LoRA).

    Raises:
        BadFactors: they do not fit each other.
    """
    if "alpha" in factors:
        if factors["alpha"].size != 1:
            raise BadFactors("alpha is more than one number")
        alpha = float(factors["alpha"].reshape(-1)[0])
    if alpha is not None and not math.isfinite(alpha):
        raise BadFactors("alpha is no number")
    if not all(np.isfinite(values).all() for values in factors.values()):
        raise BadFactors("NaN or infinite factors")
    made = _MAKERS[layer.kind](factors)
    if math.prod(made.shape) > LARGEST_CHANGE:
        raise BadFactors("a change of more elements than any weight has")
    rank = made.rank
    scale = 1.0
    # kohya's scripts take an alpha of 0 for "not set"
    if alpha and rank and made.is_scaled:
        scale = alpha / (math.sqrt(rank) if is_root_scaled else rank)
    change = made.change
    if isinstance(change, LowRankChange):
        change = replace(change, up=change.up * scale)
    elif change is not None and scale != 1:
        change = ScaledChange(change, scale)
    return LayerChange(layer, change, made.shape, rank, scale, alpha, factors)


@dataclass(frozen=True, eq=False)
class _Made:
    change: Change | None
    shape: Shape
    rank: int = 0
    is_scaled: bool = True


def _lora(factors: Mapping[str, Doubles]) -> _Made:
    if "embedding_up" in factors:  # the table itself is (tokens, width): the transpose
        up, down = factors["embedding_down"].T, factors["embedding_up"].T
        check_fit(up.ndim == 2 and down.ndim == 2 and up.shape[1] == down.shape[0], "up and down")
        return _Made(LowRankChange(up, down), (up.shape[0], down.shape[1]), up.shape[1])
    if "turned_up" in factors:
        up, down = factors["turned_up"].T, factors["turned_down"].T
    else:
        up, down = factors["up"], factors["down"]
    check_fit(up.ndim >= 2 and down.ndim >= 2, "up and down have fewer than two dimensions")
    rank = down.shape[0]
    matrix = up.reshape(up.shape[0], -1)
    if "mid" in factors:  # (r, r, …): up and down are 1×1 convolutions
        mid = factors["mid"]
        flat = down.reshape(rank, -1)
        check_fit(mid.ndim >= 2 and mid.shape[1] == rank, "mid and down")
        check_fit(matrix.shape[1] == mid.shape[0], "up and mid")
        check_fit(math.prod(down.shape[2:]) == 1, "down of a Tucker decomposition is no 1×1 kernel")
        inner = np.einsum("oi...,ij->oj...", mid, flat)
        shape = (up.shape[0], down.shape[1], *mid.shape[2:])
        return _Made(LowRankChange(matrix, inner.reshape(len(inner), -1)), shape, rank)
    check_fit(matrix.shape[1] == rank, "up and down")
    shape = (up.shape[0], *down.shape[1:])
    return _Made(LowRankChange(matrix, down.reshape(rank, -1)), shape, rank)


def _loha(factors: Mapping[str, Doubles]) -> _Made:
    pairs: list[LowRankChange] = []
    shape: Shape = ()
    for i in (1, 2):
        up, down = factors[f"w{i}_a"], factors[f"w{i}_b"]
        check_fit(up.ndim == 2 and down.ndim == 2, f"w{i}_a and w{i}_b are no matrices")
        if (core := factors.get(f"t{i}")) is not None:  # (r, r, kernel): w_a is (r, rows) then
            check_fit(core.ndim > 2 and core.shape[:2] == (len(up), len(down)), f"t{i}")
            inner = np.einsum("ij...,jr->ir...", core, down)
            shape = (up.shape[1], down.shape[1], *core.shape[2:])
            up, down = up.T, inner.reshape(len(inner), -1)
        else:
            shape = (up.shape[0], down.shape[1])
        check_fit(up.shape[1] == down.shape[0], f"w{i}_a and w{i}_b")
        pairs.append(LowRankChange(up, down))
    first, second = pairs
    check_fit((first.rows, first.columns) == (second.rows, second.columns), "w1 and w2")
    return _Made(HadamardChange(first, second), shape, factors["w1_b"].shape[0])


def _lokr(factors: Mapping[str, Doubles]) -> _Made:
    rank = 0
    wholes: list[Doubles] = []
    for i in (1, 2):
        if (whole := factors.get(f"lokr_w{i}")) is None:
            left, right = factors[f"lokr_w{i}_a"], factors[f"lokr_w{i}_b"]
            if (core := factors.get(f"lokr_t{i}")) is not None:
                check_fit(core.ndim > 2 and core.shape[:2] == (len(left), len(right)), f"t{i}")
                whole = np.einsum("ij...,jr,ip->pr...", core, right, left)
            else:
                flat = right.reshape(right.shape[0], -1)
                check_fit(left.ndim == 2 and left.shape[1] == len(flat), f"w{i}_a and w{i}_b")
                whole = (left @ flat).reshape(left.shape[0], *right.shape[1:])
            rank = right.shape[0]
        wholes.append(whole)
    first, second = wholes
    check_fit(first.ndim == 2 and second.ndim >= 2, "w1 and w2")
    shape = (
        first.shape[0] * second.shape[0],
        first.shape[1] * second.shape[1],
        *second.shape[2:],
    )
    flat = second.reshape(*second.shape[:2], -1)
    return _Made(KroneckerChange(first, flat), shape, rank)


def _difference(factors: Mapping[str, Doubles]) -> _Made:
    values = factors["diff"]
    return _Made(
        WholeChange(values.reshape(len(values) if values.ndim else 1, -1)),
        values.shape,
        is_scaled=False,
    )


def _rotation(factors: Mapping[str, Doubles]) -> _Made:
    blocks = factors["oft_blocks"]
    check_fit(blocks.shape[-1] == blocks.shape[-2], "oft_blocks are not square")
    return _Made(None, (blocks.shape[-3] * blocks.shape[-1],), blocks.shape[-1], is_scaled=False)


def _unknown(factors: Mapping[str, Doubles]) -> _Made:
    raise BadFactors("not computed")


_MAKERS = {
    AdapterKind.LORA: _lora,
    AdapterKind.LOHA: _loha,
    AdapterKind.LOKR: _lokr,
    AdapterKind.DIFFERENCE: _difference,
    AdapterKind.OFT: _rotation,
    AdapterKind.BOFT: _rotation,
    AdapterKind.UNKNOWN: _unknown,
}


# Changes that depend on the weight


def change_of(made: LayerChange, weight: Doubles) -> Change:
    """Return the change that a layer makes to a weight, a matrix of (rows, columns).

    Raises:
        BadFactors: it cannot be one of this weight.
    """
    if not made.layer.needs_base:
        assert made.change is not None
        return made.change
    if made.layer.kind is AdapterKind.OFT:
        return WholeChange(_rotated(made, weight) - weight)
    if made.layer.kind is AdapterKind.BOFT:
        return WholeChange(_rotated_in_stages(made, weight) - weight)
    assert made.change is not None
    return WholeChange(_decomposed(made, weight) - weight)


def _decomposed(made: LayerChange, weight: Doubles) -> Doubles:
    """m · (W + ΔW) / ‖W + ΔW‖, the norms over each row, or over each column as older files have."""
    assert made.change is not None
    if (made.change.rows, made.change.columns) != weight.shape:
        raise BadFactors("the factors do not fit the weight")
    changed = weight + made.change.block(0, made.change.rows)
    of_rows = "row_magnitude" in made.factors
    magnitude = made.factors["row_magnitude" if of_rows else "magnitude"]
    if magnitude.size == len(weight) and (of_rows or magnitude.shape[:1] != (1,)):
        norms = np.linalg.norm(changed, axis=1, keepdims=True)
        lengths = magnitude.reshape(-1, 1)
    else:  # over the columns of a matrix, over the input channels of a convolution
        kernel = weight.shape[1] // max(magnitude.size, 1)
        check_fit(kernel * magnitude.size == weight.shape[1] and kernel > 0, "magnitude and weight")
        cube = changed.reshape(len(weight), magnitude.size, kernel)
        norms = np.repeat(np.sqrt((cube**2).sum(axis=(0, 2))), kernel)[None]
        lengths = np.repeat(magnitude.reshape(-1), kernel)[None]
    result: Doubles = changed * (lengths / np.maximum(norms, np.finfo(np.float64).tiny))
    return result


def _cayley(made: LayerChange, rows: int) -> Doubles:
    """The rotations (I + Q)(I − Q)⁻¹ of the skew parts Q of the blocks.

    What a file calls alpha is a bound on ‖Q‖, times the rows of the weight; 0 for none.
    """
    blocks = made.factors["oft_blocks"]
    skew = blocks - blocks.swapaxes(-1, -2)
    bound = (made.alpha or 0.0) * rows
    norm = float(np.linalg.norm(skew)) + 1e-8
    if 0 < bound < norm:
        skew = skew * (bound / norm)
    eye = np.eye(blocks.shape[-1])
    rotation: Doubles = (eye + skew) @ np.linalg.inv(eye - skew)
    return rotation


def _rescaled(made: LayerChange, rotated: Doubles) -> Doubles:
    rescale = made.factors.get("rescale")
    if rescale is None:
        return rotated
    check_fit(rescale.size == len(rotated), "rescale and weight")
    return rotated * rescale.reshape(-1, 1)


def _rotated(made: LayerChange, weight: Doubles) -> Doubles:
    count, size = made.factors["oft_blocks"].shape[:2]
    check_fit(count * size == len(weight), "oft_blocks and weight")
    parts = weight.reshape(count, size, -1)
    rotated = np.einsum("knm,knc->kmc", _cayley(made, len(weight)), parts)
    return _rescaled(made, rotated.reshape(weight.shape))


def _rotated_in_stages(made: LayerChange, weight: Doubles) -> Doubles:
    stages, count, size = made.factors["oft_blocks"].shape[:3]
    rows, columns = weight.shape
    check_fit(count * size == rows and size % 2 == 0, "oft_blocks and weight")
    rotations = _cayley(made, rows)
    for stage in range(stages):
        k = 2**stage * (size // 2)
        check_fit(rows % (2 * k) == 0, "oft_blocks and weight")
        weight = weight.reshape(-1, 2, k, columns).swapaxes(1, 2).reshape(count, size, columns)
        weight = np.einsum("bij,bjc->bic", rotations[stage], weight)
        weight = weight.reshape(-1, k, 2, columns).swapaxes(1, 2).reshape(rows, columns)
    return _rescaled(made, weight)
