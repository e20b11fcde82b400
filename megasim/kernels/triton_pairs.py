"""The sums of all pairs of rows in one kernel of Triton, for a GPU.

A program takes a square of pairs, `_SIDE` rows by `_SIDE` rows, over a chunk of the columns: each
element that it reads serves `_SIDE` pairs. Differences are taken in float32. `_STEPS` of them are
added in float32 in each place, which loses 16 · 2⁻²⁴ < 1e-6 at most, and go on in float64. Programs
share nothing, and what they give is added in one order: the same rows give the same sums.

Triton comes with torch's builds for CUDA. With TRITON_INTERPRET=1 the same kernel runs on the CPU,
as a check of its values.
"""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import triton  # type: ignore[import-not-found,import-untyped,unused-ignore]
import triton.language as tl  # type: ignore[import-not-found,import-untyped,unused-ignore]

from megasim.kernels.state import Counts, Doubles, Pairs
from megasim.kernels.torch_pairs import TorchArithmetic, to_numpy

_SIDE = 4
_WIDTH = 128
_STEPS = 16
_RUNS = 8
_CHUNK = _WIDTH * _STEPS * _RUNS
# Sums of squares between these lost nothing to the range of float32.
_TINY, _HUGE = 1e-24, 1e30


@triton.jit  # type: ignore[untyped-decorator,unused-ignore]
def _sum_squares_of_pairs(  # type: ignore[no-untyped-def]
    rows,
    is_bfloat16,
    squares,
    counts,
    sums,
    n_rows,
    n_columns,
    HALVES: tl.constexpr,
    SIDE: tl.constexpr,
    WIDTH: tl.constexpr,
    STEPS: tl.constexpr,
    RUNS: tl.constexpr,
    TINY: tl.constexpr,
    HUGE: tl.constexpr,
):
    """Fill (chunks, squares, 2, SIDE, SIDE) counts and sums: of a count, whether sums are unfit."""
    square, chunk = tl.program_id(0), tl.program_id(1)
    side = tl.arange(0, SIDE)
    a = tl.load(squares + 2 * square) * SIDE + side
    b = tl.load(squares + 2 * square + 1) * SIDE + side
    a_rows = rows + a.to(tl.int64)[:, None] * n_columns
    b_rows = rows + b.to(tl.int64)[:, None] * n_columns
    a_there, b_there = (a < n_rows)[:, None], (b < n_rows)[:, None]
    if HALVES:
        a_kind = tl.load(is_bfloat16 + a, mask=a < n_rows, other=0)[:, None] != 0
        b_kind = tl.load(is_bfloat16 + b, mask=b < n_rows, other=0)[:, None] != 0
    total_count = tl.zeros([SIDE, SIDE], tl.int32)
    unfit = tl.zeros([SIDE, SIDE], tl.int32)
    total_size = tl.zeros([SIDE, SIDE], tl.float64)
    total_square = tl.zeros([SIDE, SIDE], tl.float64)
    for run in range(RUNS):
        count = tl.zeros([SIDE, SIDE, WIDTH], tl.int32)
        sizes = tl.zeros([SIDE, SIDE, WIDTH], tl.float32)
        powers = tl.zeros([SIDE, SIDE, WIDTH], tl.float32)
        for step in range(STEPS):
            at = ((chunk * RUNS + run) * STEPS + step) * WIDTH + tl.arange(0, WIDTH)[None, :]
            x = tl.load(a_rows + at, mask=a_there & (at < n_columns), other=0)
            y = tl.load(b_rows + at, mask=b_there & (at < n_columns), other=0)
            if HALVES:
                x = tl.where(
                    a_kind,
                    (x.to(tl.int32) << 16).to(tl.float32, bitcast=True),
                    x.to(tl.float16, bitcast=True).to(tl.float32),
                )
                y = tl.where(
                    b_kind,
                    (y.to(tl.int32) << 16).to(tl.float32, bitcast=True),
                    y.to(tl.float16, bitcast=True).to(tl.float32),
                )
            d = x[:, None, :] - y[None, :, :]
            count += (d != 0).to(tl.int32)
            sizes += tl.abs(d)
            powers += d * d
        found = tl.sum(count, axis=2)
        power = tl.sum(powers.to(tl.float64), axis=2)
        total_count += found
        total_size += tl.sum(sizes.to(tl.float64), axis=2)
        total_square += power
        unfit += ((found > 0) & ~((power > TINY) & (power < HUGE))).to(tl.int32)
    place = (chunk * tl.num_programs(0) + square) * (2 * SIDE * SIDE)
    inner = side[:, None] * SIDE + side[None, :]
    tl.store(counts + place + inner, total_count)
    tl.store(counts + place + SIDE * SIDE + inner, unfit)
    tl.store(sums + place + inner, total_size)
    tl.store(sums + place + SIDE * SIDE + inner, total_square)


