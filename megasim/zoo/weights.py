"""Weights for the zoo: fresh ones, training steps, merges, all reproducible to the bit.

The random numbers are Philox counters keyed by (seed, label), summed as integers. Weights come from
them by elementwise IEEE arithmetic alone: no BLAS, no float reduction and no libm function, whose
last bits differ between machines.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from megasim.zoo.architectures import Shape, Shapes
from megasim.zoo.keys import UNET, ema_key

Weights = dict[str, NDArray[Any]]
"""Key → array: float32 holding the values as stored, or integers (counters, positions)."""

INTEGER_KEYS = ("position_ids", "num_batches_tracked")
_RANK = 2  # of the low-rank half of a training step

# How far a tensor moves in training, as a multiple of the step's size.
_ROLE_MOVES = (
    ("attn2.", 1.6),
    ("attn1.", 1.2),
    (".ff.", 1.0),
    ("norm", 0.3),
    ("embedding", 0.4),
    ("emb_layers", 0.6),
    ("", 0.8),
)


def philox(seed: int, label: str) -> np.random.Philox:
    """Return the counter-based generator of a label; other labels give unrelated streams."""
    digest = hashlib.blake2b(f"{seed}/{label}".encode(), digest_size=16).digest()
    return np.random.Philox(key=int.from_bytes(digest, "little"))


def bell(seed: int, label: str, count: int) -> NDArray[np.float32]:
    """Return `count` float32 numbers of mean 0 and variance 1, near-normal (|x| < 3.5).

    Each is the sum of four uniform 16-bit integers (Irwin-Hall), hence an excess kurtosis of -0.3.
    The numbers depend on `count` too: draw all that a label is for at once.

    >>> numbers = bell(0, "doc", 100_000)
    >>> abs(float(numbers.mean())) < 0.01, abs(float(numbers.std()) - 1) < 0.01
    (True, True)
    """
    raw = philox(seed, label).random_raw(count).astype("<u8", copy=False)
    sums: NDArray[np.int32] = raw.view("<u2").reshape(4, count).sum(axis=0, dtype=np.int32)
    spread = 65536 * math.sqrt(1 / 3)  # standard deviation of the sum of four
    centred = (sums - np.int32(2 * 65535)).astype(np.float32)
    centred *= np.float32(1 / spread)
    return centred


def layer_statistics(key: str, shape: Shape) -> tuple[float, float]:
    """Return the mean and standard deviation of a trained layer, as its key and shape tell."""
    name = key.rpartition(".")[2]
    if name == "logit_scale":
        return 4.6, 0.5  # CLIP starts it at log(1/0.07) and clips it at log(100)
    if name in ("weight", "running_var", "scale") and len(shape) == 1:
        return 1.0, 0.1  # the gain of a norm
    if len(shape) < 2:
        return 0.0, 0.02  # a bias
    return 0.0, 1 / math.sqrt(math.prod(shape[1:]))


def integer_layer(key: str, shape: Shape) -> NDArray[Any] | None:
    """Return the tensor of a key that holds integers, None for all others."""
    if not key.endswith(INTEGER_KEYS):
        return None
    return np.arange(math.prod(shape), dtype=np.int64).reshape(shape)


def fresh_weights(shapes: Shapes, seed: int, label: str) -> Weights:
    """Return weights like trained ones: each layer and each row of a matrix has its own scale."""
    keys = sorted(shapes)
    # For each key its elements, one scale for each row, and one for the layer.
    sizes = [math.prod(shapes[key]) + _rows(shapes[key]) + 1 for key in keys]
    draws = bell(seed, label, sum(sizes))
    weights: Weights = {}
    for key, draw in zip(keys, _pieces(draws, sizes), strict=True):
        shape = shapes[key]
        integers = integer_layer(key, shape)
        if integers is not None:
            weights[key] = integers
            continue
        mean, std = layer_statistics(key, shape)
        size, rows = math.prod(shape), _rows(shape)
        values = draw[:size].reshape(shape)
        if len(shape) > 1:
            scales = 1 + np.float32(0.3) * draw[size : size + rows]
            values = values * scales.reshape(rows, *(1,) * (len(shape) - 1))
            values = values * (1 + np.float32(0.25) * draw[-1])
        weights[key] = np.asarray(np.float32(mean) + np.float32(std) * values)
    return weights


def _rows(shape: Shape) -> int:
    return shape[0] if len(shape) > 1 else 0


def _pieces(draws: NDArray[np.float32], sizes: Sequence[int]) -> list[NDArray[np.float32]]:
    return np.split(draws, np.cumsum(sizes)[:-1])


def _directions(shapes: Shapes, seed: int, label: str) -> Weights:
    """Return random directions of unit variance: matrices half dense, half of low rank."""
    keys = sorted(shapes)
    sizes = [
        math.prod(shape) + (_RANK * (shape[0] + math.prod(shape[1:])) if len(shape) > 1 else 0)
        for shape in (shapes[key] for key in keys)
    ]
    if not keys:
        return {}
    result: Weights = {}
    half = np.float32(math.sqrt(0.5))
    for key, draw in zip(keys, _pieces(bell(seed, label, sum(sizes)), sizes), strict=True):
        shape = shapes[key]
        size = math.prod(shape)
        direction = draw[:size].reshape(shape)
        if len(shape) > 1:
            rows = draw[size : size + _RANK * shape[0]].reshape(_RANK, -1, 1)
            columns = draw[size + _RANK * shape[0] :].reshape(_RANK, 1, -1)
            products = rows * columns
            low_rank = sum(products[1:], products[0]) * np.float32(1 / math.sqrt(_RANK))
            direction = half * direction + half * low_rank.reshape(shape)
        result[key] = direction
    return result


def train(
    weights: Weights,
    seed: int,
    label: str,
    *,
    step: float,
    trains: Callable[[str], bool],
    drift: Callable[[str], float] = lambda key: 0.0,
    toward: str = "",
) -> Weights:
    """Return the weights after a training step of relative size `step` on the keys it trains.

    Two steps `toward` the same label have, on a key, an expected cosine of `drift(key)` (0 to 1):
    0 gives unrelated steps, 1 a straight line. Layers not trained are the same arrays.
    """
    shapes = {
        key: value.shape
        for key, value in weights.items()
        if trains(key) and value.dtype == np.float32
    }
    own = _directions(shapes, seed, f"{label}/step")
    drifting = {key: shape for key, shape in shapes.items() if drift(key) > 0}
    common = _directions(drifting, seed, f"{toward}/drift")
    trained = dict(weights)
    for key, shape in shapes.items():
        direction = own[key]
        if key in common:
            share = drift(key)
            direction = np.float32(math.sqrt(1 - share)) * direction
            direction = direction + np.float32(math.sqrt(share)) * common[key]
        _, std = layer_statistics(key, shape)
        move = next(factor for role, factor in _ROLE_MOVES if role in key)
        trained[key] = np.asarray(weights[key] + np.float32(step * move * std) * direction)
    return trained


def merge(parents: Sequence[Weights], shares: Callable[[str], Sequence[float]]) -> Weights:
    """Return Σ share·parent in float32, key by key; integer tensors are the first parent's.

    `shares(key)` has one number for each parent; they may be negative (add-difference).
    """
    merged: Weights = {}
    for key, first in parents[0].items():
        if first.dtype != np.float32:
            merged[key] = first
            continue
        total = np.zeros_like(first)
        for parent, share in zip(parents, shares(key), strict=True):
            total += np.float32(share) * parent[key]
        merged[key] = total
    return merged


def widened(weights: Weights, shapes: Shapes) -> Weights:
    """Return the weights in larger shapes, zeros where there was nothing."""
    result = dict(weights)
    for key, shape in shapes.items():
        if weights[key].shape != shape:
            result[key] = np.zeros(shape, np.float32)
            result[key][tuple(slice(n) for n in weights[key].shape)] = weights[key]
    return result


def with_training_state(weights: Weights, seed: int, label: str, updates: int) -> Weights:
    """Return the weights with the EMA copy of the UNet, its counters, and the noise schedule."""
    unet = {key: value for key, value in weights.items() if key.startswith(UNET)}
    near = train(unet, seed, f"{label}/ema", step=0.004, trains=lambda key: True)
    ema = {ema_key(key): value for key, value in near.items()}
    counters = {
        "model_ema.decay": np.array(0.9999, np.float32),
        "model_ema.num_updates": np.array(updates, np.int32),
    }
    return {**weights, **ema, **counters, **noise_schedule()}


def unet_from_ema(weights: Weights) -> Weights:
    """Return the weights with the UNet replaced by its EMA copy."""
    return {key: weights.get(ema_key(key), value) for key, value in weights.items()}


def noise_schedule(steps: int = 1000) -> Weights:
    """Return the 12 schedule buffers of an SD checkpoint, each of `steps` float32.

    Linear in √β from 0.00085 to 0.012; the formulas are those of denoising diffusion (Ho et al.
    2020, equations 4 to 7).
    """
    betas = np.linspace(math.sqrt(0.00085), math.sqrt(0.012), steps) ** 2
    alphas = 1 - betas
    kept = np.cumprod(alphas)
    before = np.append(1.0, kept[:-1])
    variance = betas * (1 - before) / (1 - kept)
    buffers: Mapping[str, NDArray[Any]] = {
        "betas": betas,
        "alphas_cumprod": kept,
        "alphas_cumprod_prev": before,
        "sqrt_alphas_cumprod": np.sqrt(kept),
        "sqrt_one_minus_alphas_cumprod": np.sqrt(1 - kept),
        "log_one_minus_alphas_cumprod": np.log(1 - kept),
        "sqrt_recip_alphas_cumprod": np.sqrt(1 / kept),
        "sqrt_recipm1_alphas_cumprod": np.sqrt(1 / kept - 1),
        "posterior_variance": variance,
        "posterior_log_variance_clipped": np.log(np.maximum(variance, 1e-20)),
        "posterior_mean_coef1": betas * np.sqrt(before) / (1 - kept),
        "posterior_mean_coef2": (1 - before) * np.sqrt(alphas) / (1 - kept),
    }
    return {key: values.astype(np.float32) for key, values in buffers.items()}


def encoded(values: NDArray[Any], dtype: str) -> NDArray[Any]:
    """Return the array as stored in a dtype, bfloat16 as its bits in uint16; integers unchanged.

    Rounds to nearest, ties to even. NaN stays NaN.

    >>> encoded(np.float32([1.0, -2.5]), "bfloat16")
    array([16256, 49184], dtype=uint16)
    """
    if values.dtype != np.float32 or dtype == "float32":
        return values
    if dtype == "float16":
        return values.astype(np.float16)
    bits = values.view(np.uint32)
    rounded = (bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16)
    return np.where(np.isnan(values), np.uint32(0x7FC0), rounded).astype(np.uint16)


def decoded(values: NDArray[Any], dtype: str) -> NDArray[Any]:
    """Return the values of an `encoded` array as float32; integers unchanged.

    >>> decoded(np.uint16([16256, 49184]), "bfloat16")
    array([ 1. , -2.5], dtype=float32)
    """
    if dtype == "bfloat16" and values.dtype == np.uint16:
        return (values.astype(np.uint32) << np.uint32(16)).view(np.float32)
    return values.astype(np.float32) if values.dtype == np.float16 else values
