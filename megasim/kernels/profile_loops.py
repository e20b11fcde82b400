"""The compiled loops of profiles: squares of a tile, by rows and by columns → norms.

Sums of columns run in float32 over `_RUN` rows, those of rows over what a tile has of them, and
both go on in float64: relative errors stay near 1e-6, far below what float16 keeps of them.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from megasim.kernels.compiled import REORDER, compiled, inlined, narrow, root
from megasim.kernels.state import COUNT, M2, MEAN, TILE, Doubles, Halves, Matrix, Singles

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


@compiled(REORDER)
def _add_to_columns(x: Singles, columns: Singles) -> None:
    for i in range(x.shape[0]):
        columns[i] += x[i] * x[i]


@compiled()
def _empty_into(sums: Doubles, recent: Singles) -> None:
    for i in range(recent.shape[0]):
        sums[i] += recent[i]
        recent[i] = 0


@inlined
def add_row(tile: int, squares: float, matrix: Matrix) -> None:
    """Add a tile of one row to a profile, whose squares `matrix.recent` has already."""
    width = matrix.width
    row = tile * TILE // width
    if matrix.has_rows:
        matrix.rows[row] += squares
    if (tile + 1) * TILE == (row + 1) * width and (row + 1) % _RUN == 0:
        _empty_into(matrix.columns[:width], matrix.recent[:width])


@compiled()
def profile_singles(x: Singles, tile: int, squares: float, matrix: Matrix) -> None:
    """Add a tile of finite float32, whose squares keep to its range, to a profile.

    Args:
        squares: the sum of the squares of the tile: of most tiles, all of one row.
    """
    width = matrix.width
    start = tile * TILE
    row = start // width
    at = start - row * width
    done = 0
    while done < x.shape[0]:
        count = min(width - at, x.shape[0] - done)
        part = x[done : done + count]
        if count == x.shape[0]:
            total = squares
            if matrix.has_columns:
                _add_to_columns(part, matrix.recent[at : at + count])
        elif matrix.has_columns:
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


@compiled()
def finish_norms(
    matrix: Matrix, columns: int, moments: Doubles, row_norms: Halves, column_norms: Halves
) -> None:
    """Fill in the norms of rows and columns relative to their mean, as the bits of float16.

    Args:
        columns: how many columns there are; a row has matrix.width / columns elements of each.
    """
    count = moments[COUNT]
    if count == 0:
        return
    l2 = root(max(moments[M2], 0.0) + count * moments[MEAN] * moments[MEAN])
    per_l2 = 1.0 / l2 if l2 > 0 else 0.0
    scale = root(np.float64(row_norms.shape[0])) * per_l2
    for i in range(row_norms.shape[0]):
        row_norms[i] = narrow(np.float32(root(matrix.rows[i]) * scale))
    scale = root(np.float64(columns)) * per_l2
    for j in range(columns):
        inner = matrix.width // columns
        square = 0.0
        for k in range(j * inner, (j + 1) * inner):
            square += matrix.columns[k] + np.float64(matrix.recent[k])
        column_norms[j] = narrow(np.float32(root(square) * scale))