class PairSums:
    """The kernel for some pairs of rows, and what it gives of a chunk of them."""

    def __init__(self, device: torch.device, pairs: Pairs) -> None:
        """Find the squares that the (P, 2) pairs lie in."""
        self._device, self._pairs = device, pairs
        wanted, square = np.unique(pairs // _SIDE, axis=0, return_inverse=True)
        self._square = square.reshape(-1)
        self._squares = torch.from_numpy(wanted.astype(np.int32)).to(device)

    def launch(self, rows: torch.Tensor, is_bfloat16: torch.Tensor) -> PairSums:
        """Start the kernel over (N, n) rows on the device, int16 bits of halves or float32."""
        chunks = -(-rows.shape[1] // _CHUNK)
        grid = (len(self._squares), chunks)
        shape = (*grid[::-1], 2, _SIDE, _SIDE)
        self._counts = torch.empty(shape, dtype=torch.int32, device=self._device)
        self._sums = torch.empty(shape, dtype=torch.float64, device=self._device)
        on_card = self._device.type == "cuda"
        with torch.cuda.device(self._device) if on_card else nullcontext():
            _sum_squares_of_pairs[grid](
                rows,
                is_bfloat16,
                self._squares,
                self._counts,
                self._sums,
                *rows.shape,
                HALVES=rows.dtype == torch.int16,
                SIDE=_SIDE,
                WIDTH=_WIDTH,
                STEPS=_STEPS,
                RUNS=_RUNS,
                TINY=_TINY,
                HUGE=_HUGE,
            )
        return self

    def taken(self) -> tuple[Counts, Doubles]:
        """Wait; return (P, 2) counts of differences and unfit runs, and (P, 2) sums of |d|, d²."""
        a, b = (self._pairs[:, i] % _SIDE for i in (0, 1))
        at = (self._square, slice(None), a, b)
        counts = to_numpy(self._counts.sum(dim=0, dtype=torch.int64))[at]
        return counts, to_numpy(self._sums.sum(dim=0))[at]


class TritonArithmetic(TorchArithmetic):
    """As `TorchArithmetic`, with l0, l1 and l2 by one kernel, and float16 and bfloat16 as they are.

    Attributes:
        takes_halves: rows of `add_distances` may be the bits of float16 and bfloat16.
    """

    takes_halves = True

    def __init__(self, device: str, memory: int, is_bfloat16: npt.NDArray[np.bool_]) -> None:
        """Use a device; `is_bfloat16` says of each row of halves which of the two it is."""
        super().__init__(device, memory)
        self._is_bfloat16 = torch.from_numpy(is_bfloat16.astype(np.int32)).to(self._device)

    def add_distances(
        self, rows: npt.NDArray[Any], pairs: Pairs, counts: Counts, sums: Doubles
    ) -> None:
        """Add to the (P,) counts of differing elements and the (P, 2) sums of |d| and d²."""
        if rows.dtype == np.float64:
            super().add_distances(rows, pairs, counts, sums)
            return
        halves = rows.dtype == np.uint16
        given = torch.from_numpy(rows.view(np.int16) if halves else rows)
        on_device = given.to(self._device, non_blocking=True)
        found, total = PairSums(self._device, pairs).launch(on_device, self._is_bfloat16).taken()
        counts += found[:, 0]
        (unfit,) = np.nonzero(found[:, 1])
        for p in unfit.tolist():
            total[p] = self._in_double(on_device, halves, pairs[p])
        sums += total

    def _in_double(self, rows: torch.Tensor, halves: bool, pair: Pairs) -> tuple[float, float]:
        """Return the sums of |d| and d² of a pair whose squares leave the range of float32."""
        a, b = (
            rows[i].view(torch.bfloat16 if self._is_bfloat16[i] else torch.float16)
            if halves
            else rows[i]
            for i in pair.tolist()
        )
        d = a.double() - b.double()
        return float(d.abs().sum()), float(d.square().sum())
