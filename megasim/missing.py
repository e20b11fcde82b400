"""What is not known: NaN where numbers are computed, NULL where they are written down."""

from __future__ import annotations

import math


def number_or_none(value: float) -> float | None:
    """Return a number as JSON and SQL hold it: None for NaN.

    >>> number_or_none(0.5), number_or_none(float("nan"))
    (0.5, None)
    """
    return None if math.isnan(value) else value
