"""The same network in other clothes: hidden units in another order, FP8 codes, an adapter.

As in `zoo.weights`, elementwise IEEE arithmetic alone makes the numbers.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from megasim.zoo.weights import Weights, bell, encoded

# The rows of these are the hidden units of a feed-forward part, and the columns of the last.
_UNITS = ("gate_proj.weight", "up_proj.weight", "down_proj.weight")
# What the adapter changes, and its sizes.
ADAPTED = ("q_proj.weight", "v_proj.weight")
RANK, ALPHA = 4, 8
_ADAPTER_PREFIX = "base_model.model."

# The positive numbers of float8_e4m3fn, from code 0 to 126; code 127 is NaN.
_E4M3 = np.array(
    [
        (code & 7) * 2.0**-9 if code < 8 else (8 + (code & 7)) * 2.0 ** ((code >> 3) - 10)
        for code in range(127)
    ],
    np.float32,
)


def permuted(weights: Weights, seed: int, label: str) -> Weights:
    """Return the weights with the hidden units of each feed-forward part in another order.

    The network computes the same.
    """
    result = dict(weights)
    for key in [key for key in weights if key.endswith(_UNITS[0])]:
        prefix = key.removesuffix(_UNITS[0])
        order = np.argsort(bell(seed, f"{label}/{prefix}", len(weights[key])), kind="stable")
        for name in _UNITS[:2]:
            result[prefix + name] = weights[prefix + name][order]
        result[prefix + _UNITS[2]] = np.ascontiguousarray(weights[prefix + _UNITS[2]][:, order])
    return result


def adapter_factors(weights: Weights, seed: int, label: str) -> Weights:
    """Return the factors of a LoRA for a language model, under the names that PEFT gives them.

    Their product, times alpha / rank, is about a tenth of the weights that it changes.
    """
    factors: Weights = {}
    for key in (key for key in sorted(weights) if key.endswith(ADAPTED)):
        rows, columns = weights[key].shape
        draws = bell(seed, f"{label}/{key}", RANK * (rows + columns))
        module = _ADAPTER_PREFIX + key.removesuffix(".weight")
        down = draws[: RANK * columns].reshape(RANK, columns)
        up = draws[RANK * columns :].reshape(rows, RANK)
        factors[f"{module}.lora_A.weight"] = np.float32(1 / math.sqrt(columns)) * down
        factors[f"{module}.lora_B.weight"] = np.float32(0.1 * RANK / ALPHA / math.sqrt(RANK)) * up
    return factors


def with_adapter(weights: Weights, factors: Weights, strength: float) -> Weights:
    """Return the weights plus `strength` times the change that an adapter makes."""
    changed = dict(weights)
    for key, down in factors.items():
        if not key.endswith(".lora_A.weight"):
            continue
        module = key.removesuffix(".lora_A.weight")
        up = factors[f"{module}.lora_B.weight"]
        products = up.T[:, :, None] * down[:, None, :]
        change = sum(products[1:], products[0])
        weight = module.removeprefix(_ADAPTER_PREFIX) + ".weight"
        changed[weight] = weights[weight] + np.float32(strength * ALPHA / RANK) * change
    return changed


def quantised(arrays: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """Return arrays as stored with the matrices of the layers in FP8: codes, and one scale each.

    Codes are in uint8, the other float tensors are bfloat16 bits in uint16.

    >>> found = quantised({"model.layers.0.mlp.up_proj.weight": np.float32([[448.0, -1.0]])})
    >>> {key.rpartition(".")[2]: value.tolist() for key, value in found.items()}
    {'weight': [[126, 184]], 'weight_scale': [1.0]}
    """
    result: dict[str, NDArray[Any]] = {}
    for key, value in arrays.items():
        if value.ndim != 2 or ".layers." not in key:
            result[key] = encoded(value, "bfloat16")
            continue
        scale = np.float32(np.abs(value).max() / np.float32(448))
        result[key] = _e4m3_codes(np.asarray(value / scale, np.float32))
        result[f"{key}_scale"] = np.array([scale], np.float32)
    return result


def _e4m3_codes(values: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Return the codes of the nearest numbers of float8_e4m3fn, ties to even."""
    size = np.minimum(np.abs(values), np.float32(448))
    _, exponent = np.frexp(size)  # size is in [2^(exponent-1), 2^exponent)
    quantum = np.ldexp(np.float32(1), np.maximum(exponent - 1, -6) - 3)
    codes: NDArray[np.uint8] = np.searchsorted(_E4M3, np.rint(size / quantum) * quantum).astype(
        np.uint8
    )
    codes[np.signbit(values)] += np.uint8(128)
    return codes


def batches_counted(weights: Weights, batches: int) -> Weights:
    """Return the weights with every counter of batches at a number."""
    return {
        key: np.array(batches, np.int64) if key.endswith("num_batches_tracked") else value
        for key, value in weights.items()
    }
