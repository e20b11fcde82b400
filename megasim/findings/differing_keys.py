"""The keys in which two models differ, with what tells a small difference from a new tensor."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from megasim.anatomy.natures import key_natures
from megasim.errors import printable
from megasim.findings.key_lists import brief_items
from megasim.store.rows import Store
from megasim.wording.sentences import counted
from megasim.words import MISSING, TIERS, Nature, Status

DIFFERING = tuple(status for status in Status if status not in TIERS)
_SAME_NORM = 1e-6
_ROUNDED_NORM = 2.0**-8  # the largest relative error of a rounding to bfloat16, and its half
_MOST_ITEMS = 8


@dataclass(frozen=True, slots=True)
class TensorNumbers:
    """What the store knows of one tensor; norms and mean are None where it holds NaN or inf."""

    shape: str
    numel: int
    zeros: int
    l1: float | None
    l2: float | None
    linf: float | None
    mean: float | None


@dataclass(frozen=True, slots=True)
class DifferingKey:
    """One key that is not identical, or that one model lacks.

    Attributes:
        a, b: its tensor in either model; None where it is missing.
        repeats: of a key that one model lacks: the key under which that model holds the very same
            tensor; None where it does not.
    """

    component: str
    key: str
    block: str | None
    status: Status
    nature: Nature
    a: TensorNumbers | None
    b: TensorNumbers | None
    repeats: str | None

    @property
    def is_alpha(self) -> bool:
        """Whether it is the strength of a low-rank change, and differs in that alone."""
        alpha = self.key.rpartition(".")[2] == "alpha"
        return alpha and self.status == Status.CHANGED and self.a is not None and self.a.numel == 1

    def is_widened(self, *, rounded: bool = False) -> bool:
        """Whether one of the two has more elements along one dimension, and those are all zero.

        Args:
            rounded: whether one of them is rounded to half precision, and its norms with it.
        """
        if self.a is None or self.b is None or self.status != Status.SHAPE_MISMATCH:
            return False
        narrow, wide = sorted((self.a, self.b), key=lambda tensor: tensor.numel)
        before, after = narrow.shape.split("x"), wide.shape.split("x")
        longer = [int(m) > int(n) for n, m in zip(before, after, strict=False) if n != m]
        if len(before) != len(after) or longer != [True]:
            return False
        if wide.zeros - narrow.zeros != wide.numel - narrow.numel:
            return False
        norms = ((narrow.l1, wide.l1), (narrow.l2, wide.l2), (narrow.linf, wide.linf))
        near = _ROUNDED_NORM if rounded else _SAME_NORM
        return all(
            x is not None and y is not None and math.isclose(x, y, rel_tol=near) for x, y in norms
        )


def load_differing_keys(
    store: Store, a: int, b: int, statuses: Collection[Status] = DIFFERING
) -> list[DifferingKey]:
    """Return the keys of some statuses of two models, from a to b; none of published distances.

    Without statuses, those that are not equal in any tier.
    """
    low, high = min(a, b), max(a, b)
    found = []
    stored = [status if a == low else status.other_side for status in statuses]
    for component, key, block, status, nature, repeats, *numbers in store.rows(
        "keys_of_status", model_a=low, model_b=high, statuses=list(map(str, stored))
    ):
        sides = _tensor(*numbers[:7]), _tensor(*numbers[7:])
        in_order = Status(status)
        found.append(
            DifferingKey(
                *(component, key, block, in_order if a == low else in_order.other_side),
                Nature(nature) if nature else key_natures({key: ((), None)})[key],
                *(sides if a == low else sides[::-1]),
                repeats,
            )
        )
    return found


def _tensor(shape: str | None, numel: int | None, zeros: int | None, *norms: Any) -> Any:
    if shape is None or numel is None or zeros is None:
        return None
    return TensorNumbers(shape, numel, zeros, *norms)


def key_names(keys: Sequence[DifferingKey]) -> str:
    """Name some keys: a few in full, more of them as briefly as can be."""
    among = [key.key for key in keys]
    if len(among) > _MOST_ITEMS:
        among = brief_items(among, among, blocks={key.key: key.block for key in keys})
    return printable(", ".join(among), 300)


def name_differing(keys: Sequence[DifferingKey]) -> str:
    """Say how many keys, and name them, e.g. "2 keys (v_pred, ztsnr)"; one by its name alone."""
    if len(keys) == 1:
        return printable(keys[0].key, 200)
    return f"{counted(len(keys), 'key')} ({key_names(keys)})"


def missing_from(keys: Collection[DifferingKey], side: Status) -> list[DifferingKey]:
    """Return the keys that one side lacks."""
    assert side in MISSING
    return [key for key in keys if key.status == side]
