"""Of keys that are equal only once rounded: which of them a cast explains, and which are odd."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from megasim.findings.differing_keys import DifferingKey, key_names
from megasim.findings.pair_comparison import IN_WORDS, PairComparison
from megasim.findings.verdicts import Finding
from megasim.wording.sentences import counted
from megasim.words import TIERS, Status, Verdict, weakest

# More keys than this are not few.
MOST_FEW = 8


@dataclass(frozen=True)
class EqualKeys:
    """The keys of a pair that are equal in some tier.

    Attributes:
        tier: what holds of all of them but the odd ones; None where no key is equal.
        odd: a few keys that are equal in a weaker tier than the rest, which no cast explains: one
            unit in the last place is such a difference.
    """

    tier: Verdict | None
    odd: tuple[DifferingKey, ...] = ()

    def odd_text(self) -> str:
        """Say which keys are odd, e.g. "conv.weight, equal once rounded to bf16"."""
        tier = weakest(Verdict(key.status) for key in self.odd)
        return f"{key_names(self.odd)}, equal{IN_WORDS[tier].removeprefix(',')}"


def equal_keys(pair: PairComparison, findings: Sequence[Finding]) -> EqualKeys:
    """Return what ties the equal keys of some components together.

    A cast explains keys that are equal once rounded to the dtype that it was to; without a cast,
    rounding explains them where they are many, as of a model that was once stored in half
    precision.
    """
    counts: Counter[Status] = Counter()
    for finding in findings:
        if finding.counts is not None:
            counts.update({tier: getattr(finding.counts, tier) for tier in TIERS})
    present = [tier for tier in TIERS if counts[tier]]
    if not present:
        return EqualKeys(None)
    explained = _explained(pair)
    weak = [tier for tier in present if tier not in explained]
    odd = sum(counts[tier] for tier in weak)
    rest = counts.total() - odd
    if not weak or odd > min(MOST_FEW, rest):
        return EqualKeys(weakest(map(Verdict, present)))
    keys = tuple(key for key in pair.keys_in(findings, weak) if not pair.is_unused(key))
    return EqualKeys(weakest(Verdict(tier) for tier in present if tier in explained), keys)


def _explained(pair: PairComparison) -> set[Status]:
    """Return the tiers that a cast of the one model leaves, or the copy of it."""
    explained = {Status.IDENTICAL, Status.SAME_VALUES}
    model = pair.rounded_model()
    if model is not None:
        explained.add(Status.SAME_AT_FP16)
        if "bfloat16" in pair.half_dtypes(model):
            explained.add(Status.SAME_AT_BF16)
    return explained


def odd_sentence(equal: EqualKeys) -> str:
    """Return a clause that names the odd keys, with the punctuation before it; "" for none."""
    if not equal.odd:
        return ""
    return f"; {counted(len(equal.odd), 'key')} only nearly: {equal.odd_text()}"
