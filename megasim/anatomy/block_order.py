"""The blocks of a network in the order in which data flows through them."""

from __future__ import annotations

import re

_Natural = tuple[tuple[int, int, str], ...]


def natural(text: str) -> _Natural:
    """Return what sorts names with numbers in them as people do.

    >>> sorted(["b.10", "b.9", "b"], key=natural)
    ['b', 'b.9', 'b.10']
    """
    # nine digits: a stranger's key may hold a million of them
    pieces = re.findall(r"[0-9]{1,9}|[^0-9]+", text)
    return tuple((0, int(p), "") if p[0] in "0123456789" else (1, 0, p) for p in pieces)


def block_place(block: str) -> tuple[int, _Natural]:
    """Return the place of a block in the order data flows; unknown ones stand by number.

    >>> sorted(["OUT00", "M00", "IN10", "IN02", "OUT", "TIME"], key=block_place)
    ['TIME', 'IN02', 'IN10', 'M00', 'OUT00', 'OUT']
    >>> sorted(["norm_out", "up.0", "up.3", "mid", "conv_in"], key=block_place)
    ['conv_in', 'mid', 'up.3', 'up.0', 'norm_out']
    """
    name, number = re.fullmatch(r"(.*?)([0-9]{0,4})", block, re.DOTALL).groups()  # type: ignore[union-attr]
    if name == "up.":  # numbered from the image inwards
        return 4, ((0, -int(number or 0), ""),)
    # a bare OUT is the last layer, OUT00 the first block of the way up
    known = {"TIME": 0, "LABEL": 0, "conv_in": 1, "IN": 2, "down.": 2, "M": 3, "mid": 3}
    known |= {"OUT": 4 if number else 6, "norm_out": 5, "conv_out": 6, "": 7}
    return known.get(name, 3), natural(block)
