"""How few directions the change of a matrix between two models has, out of their exact elements."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from megasim.compare.elements import ElementFiles, MatrixCorner
from megasim.errors import NoAnswerError
from megasim.lineage.inner_products import Floats
from megasim.lineage.rounding import rounding_l2
from megasim.lineage.settings import SETTINGS, LineageSettings

# Models of a family and their squared distances → key of a matrix → (N, N) negentropies.
StepSpectra = Callable[[Sequence[str], Floats], Mapping[str, Floats]]


def spectral_negentropies(
    corners: Iterable[MatrixCorner],
    near: npt.NDArray[np.bool_],
    settings: LineageSettings = SETTINGS,
) -> dict[str, Floats]:
    """Return for each matrix how far the changes between N models are from having all directions.

    The entropy of a normal distribution with covariance Σ is ½ log det Σ. Taking the rows of a
    change Δ (r, c) for the directions, ΔΔᵀ / c stands for Σ, and of all changes of one length the
    one with equal eigenvalues has most. What another lacks, for each element, is
    J = ½ (log mean λ − mean log λ), λ being the eigenvalues of ΔΔᵀ and 0 at least.

    One training moves a matrix in few directions, a low-rank one in a handful; two trainings
    move it in those of both, even where they went the same way by half of their length.

    Args:
        near: (N, N) the pairs that are looked at; of the others J is 0.

    Returns:
        key → (N, N), symmetric.
    """
    first, second = np.nonzero(np.triu(near, 1))
    found: dict[str, Floats] = {}
    for corner in corners:
        values = corner.values
        if values.shape[1] > values.shape[2]:
            values = values.swapaxes(1, 2)
        rows = values.shape[1]
        if rows < 2:
            continue
        change = values[first] - values[second]
        products = change @ change.swapaxes(1, 2)
        lengths = np.trace(products, axis1=1, axis2=2)
        if not lengths.any():
            continue
        # what rounding adds to every eigenvalue is no direction of a training
        noise = np.array(
            [
                rounding_l2(float(np.linalg.norm(v)), dtype) ** 2 / rows
                for v, dtype in zip(values, corner.dtypes, strict=True)
            ]
        )
        least = settings.least_direction * float(np.median(lengths[lengths > 0])) / rows
        floor = least + noise[first] + noise[second]
        log_mean = np.log(lengths / rows + floor)
        mean_log = np.linalg.slogdet(products + floor[:, None, None] * np.eye(rows))[1] / rows
        grid = np.zeros(near.shape)
        grid[first, second] = grid[second, first] = (log_mean - mean_log) / 2
        found[corner.key] = grid
    return found


def near_pairs(squared: Floats, most: int) -> npt.NDArray[np.bool_]:
    """Return (N, N) the pairs of which one is among the `most` models nearest to the other.

    >>> line = np.square(np.subtract.outer([0.0, 1.0, 3.0], [0.0, 1.0, 3.0]))
    >>> near_pairs(line, 1).astype(int).tolist()
    [[0, 1, 0], [1, 0, 1], [0, 1, 0]]
    """
    apart = np.where(np.eye(len(squared), dtype=bool), np.inf, squared)
    near = np.zeros(squared.shape, dtype=bool)
    chosen = np.argsort(apart, axis=1, kind="stable")[:, : min(most, len(squared) - 1)]
    np.put_along_axis(near, chosen, True, axis=1)
    return np.asarray(near | near.T)


class SpectraOfFiles:
    """The `StepSpectra` of models whose files can be read; nothing where they cannot.

    Attributes:
        unread: why files could not be read; "" where they could.
    """

    def __init__(
        self, files: ElementFiles, component: str, settings: LineageSettings = SETTINGS
    ) -> None:
        self.unread = ""
        self._files = files
        self._component = component
        self._settings = settings
        self._found: dict[tuple[str, ...], Mapping[str, Floats]] = {}

    def __call__(self, models: Sequence[str], squared: Floats) -> Mapping[str, Floats]:
        """Return the negentropies of `spectral_negentropies` between models that are near."""
        asked = tuple(models)
        if asked not in self._found:
            self._found[asked] = self._read(asked, squared)
        return self._found[asked]

    def _read(self, models: Sequence[str], squared: Floats) -> Mapping[str, Floats]:
        settings = self._settings
        rows, columns, keys = settings.corner
        try:
            corners = self._files.corners(
                models, self._component, rows=rows, columns=columns, most_keys=keys
            )
            near = near_pairs(squared, settings.spectra_near)
            return spectral_negentropies(corners, near, settings)
        except NoAnswerError as error:
            self.unread = f"the directions of steps were not looked at: {error.message}"
            return {}
