"""Which part of a job a machine does, where several share it and do not speak to each other."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from megasim.errors import UsageError, printable

# More machines than anybody has; a list of shards stays short.
_MOST_PARTS = 10_000


@dataclass(frozen=True)
class Shard:
    """Part `part` of `parts` of a job, counted from 1."""

    part: int
    parts: int

    def __str__(self) -> str:
        return f"{self.part}/{self.parts}"

    def share_of(self, sizes: Sequence[int]) -> npt.NDArray[np.bool_]:
        """Return which of some pieces of work are this shard's, (N,).

        The largest piece goes first, each to the part that has least so far. Everybody who knows
        the same sizes finds the same shares, and no part has more than 4/3 of the fairest share
        (R. Graham, "Bounds on multiprocessing timing anomalies", 1969).

        >>> [Shard(i, 2).share_of([5, 4, 3, 2]).tolist() for i in (1, 2)]
        [[True, False, False, True], [False, True, True, False]]
        """
        mine = np.zeros(len(sizes), dtype=np.bool_)
        loads = np.zeros(self.parts)
        for i in np.argsort(-np.asarray(sizes, dtype=np.float64), kind="stable"):
            least = int(loads.argmin())
            # a piece without bytes costs something, too
            loads[least] += max(sizes[i], 1)
            mine[i] = least == self.part - 1
        return mine


def parse_shard(text: str) -> Shard:
    """Return what a text like 3/16 says.

    Raises:
        UsageError: it is none, or there is no such part.

    >>> parse_shard("3/16")
    Shard(part=3, parts=16)
    """
    found = re.fullmatch(r"(\d{1,5})/(\d{1,5})", text.strip())
    if found is None:
        raise UsageError(f"{printable(text, 40)!r} is no shard", "write --shard 3/16")
    shard = Shard(int(found[1]), int(found[2]))
    if not 1 <= shard.part <= shard.parts <= _MOST_PARTS:
        raise UsageError(
            f"there is no shard {shard}",
            f"shards are counted from 1/N to N/N, N at most {_MOST_PARTS:,}",
        )
    return shard
