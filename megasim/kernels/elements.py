"""Raw elements of any dtype as the numbers they stand for."""

from __future__ import annotations

import math
from functools import cache

import numpy as np

from megasim.checkpoint.dtypes import AnyArray
from megasim.kernels.loops import bfloat16_to_single, half_to_single, look_up
from megasim.kernels.state import Doubles, Singles

# (exponent bits, mantissa bits, bias, has infinities, has −0) of the float8 formats: OCP 8-bit
# floating point specification (2023); B. Noune et al., arXiv:2206.02915 (fnuz).
_FLOAT8 = {
    "float8_e4m3fn": (4, 3, 7, False, True),
    "float8_e5m2": (5, 2, 15, True, True),
    "float8_e4m3fnuz": (4, 3, 8, False, False),
    "float8_e5m2fnuz": (5, 2, 16, False, False),
}


def is_wide(dtype: str) -> bool:
    """Whether tensors of this dtype are compared as float64: float64, integers and bool.

    >>> is_wide("int64"), is_wide("bfloat16")
    (True, False)
    """
    return dtype == "float64" or not dtype.startswith(("float", "bfloat"))


@cache
def float8_table(dtype: str) -> Singles:
    """Return (256,): the number each byte of a float8 dtype stands for.

    >>> float(float8_table("float8_e4m3fn")[0x7E])
    448.0
    """
    if dtype == "float8_e8m0fnu":  # a power of two, as scales of blocks are (OCP MX, 2023)
        powers = np.array([math.ldexp(1, e - 127) for e in range(255)] + [math.nan], np.float32)
        powers.flags.writeable = False
        return powers
    exponent_bits, mantissa_bits, bias, has_inf, has_negative_zero = _FLOAT8[dtype]
    top = (1 << exponent_bits) - 1
    table = np.empty(256, dtype=np.float32)
    for byte in range(256):
        exponent = byte >> mantissa_bits & top
        mantissa = byte & (1 << mantissa_bits) - 1
        fraction = mantissa / (1 << mantissa_bits)
        value = math.ldexp(fraction + (exponent > 0), max(exponent, 1) - bias)
        if has_inf and exponent == top:
            value = math.nan if mantissa else math.inf
        elif not has_inf and (byte & 0x7F == 0x7F if has_negative_zero else byte == 0x80):
            value = math.nan
        table[byte] = math.copysign(value, -1 if byte & 0x80 else 1)
    table.flags.writeable = False
    return table


def to_single(raw: AnyArray, dtype: str, out: Singles) -> None:
    """Convert elements of a dtype that is not wide, exactly.

    Args:
        raw: (n,) as `TensorReader.read` gives them.
        dtype: torch's name; one for which `is_wide` is false.
        out: (n,) or longer, float32.
    """
    if dtype == "float32":
        out[: len(raw)] = raw
    elif dtype == "float16":
        half_to_single(raw.view(np.uint16), out)
    elif dtype == "bfloat16":
        bfloat16_to_single(raw, out)
    else:
        look_up(raw, float8_table(dtype), out)


def to_double(raw: AnyArray, dtype: str, out: Doubles) -> None:
    """Convert elements of any dtype: exactly, but for integers beyond 2⁵³, which are rounded.

    A bool is 0 or 1, whatever byte stands for true.

    Args:
        raw: (n,) as `TensorReader.read` gives them.
        dtype: torch's name.
        out: (n,) or longer, float64.
    """
    if dtype == "bool":
        out[: len(raw)] = raw != 0
    elif is_wide(dtype):
        out[: len(raw)] = raw
    else:
        single = np.empty(len(raw), dtype=np.float32)
        to_single(raw, dtype, single)
        out[: len(raw)] = single
