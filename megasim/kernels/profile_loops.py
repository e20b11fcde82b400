"""The compiled loop of profiles, and nothing else: squares of a tile, by rows and by columns.

Sums of columns run in float32 over `_RUN` rows, those of rows over what a tile has of them, and
both go on in float64: relative errors stay near 1e-6, far below what float16 keeps of them.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from megasim.kernels.compiled import REORDER, compiled
from megasim.kernels.state import TILE, Doubles, Matrix, Singles

_RUN = 64


@compiled(REORDER)
def _add_squares(x: Any, columns: Any) -> float:
    """Add squares to those of the columns, and return their sum."""
    total = x[0] - x[0]  # a zero of the same precision
    for i in range(x.shape[0]):
        square = x[i] * x[i]
        total += square
        columns[i] += square
    return np.float64(total)


@compiled(REORDER)
def _sum_squares(x: Any) -> float:
    total = x[0] - x[0]
    for i in range(x.shape[0]):
        total += x[i] * x[i]
    return np.float64(total)


@compiled()
def _empty_into(sums: Doubles, recent: Singles) -> None:
    for i in range(recent.shape[0]):
        sums[i] += recent[i]
        recent[i] = 0


@compiled()
def profile_singles(x: Singles, tile: int, matrix: Matrix) -> None:
    """Add a tile of finite float32, whose squares keep to its range, to a profile."""
    width = matrix.width
    start = tile * TILE
    row = start // width
    at = start - row * width
    done = 0
    while done < x.shape[0]:
        count = min(width - at, x.shape[0] - done)
        part = x[done : done + count]
        if matrix.has_columns:
            total = _add_squares(part, matrix.recent[at : at + count])
        else:
            total = _sum_squares(part)
        if matrix.has_rows:
            matrix.rows[row] += total
        done += count
        at += count
        if at == width:
            at = 0
            row += 1
            if matrix.has_columns and row % _RUN == 0:
                _empty_into(matrix.columns[:width], matrix.recent[:width])


@compiled()
def profile_doubles(x: Doubles, tile: int, matrix: Matrix) -> None:
    """As `profile_singles`, of finite float64, or of float32 whose squares leave its range."""
    width = matrix.width
    start = tile * TILE
    row = start // width
    at = start - row * width
    done = 0
    while done < x.shape[0]:
        count = min(width - at, x.shape[0] - done)
        part = x[done : done + count]
        if matrix.has_columns:
            total = _add_squares(part, matrix.columns[at : at + count])
        else:
            total = _sum_squares(part)
        if matrix.has_rows:
            matrix.rows[row] += total
        done += count
        at += count
        if at == width:
            at = 0
            row += 1
