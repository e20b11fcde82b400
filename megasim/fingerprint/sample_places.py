"""Which elements of a tensor a sample takes: by its size alone, so the same in every model.

A tensor of up to 32,768 elements is read whole. Of a larger one the elements, row-major in their
canonical layout, are cut into 8,192 to 16,383 blocks, or into more where a block would have more
than 4,096 elements. One block is taken out of each *stratum* of 2ᵏ neighbouring blocks, by a hash
of the number of elements and of the stratum; k is no more than leaves 128 strata. At level 64k − j
of a model, k is that of the tensors of 2ʲ⁻¹ elements or more, and one less of smaller ones: so of
large tensors about 1/2ᵏ is read. A sample is part of that of any finer level: two of different
levels have all the elements of the coarser one in common.

Within a stratum each block is taken with the probability of its share of the elements: from pairs
of strata the one or the other is taken by a hashed coin, level by level. So with dᵢ a sum over the
block taken of stratum i (of (a − b)², say) and wᵢ = elements of the stratum over elements of the
block,

    D̂ = Σ wᵢ dᵢ

has no bias as an estimate of the sum over the whole tensor, whatever is in it. Elements side by
side are alike, so the error is told by how the blocks differ, not by how many elements there are
(K. Wolter, "Introduction to Variance Estimation", 2007, chapter 8: successive differences):

    var D̂ ≈ (1 − f) · S/(2(S − 1)) · Σ (wᵢdᵢ − wᵢ₊₁dᵢ₊₁)²,   f the share read, S the strata.

Where the strata differ for good this says too much rather than too little. Where a single block
differs it says 100 % of D̂; where none does it says 0, which is no error but ignorance: whatever
lies between the blocks may differ. `unseen_share` bounds it.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

import numpy as np
import numpy.typing as npt

from megasim.errors import UsageError, printable

# Raised when other elements are taken: samples of two versions cannot be compared.
SAMPLE_VERSION: Final = 1
WHOLE: Final = 1 << 15  # a tensor of so many elements is read whole
_BLOCKS: Final = 8192  # a tensor has so many blocks at least,
_LARGEST_BLOCK: Final = 1 << 12  # of so many elements at most: 8 KiB of float16
_STRATA: Final = 128  # so many blocks of a tensor are read at least
STEP: Final = 64  # levels, for half the elements of every tensor
COARSEST: Final = 20 * STEP
_ODD: Final = 0x9E3779B97F4A7C15
# What an element counts as, whatever its dtype, so that a model has one sample in every precision.
ELEMENT_BYTES: Final = 4

Floats = npt.NDArray[np.float64]
Places = npt.NDArray[np.int64]


@dataclass(frozen=True)
class SampleSize:
    """How much of each model is read: so many bytes (4 an element), or a share of it."""

    nbytes: int | None = None
    share: float | None = None


@dataclass(frozen=True, eq=False)
class SampledBlocks:
    """The blocks of a tensor that a sample has, in their order.

    Attributes:
        starts, stops: (S,) the elements of each, row-major.
        weights: (S,) how many elements each stands for, over how many it has.
    """

    starts: Places
    stops: Places
    weights: Floats

    @property
    def numel(self) -> int:
        """How many elements the sample has."""
        return int((self.stops - self.starts).sum())


def parse_sample_size(text: str) -> SampleSize:
    """Return what a text like 256M, 1.5G or 5% says.

    Raises:
        UsageError: it is none of these.

    >>> parse_sample_size("256M"), parse_sample_size("5%")
    (SampleSize(nbytes=268435456, share=None), SampleSize(nbytes=None, share=0.05))
    """
    found = re.fullmatch(r"(\d{1,15}(?:\.\d{1,9})?) ?(%|[kmgt]?(?:i?b)?)", text.strip().lower())
    if found is not None:
        number, unit = float(found[1]), found[2]
        if unit == "%" and 0 < number <= 100:
            return SampleSize(share=number / 100)
        if unit != "%" and number > 0:
            return SampleSize(
                nbytes=int(number * 1024 ** " kmgt".find(unit[:1].strip("bi") or " "))
            )
    raise UsageError(
        f"{printable(text, 40)!r} is no size of a sample", "write --sample 256M, or --sample 5%"
    )


def sample_level(numels: Iterable[int], size: SampleSize) -> int:
    """Return the finest level at which a model of such tensors has a sample of at most a size.

    0: all of it may be read. The coarsest where no sample is as small as that.

    >>> sample_level([1 << 20, 1 << 24], SampleSize(share=0.05)), sample_level([9], SampleSize(64))
    (295, 0)
    """
    sizes = Counter(numels)
    most = size.nbytes or 0
    if size.share is not None:
        most = int(size.share * ELEMENT_BYTES * sum(n * count for n, count in sizes.items()))

    def is_small(level: int) -> bool:
        read = sum(sampled_elements(n, level) * count for n, count in sizes.items())
        return ELEMENT_BYTES * read <= most

    return bisect_left(range(COARSEST), True, key=is_small)


@lru_cache(maxsize=1 << 16)
def sampled_elements(numel: int, level: int) -> int:
    """Return how many elements of a tensor a sample of some level has.

    >>> sampled_elements(10_000, 320), sampled_elements(1 << 20, 5 * STEP) / (1 << 20)
    (10000, 0.03125)
    """
    return sampled_blocks(numel, level).numel


@lru_cache(maxsize=1024)
def sampled_blocks(numel: int, level: int) -> SampledBlocks:
    """Return which elements of a tensor are in a sample of some level; all of them at level 0."""
    if numel <= WHOLE or level == 0:
        return SampledBlocks(
            np.zeros(1, dtype=np.int64), np.full(1, numel, dtype=np.int64), np.ones(1)
        )
    block = min(_power_of_two(numel // _BLOCKS), _LARGEST_BLOCK)
    starts = np.arange(0, numel, block, dtype=np.int64)
    halvings = (level + numel.bit_length()) // STEP
    halvings = min(halvings, (len(starts) // _STRATA).bit_length() - 1)
    sizes = np.minimum(starts + block, numel) - starts
    taken = np.arange(len(starts))
    held = sizes.astype(np.float64)  # elements of each stratum
    for step in range(1, halvings + 1):
        whole = len(taken) // 2 * 2
        first, second = held[:whole:2], held[1:whole:2]
        coin = _uniform(numel, step, len(first)) * (first + second) < second
        chosen = np.where(coin, taken[1:whole:2], taken[:whole:2])
        taken = np.concatenate([chosen, taken[whole:]])
        held = np.concatenate([first + second, held[whole:]])
    return SampledBlocks(starts[taken], starts[taken] + sizes[taken], held / sizes[taken])


def unseen_share(blocks: int) -> float:
    """Return the share of blocks that may differ though none of those read does, at 95 %.

    The rule of three (J. Hanley, A. Lippman-Hand, 1983): 3/S of S read at random.

    >>> unseen_share(300)
    0.01
    """
    return min(3.0 / max(blocks, 1), 1.0)


def _power_of_two(number: int) -> int:
    """Return the largest power of two that is no larger."""
    return 1 << (number.bit_length() - 1)


def _uniform(numel: int, step: int, count: int) -> Floats:
    """Return (count,) numbers in [0, 1), by SplitMix64 of what they are for."""
    seed = (numel * _ODD + (SAMPLE_VERSION << 8 | step)) & ((1 << 64) - 1)
    z = np.arange(1, count + 1, dtype=np.uint64) * np.uint64(_ODD)
    z += _mixed(np.array([seed], dtype=np.uint64))
    return np.asarray((_mixed(z) >> np.uint64(11)) / 2.0**53, dtype=np.float64)


def _mixed(z: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.asarray(z ^ (z >> np.uint64(31)))
