"""What one checkpoint may cost before it is refused: a budget for each way in which a small file
can take gigabytes, or never end.

The defaults let through what people train and publish: 120,000 tensors, or a header of 32 MiB. A
file at all of them at once takes some hundred megabytes and some seconds to open. `Limits.times`
raises all of them together, for an honest giant.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Final

from megasim.errors import CheckpointError, UsageError, printable

DAMAGED: Final = "the file is damaged, or made to do harm: get it from elsewhere"
_ABSURD: Final = 1000  # times a limit: no honest giant
# What each limit counts, as an error says it.
_WHAT: Final = {
    "tensors": "tensors",
    "empty_tensors": "tensors without elements",
    "entries": "entries",
    "key_bytes": "bytes of key names",
    "name_bytes": "bytes in one name",
    "header_bytes": "bytes of header",
    "header_values": "values in the header",
    "text_bytes": "bytes of text",
    "pickle_bytes": "bytes of pickle",
    "opcodes": "opcodes in a pickle",
    "memo": "entries in the memo of a pickle",
    "depth": "levels of nesting",
    "steps": "steps through containers in containers",
    "dimensions": "dimensions of a tensor",
    "unfolded_bytes": "bytes of elements that the file holds no bytes for",
    "sparse_elements": "elements stored by a sparse tensor",
}


@dataclass(frozen=True)
class Limits:
    """The most that one file, or one folder of shards, may have of each.

    Attributes:
        tensors: that stand in it, whatever their size.
        empty_tensors: those without elements, which cost a file nothing.
        entries: of its zip directory, and of the dicts and lists in its pickle.
        key_bytes: of all key names together. Nested dicts join the names of their levels.
        name_bytes: of one key name.
        header_bytes: of the JSON header of .safetensors, or of an index of shards.
        header_values: numbers, texts, lists and objects in that JSON.
        text_bytes: of metadata, and of the texts of a pickle once decoded: up to 4 a character.
        pickle_bytes: of the pickle in a .ckpt, .pt, .pth or .bin.
        opcodes: steps of that pickle.
        memo: objects that it numbers, to use them again.
        depth: of containers in containers.
        steps: taken to walk through what it made, shared parts again for each time they are met.
        dimensions: of one tensor.
        unfolded_bytes: of all elements together, where strides reach the same bytes again and
            again, beyond 32 times the bytes of the file.
        sparse_elements: that one sparse tensor stores; one of more is not decoded.
    """

    tensors: int = 120_000
    empty_tensors: int = 20_000
    entries: int = 500_000
    key_bytes: int = 16 << 20
    name_bytes: int = 4096
    header_bytes: int = 32 << 20
    header_values: int = 3_000_000
    text_bytes: int = 64 << 20
    pickle_bytes: int = 64 << 20
    opcodes: int = 4_500_000
    memo: int = 1_500_000
    depth: int = 64
    steps: int = 3_000_000
    dimensions: int = 16
    unfolded_bytes: int = 256 << 20
    sparse_elements: int = 8_000_000

    def times(self, factor: float) -> Limits:
        """Return all limits multiplied by a number of 1 or more.

        >>> Limits().times(2.5).dimensions
        40
        """
        raised = {f.name: math.ceil(getattr(self, f.name) * factor) for f in fields(self)}
        return Limits(**raised)

    def check(self, name: str, count: int, path: Path | str, key: str = "") -> None:
        """Raise CheckpointError, naming the limit, where a file has more of something.

        Args:
            name: of an attribute of this class.
            count: how many it has; where that is not known, one more than the limit.
            key: where in the file.
        """
        limit = getattr(self, name)
        if count > limit:
            raise CheckpointError(path, too_many(name, limit), remedy(count / limit), key)


def too_many(name: str, limit: int) -> str:
    """Return what an error says of a limit that a file is beyond.

    >>> too_many("tensors", 120_000)
    'more than 120,000 tensors, the limit for one file'
    """
    return f"more than {limit:,} {_WHAT[name]}, the limit for one file"


def remedy(factor: float = 1) -> str:
    """Return how to read an honest giant all the same.

    >>> remedy(3.2)
    'if you trust where the file comes from, raise all limits: megasim --limits 4 …'
    """
    if factor > _ABSURD:
        return DAMAGED
    wanted = max(2, math.ceil(factor))
    return f"if you trust where the file comes from, raise all limits: megasim --limits {wanted} …"


DEFAULT_LIMITS: Final = Limits()
_factor: ContextVar[float | None] = ContextVar("limits", default=None)


def limits_in_force() -> Limits:
    """Return the limits: multiplied as `raised_limits` says, else `MEGASIM_LIMITS`, else as they
    are.

    Raises UsageError where that variable is no number of 1 or more.
    """
    factor = _factor.get()
    given = os.environ.get("MEGASIM_LIMITS", "1") or "1"
    if factor is None:
        try:
            factor = float(given)
        except ValueError:
            factor = 0.0
        if not 1 <= factor < math.inf:
            raise UsageError(
                f"MEGASIM_LIMITS={printable(given, 40)} is not a number of 1 or more",
                "it multiplies what one file may cost",
            )
    return DEFAULT_LIMITS.times(factor)


@contextmanager
def raised_limits(factor: float) -> Iterator[None]:
    """Multiply all limits for the length of a block, for files that can be trusted to be honest.

    >>> with raised_limits(2):
    ...     limits_in_force().tensors
    240000
    """
    before = _factor.set(factor)
    try:
        yield
    finally:
        _factor.reset(before)
