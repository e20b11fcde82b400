"""The compiled walks over tensors: in one call, a table of tensors or of pieces of them.

A tensor comes in pieces of whole tiles (the last may end within one), and a tile stays in the
first-level cache while everything is made of it: conversion, sums, rounding, hashes, sketch,
profile. Results depend on the elements alone, not on how they were cut into pieces, nor on what
else is in the table. They may differ between kinds of processor in the last digits of the sums,
never in the hashes.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from megasim.kernels.compiled import (
    bfloat16_to_single,
    bits_of,
    compiled,
    fill_tile,
    half_to_single,
    inlined,
    round_to_half,
)
from megasim.kernels.hash_loops import (
    DOUBLE_LANES,
    HALF_LANES,
    SINGLE_LANES,
    hash_bfloat16,
    hash_halves,
    hash_integer_tiles,
    hash_words,
)
from megasim.kernels.moment_loops import (
    IN_DOUBLE,
    IN_SINGLE,
    add_double,
    add_single,
    add_surveyed,
    widen_and_survey,
)
from megasim.kernels.profile_loops import add_row, finish_norms, profile_doubles, profile_singles
from megasim.kernels.sketch_loops import finish_sketch, sketch_tile
from megasim.kernels.state import (
    LOST_BFLOAT16,
    LOST_HALF,
    LOST_SINGLE,
    ONE_VALUE,
    SQUARES,
    TILE,
    UNFIT_SKETCH,
    VARIES,
    ZEROS,
    At,
    Counts,
    Digests,
    Doubles,
    Folding,
    Halves,
    Jobs,
    Kept,
    Matrix,
    Scratch,
    Singles,
    Sums,
    Words,
)


@inlined
def _folding_of(job: Counts) -> Folding:
    return Folding(
        np.uint64(job[At.SEED]), job[At.BUCKETS], job[At.BLOCK], job[At.PERIOD], job[At.FLUSH]
    )


@inlined
def _sketch_room(job: Counts, arena: Any) -> Any:
    """Return what a tensor has of the sums of sketches."""
    return arena[job[At.SKETCH] : job[At.SKETCH] + job[At.SKETCH_ROOM]]


@inlined
def _matrix_of(job: Counts, sums: Sums) -> Matrix:
    row, column, width = job[At.ROW], job[At.COLUMN], job[At.WIDTH]
    return Matrix(
        sums.rows[row : row + job[At.ROWS]],
        sums.columns[column : column + width],
        sums.recent[column : column + width],
        width,
        job[At.ROWS] > 0,
        job[At.COLUMNS] > 0,
    )


@compiled()
def _below_bfloat16(single: Singles) -> np.uint32:
    """Return nonzero if any element is not a bfloat16."""
    lost = np.uint32(0)
    for i in range(single.shape[0]):
        lost |= bits_of(single[i]) & np.uint32(0xFFFF)
    return lost


@compiled()
def _compare_halves(part: Halves, counts: Counts) -> None:
    """Mark a tensor whose elements are not all the same, bit by bit."""
    if counts[VARIES] == 0:
        counts[ONE_VALUE] = np.int64(part[0])
    value = np.uint16(counts[ONE_VALUE])
    counts[VARIES] = 1
    for i in range(part.shape[0]):
        if part[i] != value:
            counts[VARIES] = 2
            return


@compiled()
def _compare_singles(part: Singles, counts: Counts) -> None:
    """As `_compare_halves`."""
    if counts[VARIES] == 0:
        counts[ONE_VALUE] = np.int64(bits_of(part[0]))
    value = np.uint32(counts[ONE_VALUE])
    counts[VARIES] = 1
    for i in range(part.shape[0]):
        if bits_of(part[i]) != value:
            counts[VARIES] = 2
            return


@inlined
def _fold_tile(
    scratch: Scratch, sums: Sums, job: Counts, tile: int, n: int, how: int, matrix: Matrix
) -> None:
    """Add a finite tile to the sketch and the profile of its tensor."""
    folding = _folding_of(job)
    at = tile * TILE % max(matrix.width, 1)
    # most tiles lie within a row: their squares are added in the loop of the sketch
    within = n == TILE and at + TILE <= matrix.width and how == IN_SINGLE
    if not (matrix.has_columns and folding.buckets > 0):
        within = False
    sketch_tile(
        scratch.single,
        n,
        tile,
        scratch.signs,
        folding,
        _sketch_room(job, sums.folded),
        _sketch_room(job, sums.sketch),
        matrix.recent[at : at + (TILE if within else 0)],
    )
    if within:
        add_row(tile, sums.moments[job[At.SLOT], SQUARES], matrix)
    elif matrix.width:
        if how == IN_SINGLE:
            squares = sums.moments[job[At.SLOT], SQUARES]
            profile_singles(scratch.single[:n], tile, squares, matrix)
        else:
            profile_doubles(scratch.double[:n], tile, matrix)


@compiled()
def walk_halves(
    raw: Halves, words: Words, jobs: Jobs, scratch: Scratch, sums: Sums, digests: Digests
) -> None:
    """Take in float16 tensors, given as their bits.

    Args:
        raw: elements; those of a job may lie anywhere in it. A job is of whole tiles, but for the
            last of its tensor.
        words: the same memory, four elements to a word; may be longer.
        jobs: (J, fields of `At`) what to take, and where its results go.
        sums: added to.
        digests: filled, a row for each tile begun.
    """
    single, half, keys = scratch.single, scratch.half, scratch.keys
    for j in range(jobs.shape[0]):
        job = jobs[j]
        begin, end = job[At.BEGIN], job[At.BEGIN] + job[At.SIZE]
        moments, counts = sums.moments[job[At.SLOT]], sums.counts[job[At.SLOT]]
        matrix = _matrix_of(job, sums)
        for t in range((job[At.SIZE] + TILE - 1) // TILE):
            start = begin + t * TILE
            part = raw[start : min(start + TILE, end)]
            tile = words[start // 4 : start // 4 + TILE // 4]
            n = part.shape[0]
            if counts[VARIES] < 2:
                _compare_halves(part, counts)
            zeros = counts[ZEROS]
            if n < TILE or start % 4:
                fill_tile(part, half)
                half_to_single(half, single)
                tile = scratch.half_words
                how = add_single(single[:n], scratch.double, moments, counts)
            else:
                survey = widen_and_survey(part, single)
                how = add_surveyed(single, survey, scratch.double, moments, counts)
            if how:
                _fold_tile(scratch, sums, job, job[At.TILE] + t, n, how, matrix)
                is_nonzero = zeros == counts[ZEROS]
            else:
                round_to_half(single, half)
                tile = scratch.half_words
                is_nonzero = False
            row = job[At.DIGEST] + t
            # no float16 rounds to a zero of bfloat16, so what holds of one holds of the other
            if is_nonzero:
                hash_halves(
                    tile, scratch.single_words, keys, digests.half[row], digests.bfloat16[row]
                )
                continue
            hash_words(tile, HALF_LANES, keys, digests.half[row])
            hash_bfloat16(scratch.single_words, scratch.packed, keys, digests.bfloat16[row])


@compiled()
def walk_bfloat16s(raw: Halves, jobs: Jobs, scratch: Scratch, sums: Sums, digests: Digests) -> None:
    """Take in bfloat16 tensors, given as their bits; as `walk_halves`."""
    single, half, keys = scratch.single, scratch.half, scratch.keys
    for j in range(jobs.shape[0]):
        job = jobs[j]
        begin, end = job[At.BEGIN], job[At.BEGIN] + job[At.SIZE]
        moments, counts = sums.moments[job[At.SLOT]], sums.counts[job[At.SLOT]]
        matrix = _matrix_of(job, sums)
        for t in range((job[At.SIZE] + TILE - 1) // TILE):
            part = raw[begin + t * TILE : min(begin + (t + 1) * TILE, end)]
            n = part.shape[0]
            if counts[VARIES] < 2:
                _compare_halves(part, counts)
            fill_tile(part, half)
            bfloat16_to_single(half, single)
            how = add_single(single[:n], scratch.double, moments, counts)
            if how:
                _fold_tile(scratch, sums, job, job[At.TILE] + t, n, how, matrix)
            counts[LOST_HALF] |= round_to_half(single, half)
            row = job[At.DIGEST] + t
            hash_words(scratch.half_words, HALF_LANES, keys, digests.half[row])
            hash_bfloat16(scratch.single_words, scratch.packed, keys, digests.bfloat16[row])


@compiled()
def walk_singles(raw: Singles, jobs: Jobs, scratch: Scratch, sums: Sums, digests: Digests) -> None:
    """Take in float32 tensors; as `walk_halves`."""
    single, half, keys = scratch.single, scratch.half, scratch.keys
    for j in range(jobs.shape[0]):
        job = jobs[j]
        begin, end = job[At.BEGIN], job[At.BEGIN] + job[At.SIZE]
        moments, counts = sums.moments[job[At.SLOT]], sums.counts[job[At.SLOT]]
        matrix = _matrix_of(job, sums)
        for t in range((job[At.SIZE] + TILE - 1) // TILE):
            part = raw[begin + t * TILE : min(begin + (t + 1) * TILE, end)]
            n = part.shape[0]
            if counts[VARIES] < 2:
                _compare_singles(part, counts)
            fill_tile(part, single)
            how = add_single(single[:n], scratch.double, moments, counts)
            if how:
                _fold_tile(scratch, sums, job, job[At.TILE] + t, n, how, matrix)
            counts[LOST_HALF] |= round_to_half(single, half)
            counts[LOST_BFLOAT16] |= _below_bfloat16(single)
            row = job[At.DIGEST] + t
            hash_words(scratch.half_words, HALF_LANES, keys, digests.half[row])
            hash_bfloat16(scratch.single_words, scratch.packed, keys, digests.bfloat16[row])
            hash_words(scratch.single_words, SINGLE_LANES, keys, digests.single[row])


@compiled()
def walk_doubles(raw: Doubles, jobs: Jobs, scratch: Scratch, sums: Sums, digests: Digests) -> None:
    """Take in float64 tensors, and integers converted to it; as `walk_halves`.

    The roundings to float16 and bfloat16, and the sketch, are those of the values rounded to
    float32, as `torch.Tensor.half` makes them. Whether all are the same is not looked at.
    """
    single, half, double, keys = scratch.single, scratch.half, scratch.double, scratch.keys
    for j in range(jobs.shape[0]):
        job = jobs[j]
        begin, end = job[At.BEGIN], job[At.BEGIN] + job[At.SIZE]
        moments, counts = sums.moments[job[At.SLOT]], sums.counts[job[At.SLOT]]
        matrix = _matrix_of(job, sums)
        for t in range((job[At.SIZE] + TILE - 1) // TILE):
            part = raw[begin + t * TILE : min(begin + (t + 1) * TILE, end)]
            n = part.shape[0]
            fill_tile(part, double)
            finite = add_double(double[:n], moments, counts)
            for i in range(TILE):
                single[i] = double[i]
                if single[i] != double[i] and double[i] == double[i]:
                    counts[LOST_SINGLE] = 1
            if finite:
                _fold_tile(scratch, sums, job, job[At.TILE] + t, n, IN_DOUBLE, matrix)
            counts[LOST_HALF] |= round_to_half(single, half)
            counts[LOST_BFLOAT16] |= _below_bfloat16(single)
            row = job[At.DIGEST] + t
            hash_words(scratch.half_words, HALF_LANES, keys, digests.half[row])
            hash_bfloat16(scratch.single_words, scratch.packed, keys, digests.bfloat16[row])
            hash_words(scratch.single_words, SINGLE_LANES, keys, digests.single[row])
            hash_words(scratch.double_words, DOUBLE_LANES, keys, digests.double[row])


@compiled()
def hash_integers(raw: Words, jobs: Jobs, scratch: Scratch, sums: Sums, digests: Digests) -> None:
    """Hash int64 and uint64 tensors as they are, beside their walk as float64."""
    for j in range(jobs.shape[0]):
        job = jobs[j]
        tiles = (job[At.SIZE] + TILE - 1) // TILE
        hash_integer_tiles(
            raw[job[At.BEGIN] : job[At.BEGIN] + job[At.SIZE]],
            job[At.SIGNED] != 0,
            scratch.keys,
            scratch.double_words,
            sums.counts[job[At.SLOT]],
            digests.integer[job[At.DIGEST] : job[At.DIGEST] + tiles],
        )


@compiled()
def finish_walks(jobs: Jobs, sums: Sums, kept: Kept) -> None:
    """Make sketches and profiles out of the sums of whole tensors, a job for each."""
    for j in range(jobs.shape[0]):
        job = jobs[j]
        counts = sums.counts[job[At.SLOT]]
        at, length = job[At.SKETCH], job[At.SKETCH_LENGTH]
        if not finish_sketch(
            _folding_of(job),
            _sketch_room(job, sums.folded),
            _sketch_room(job, sums.sketch),
            kept.sketch[at : at + length],
        ):
            counts[UNFIT_SKETCH] = 1
        finish_norms(
            _matrix_of(job, sums),
            job[At.COLUMNS],
            sums.moments[job[At.SLOT]],
            kept.row_norms[job[At.ROW] : job[At.ROW] + job[At.ROWS]],
            kept.column_norms[job[At.COLUMN] : job[At.COLUMN] + job[At.COLUMNS]],
        )
