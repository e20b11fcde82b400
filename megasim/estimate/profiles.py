"""The profiles of a model, out of the store: norms of the rows and columns of its matrices."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from megasim.errors import NoAnswerError, printable
from megasim.fingerprint.profile import absolute_norms, profile_lengths
from megasim.store.rows import Store

Floats = npt.NDArray[np.float64]


class MatrixProfile(NamedTuple):
    """(R,) and (C,) norms of the rows and the columns of one key, good to 2⁻¹¹ relative.

    None where none are kept: see `megasim.fingerprint.profile`.
    """

    rows: Floats | None
    columns: Floats | None


def model_profiles(store: Store, model: str) -> dict[str, MatrixProfile]:
    """Return the profiles of the keys of a model that have one, by canonical key.

    Raises:
        UsageError: a model that the store does not know.
        NoAnswerError: it was fingerprinted by a version that kept no profiles.
    """
    (model_id,) = store.model_ids([model]).values()
    found: dict[str, MatrixProfile] = {}
    lacks = 0
    for key, shape, l2, rows, columns in store.rows("profiles_of_model", id=model_id):
        if l2 is None or not any(profile_lengths(shape)):
            continue
        if rows is None and columns is None:
            lacks += 1
            continue
        found[key] = MatrixProfile(
            *(
                None if side is None else absolute_norms(np.frombuffer(side, np.float16), l2)
                for side in (rows, columns)
            )
        )
    if lacks:
        raise NoAnswerError(
            f"{printable(model, 80)} was fingerprinted without norms of rows and columns",
            "run `megasim ingest --reread` on its file, which saves them",
        )
    return found
