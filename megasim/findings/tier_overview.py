"""What is unchanged between models at a glance: the verdict on each component of each pair."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from megasim.errors import NoAnswerError, printable
from megasim.findings.verdicts import MOST_DETAILED_PAIRS, Finding, FindingsReader, chosen_pairs
from megasim.store.rows import Pair, Store

_MOST_PAIRS = 60  # that a reader takes in at a glance


@dataclass(frozen=True)
class TierOverview:
    """The findings of some pairs.

    Attributes:
        title: what they are of.
        against: the model of all the pairs; None where these are all pairs.
        findings: one for each pair and component.
    """

    title: str
    against: str | None
    findings: list[Finding]


def tier_overview(
    reader: FindingsReader,
    pairs: Sequence[Pair],
    center: Callable[[], str],
    against: str | None = None,
) -> TierOverview:
    """Return the findings of all pairs where those are few, else of one model with the others.

    Args:
        pairs: ids of models.
        center: returns the model to take where the pairs are many.
        against: the model to take in any case.

    Raises:
        UsageError: an unknown model.
        NoAnswerError: no pair was compared.
    """
    if against is None and len(pairs) > _MOST_PAIRS:
        against = center()
    title = "What is unchanged, pair by pair"
    if against is not None:
        title = f"What is unchanged against {printable(against, 30)}"
        (of,) = reader.store.model_ids([against]).values()
        pairs = [(of, b if a == of else a) for a, b in pairs if of in (a, b)]
    if not pairs:
        raise NoAnswerError("no pair was compared", "run `megasim compare`")
    details = len(pairs) <= MOST_DETAILED_PAIRS
    return TierOverview(title, against, reader.findings(pairs, details=details))


def known_pairs(store: Store, models: Sequence[str]) -> list[Pair]:
    """Return the pairs of ids among some models of which anything is known."""
    ids = set(store.model_ids(models).values())
    return [(a, b) for a, b in chosen_pairs(store) if a in ids and b in ids]
