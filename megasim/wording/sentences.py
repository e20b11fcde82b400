"""How sentences write counts, numbers and lists of names."""

from __future__ import annotations

import math
from collections.abc import Sequence

from megasim.errors import printable


def counted(count: int, noun: str) -> str:
    """Return a number with its noun.

    >>> counted(1, "pair"), counted(1200, "pair")
    ('1 pair', '1,200 pairs')
    """
    return f"{count:,} {noun}" + ("" if count == 1 else "s")


def joined(parts: Sequence[str]) -> str:
    """Return parts as a sentence joins them.

    >>> joined(["a", "b", "c"])
    'a, b and c'
    """
    return " and ".join([", ".join(parts[:-1]), parts[-1]] if len(parts) > 1 else parts)


def listed(names: Sequence[str], limit: int | None, longest: int = 80) -> str:
    """Return names safe to print, at most `limit` of them, each cut to `longest` characters.

    All of them when `limit` is None.

    >>> listed(["a", "b", "c", "d"], 3)
    'a, b and 2 more'
    """
    shown = names if limit is None or len(names) <= limit else names[: limit - 1]
    text = ", ".join(printable(name, longest) for name in shown)
    return text + (f" and {len(names) - len(shown)} more" if len(shown) < len(names) else "")


def four_digits(value: float) -> str:
    """Return a number with four digits, as many as an L2 is quoted with.

    >>> four_digits(133.4699), four_digits(551602.0), four_digits(0.04941)
    ('133.5', '551,602', '0.04941')
    """
    return f"{value:,.0f}" if value >= 1000 else f"{value:.4g}"


def number_or_none(value: float) -> float | None:
    """Return a number as JSON and SQL hold it: None for NaN.

    >>> number_or_none(0.5), number_or_none(float("nan"))
    (0.5, None)
    """
    return None if math.isnan(value) else value
