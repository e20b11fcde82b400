"""How much storing weights in half precision rounds away."""

from __future__ import annotations

# Half-precision rounding of a value x is uniform within ±ulp/2, ulp = 2^-10 · 2^⌊log2 |x|⌋ at
# most 2^-10 |x|: the root of its mean square is at most 2^-10 |x| / √12.
ROUNDING = {"float16": 2.0**-10 / 12**0.5, "bfloat16": 2.0**-7 / 12**0.5}


def rounding_l2(norm: float, dtype: str) -> float:
    """Return an upper bound of the expected L2 of rounding a tensor of that L2 norm to `dtype`.

    Not guaranteed for values below 6e-5 in size, which float16 rounds more coarsely.

    >>> round(rounding_l2(1000.0, "float16"), 3)
    0.282
    >>> rounding_l2(1000.0, "float32")
    0.0
    """
    return norm * ROUNDING.get(dtype, 0.0)
