"""One piece of the pass over samples: tensors of several models → distances on the same elements.

As a piece of the pair pass it needs nothing but its own description and the files. Blocks are read
side by side, one after another, and each pair's sums are taken block by block, since how blocks
differ tells the error of what they stand for (`megasim.fingerprint.sample_places`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from megasim.checkpoint.tensors import TensorReader, TensorRef
from megasim.fingerprint.sample import as_numbers, expect_samples, read_blocks
from megasim.fingerprint.sample_places import SampledBlocks, sampled_blocks
from megasim.interrupts import stop_if_asked
from megasim.kernels import loops
from megasim.kernels.elements import is_wide
from megasim.kernels.state import Counts, Doubles, Pairs


@dataclass(frozen=True, eq=False)
class SamplePosition:
    """The tensors that stand under one key, and the pairs of them that are wanted.

    Attributes:
        refs: N tensors of equal size.
        pairs: (P, 2) int32 indices into `refs`.
        level: of the sample that both of each pair are looked at.
    """

    refs: tuple[TensorRef, ...]
    pairs: Pairs
    level: int


@dataclass(frozen=True, eq=False)
class SampleDistances:
    """What was found at one position, (P,) each, in the order of its pairs.

    Attributes:
        sampled, blocks: how many elements were looked at, in how many blocks.
        l0, l1, l2: exact, of these elements; NaN where one of them is not finite.
        whole_l2: of the whole tensors, estimated: without bias in its square.
        l2_error: the standard error of that; 0 where the whole was read, NaN where no element that
            was read differs, for then nothing tells how much the others might.
    """

    sampled: int
    blocks: int
    l0: Counts
    l1: Doubles
    l2: Doubles
    whole_l2: Doubles
    l2_error: Doubles


def run_sample_piece(positions: Sequence[SamplePosition]) -> list[SampleDistances]:
    """Return the distances of some positions. Memory is that of one block of every tensor.

    Raises:
        CheckpointError: a tensor cannot be read.
    """
    with TensorReader() as reader:
        expect_samples(reader, ((ref, p.level) for p in positions for ref in p.refs))
        return [_compare(reader, position) for position in positions]


def _compare(reader: TensorReader, position: SamplePosition) -> SampleDistances:
    refs, pairs = position.refs, position.pairs
    blocks = sampled_blocks(refs[0].numel, position.level)
    sums = BlockSums(len(pairs))
    in_double = any(is_wide(ref.dtype) for ref in refs)
    add = loops.add_doubles if in_double else loops.add_singles
    kind: Any = np.float64 if in_double else np.float32
    for weight, rows in zip(
        blocks.weights.tolist(), _rows(reader, refs, blocks, kind), strict=True
    ):
        counts = np.zeros(len(pairs), dtype=np.int64)
        found = np.zeros((len(pairs), 2))
        add(rows, pairs, counts, found)
        sums.add(weight, counts, found)
        stop_if_asked()
    return sums.distances(blocks, refs[0].numel)


def _rows(
    reader: TensorReader, refs: Sequence[TensorRef], blocks: SampledBlocks, kind: Any
) -> Iterator[npt.NDArray[Any]]:
    """Yield the numbers of each block, (N, n), one row for each tensor."""
    starts, stops = blocks.starts.tolist(), blocks.stops.tolist()
    sides = [read_blocks(reader, ref, starts, stops) for ref in refs]
    for start, stop in zip(starts, stops, strict=True):
        rows = np.empty((len(refs), stop - start), kind)
        for ref, side, row in zip(refs, sides, rows, strict=True):
            as_numbers(next(side), ref.dtype, row)
        yield rows


class BlockSums:
    """Sums of pairs over blocks, and of how the blocks differ."""

    def __init__(self, pairs: int) -> None:
        self._l0: Counts = np.zeros(pairs, dtype=np.int64)
        self._l1, self._squared, self._whole, self._steps = np.zeros((4, pairs))
        self._last: Doubles | None = None

    def add(self, weight: float, counts: Counts, sums: Doubles) -> None:
        """Add a block.

        Args:
            weight: how many such blocks it stands for.
            counts: (P,) differing elements. sums: (P, 2) of |d| and d².
        """
        self._l0 += counts
        self._l1 += sums[:, 0]
        self._squared += sums[:, 1]
        standing_for = weight * sums[:, 1]
        self._whole += standing_for
        if self._last is not None:
            with np.errstate(invalid="ignore", over="ignore"):
                self._steps += (standing_for - self._last) ** 2
        self._last = standing_for

    def distances(self, blocks: SampledBlocks, numel: int) -> SampleDistances:
        """Return what all blocks of a tensor of so many elements come to."""
        count = len(blocks.starts)
        read = blocks.numel / numel if numel else 1.0
        whole = np.sqrt(self._whole)
        variance = np.zeros(len(whole))
        if count > 1:
            variance = (1 - read) * count / (2 * (count - 1)) * self._steps
        with np.errstate(invalid="ignore", divide="ignore"):
            error = np.where(whole > 0, np.sqrt(variance) / (2 * whole), np.nan)
        return SampleDistances(
            sampled=blocks.numel,
            blocks=count,
            l0=self._l0,
            l1=self._l1,
            l2=np.sqrt(self._squared),
            whole_l2=whole,
            l2_error=error if read < 1 else np.zeros(len(whole)),
        )
