"""Which pairs were not compared: of them nothing is known, which is not that they are unrelated."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from megasim.errors import printable
from megasim.store.rows import Store
from megasim.wording.sentences import counted, joined

_NAMED = 5  # models, those that lack most


@dataclass(frozen=True, slots=True)
class MissingPairs:
    """The pairs of models with files of which neither a distance nor an estimate is known.

    Attributes:
        missing, total: how many of how many.
        models: name and how many pairs of it are missing, those that lack most first.
    """

    missing: int
    total: int
    models: tuple[tuple[str, int], ...]

    def sentence(self) -> str:
        """Return it in words, with what can be done; "" where nothing is missing."""
        if not self.missing:
            return ""
        named = [f"{count:,} of {printable(name, 60)}" for name, count in self.models[:_NAMED]]
        more = len(self.models) - len(named)
        named += [f"some of {counted(more, 'other')}"] if more else []
        return (
            f"{self.missing:,} of {counted(self.total, 'pair')} were not compared "
            f"({joined(named)}); that says nothing of how they are related. `megasim compare` "
            "compares them; without the files, `megasim compare --estimate` estimates them"
        )

    def to_json(self) -> dict[str, Any]:
        """Return plain numbers and names."""
        return {"missing": self.missing, "total": self.total, "models": dict(self.models)}


def load_missing_pairs(store: Store, models: Sequence[str] | None = None) -> MissingPairs:
    """Return what was not compared, among some models or all."""
    rows = store.rows(
        "missing_pairs", tables={"batch": {"id": list(store.model_ids(models).values())}}
    )
    count = len(rows)
    lacking = [(str(name), int(missing)) for name, missing in rows if missing]
    total = count * (count - 1) // 2
    lacking.sort(key=lambda row: (-row[1], row[0]))
    return MissingPairs(sum(n for _, n in lacking) // 2, total, tuple(lacking))
