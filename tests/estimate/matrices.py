"""Random matrices whose rows and columns are of unlike size, and their profiles."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from megasim.estimate.profiles import MatrixProfile
from megasim.fingerprint.profile import absolute_norms


def matrix(seed: int, rows: int, columns: int) -> np.ndarray:
    """Return (rows, columns) normal numbers with sizes of their own for each row and column."""
    random = np.random.default_rng(seed)
    sizes = np.exp(0.3 * random.standard_normal((rows, 1)) + 0.2 * random.standard_normal(columns))
    return random.standard_normal((rows, columns)) * sizes


def profiles(state: Mapping[str, np.ndarray]) -> dict[str, MatrixProfile]:
    """Return the profiles of matrices, as precise as the store keeps them."""
    return {
        key: MatrixProfile(*(_kept(value, axis) for axis in (1, 0))) for key, value in state.items()
    }


def _kept(value: np.ndarray, axis: int) -> np.ndarray:
    l2, norms = float(np.linalg.norm(value)), np.linalg.norm(value, axis=axis)
    return absolute_norms((norms * np.sqrt(len(norms)) / l2).astype(np.float16), l2)
