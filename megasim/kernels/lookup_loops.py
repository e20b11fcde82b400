"""The compiled loops of decoding: codes → the numbers that a table has for them."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from megasim.kernels.compiled import compiled
from megasim.kernels.state import Singles, Words


@compiled()
def look_up(codes: npt.NDArray[np.uint8], table: Singles, out: Singles) -> None:
    """Give each byte its number out of a table of 256; `out` may be longer."""
    for i in range(codes.shape[0]):
        out[i] = table[codes[i]]


@compiled()
def look_up_pairs(codes: npt.NDArray[np.uint8], table: Words, out: Words) -> None:
    """Give each byte, of two 4-bit codes, its two float32, which are one word of a table of 256."""
    for i in range(codes.shape[0]):
        out[i] = table[codes[i]]
