"""The profile: norms of the rows and of the columns of a tensor, which hidden units cannot hide.

Definition. A tensor of shape (R, C, …) of two dimensions or more has R rows, the slices x[i], and C
columns, the slices x[:, j]: of a linear layer its outputs and inputs, of a convolution likewise, of
an embedding its tokens and places. Kept is the root mean square of each slice over that of the
whole tensor, as float16: with ‖x‖ the l2 of the tensor, the i-th row is

    row_norms[i] = ‖x[i]‖ √R / ‖x‖,   so that   ‖x[i]‖ = row_norms[i] ‖x‖ / √R,

and a column likewise with C. A value is near 1 where the slices are of like size, and never above
√R, so none leaves the range of float16. It is good to 2⁻¹¹ relative from 6·10⁻⁵ on; slices
3·10⁻⁸ times the mean and smaller count as 0. A tensor of zeros has a profile of zeros.

Where hidden units are permuted, the rows of one layer and the columns of the next are, and their
norms with them: sorted, they are what they were (up to the last digit of a float16, as sums are
taken in another order).

Left out, as an empty array: tensors of fewer than two dimensions or no elements; those without an
l2, that is, with NaN or inf; rows where there are more than `LIMIT`; and columns where a row
has more elements than that. The vocabularies of today's language models have up to 262,208 rows.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from megasim.kernels.state import Doubles

# Rows of a tensor, and elements of a row, beyond which no norms are kept.
LIMIT = 1 << 19

Norms = npt.NDArray[np.float16]

NO_NORMS: Norms = np.empty(0, dtype=np.float16)
NO_NORMS.flags.writeable = False


def profile_lengths(shape: Sequence[int]) -> tuple[int, int]:
    """Return how many norms of rows and of columns are kept of a finite tensor; 0: none.

    >>> profile_lengths((320, 4, 3, 3)), profile_lengths((320,)), profile_lengths((10**6, 64))
    ((320, 4), (0, 0), (0, 64))
    """
    if len(shape) < 2 or 0 in shape:
        return 0, 0
    width = math.prod(shape[1:])
    return shape[0] if shape[0] <= LIMIT else 0, shape[1] if width <= LIMIT else 0


def absolute_norms(norms: Norms, l2: float) -> Doubles:
    """Return the (n,) norms of the slices themselves, out of what is kept of them.

    >>> absolute_norms(np.float16([1.5, 0.5]), 2.0).round(3).tolist()
    [2.121, 0.707]
    """
    return norms.astype(np.float64) * (l2 / math.sqrt(max(len(norms), 1)))
