"""How much of each model an ingest reads: its header, a sample, or all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from megasim.errors import UsageError
from megasim.fingerprint.sample_places import (
    SampleSize,
    parse_sample_size,
    sample_level,
    sampled_elements,
)
from megasim.words import Tier


@dataclass(frozen=True)
class TierAsked:
    """A tier of reading; of a sample its size, or its level (see `sampled_blocks`).

    >>> tier_asked(sample="5%").of_model([1 << 20]), tier_asked(sample="5%").of_model([100])
    ((<Tier.SAMPLE: 'sample'>, 299), (<Tier.FULL: 'full'>, None))
    """

    tier: Tier = Tier.FULL
    size: SampleSize | None = None
    level: int | None = None

    def of_model(self, numels: Sequence[int]) -> tuple[Tier, int | None]:
        """Return the tier of a model whose tensors have so many elements, and its sample's level.

        A model no larger than the sample is read in full.
        """
        if self.size is None:
            return self.tier, self.level
        level = sample_level(numels, self.size)
        return (Tier.SAMPLE, level) if level and _is_cut(numels, level) else (Tier.FULL, None)


FULL: Final = TierAsked()


def _is_cut(numels: Sequence[int], level: int) -> bool:
    """Whether a sample of a level lacks any element."""
    return any(sampled_elements(numel, level) < numel for numel in numels)


def tier_asked(*, header: bool = False, sample: str | None = None) -> TierAsked:
    """Return what the options of an ingest ask for.

    Raises:
        UsageError: both, or a size that is none.
    """
    if header and sample is not None:
        raise UsageError("--header and --sample are two tiers", "give one of them")
    if header:
        return TierAsked(Tier.HEADER)
    return FULL if sample is None else TierAsked(Tier.SAMPLE, parse_sample_size(sample))
