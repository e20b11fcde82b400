"""The exact elements of keys that some models share, out of their files, a sample of each."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from megasim.checkpoint.opening import Checkpoint
from megasim.checkpoint.tensors import TensorReader, TensorRef
from megasim.compare.weight_files import open_weights
from megasim.errors import MegasimError, NoAnswerError
from megasim.ingest.reading import assemble_ref
from megasim.kernels.elements import to_double
from megasim.store.matrices import member_names
from megasim.store.rows import Store

Floats = npt.NDArray[np.float64]

# A sample of a tensor is taken in so many runs, spread evenly.
_RUNS = 16


@dataclass(frozen=True)
class KeyElements:
    """The same elements of one key in N models.

    Attributes:
        numel: of the whole tensor.
        dtypes: of each model's tensor.
        values: (N, n) the numbers of n elements.
    """

    key: str
    block: str
    role: str
    numel: int
    dtypes: tuple[str, ...]
    values: Floats


@dataclass(frozen=True)
class MatrixCorner:
    """The same rows and columns of one matrix in N models.

    Attributes:
        dtypes: of each model's tensor.
        values: (N, r, c) its first r rows and c columns; a convolution has a row for each output.
    """

    key: str
    dtypes: tuple[str, ...]
    values: Floats


class ElementFiles:
    """The files of models in a store, opened and proved once each."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._checkpoints: dict[int, Checkpoint] = {}
        self._failed: dict[int, MegasimError] = {}

    def shared(
        self, models: Sequence[str], component: str, *, per_key: int, most_keys: int
    ) -> Iterator[KeyElements]:
        """Yield elements of the largest keys that all models hold in one size, in order of keys.

        A key of more than `per_key` elements is sampled in runs spread over it, the same in all
        models. Integers, masks and what else enters no distance are left out, and keys with NaN.

        Raises:
            UsageError: a model that the store does not know.
            NoAnswerError: a file that is gone, or not what was fingerprinted.
        """
        keys = self._shared_keys(models, component)
        sizes = {at: refs[0].numel for at, refs in keys.items()}
        largest = sorted(keys, key=lambda at: (-sizes[at], at))[:most_keys]
        with TensorReader() as reader:
            for at in sorted(largest):
                values = np.stack([_sample(reader, ref, per_key) for ref in keys[at]])
                if np.isfinite(values).all():
                    dtypes = tuple(ref.dtype for ref in keys[at])
                    yield KeyElements(*at, sizes[at], dtypes, values)

    def corners(
        self, models: Sequence[str], component: str, *, rows: int, columns: int, most_keys: int
    ) -> Iterator[MatrixCorner]:
        """Yield the corners of matrices that all models hold in one shape, in order of keys.

        Of more than `most_keys` matrices some are taken, spread over the network. Those with NaN
        are left out.

        Raises:
            UsageError, NoAnswerError: see `shared`.
        """
        keys = self._shared_keys(models, component)
        matrices = [
            at
            for at, refs in sorted(keys.items())
            if len(refs[0].shape) > 1 and len({ref.shape for ref in refs}) == 1
        ]
        spread = np.linspace(0, len(matrices) - 1, min(most_keys, len(matrices)))
        with TensorReader() as reader:
            for i in spread.astype(np.intp).tolist():
                refs = keys[matrices[i]]
                values = np.stack([_corner(reader, ref, rows, columns) for ref in refs])
                if np.isfinite(values).all():
                    yield MatrixCorner(matrices[i][0], tuple(ref.dtype for ref in refs), values)

    def _shared_keys(
        self, models: Sequence[str], component: str
    ) -> dict[tuple[str, str, str], list[TensorRef]]:
        """Return (key, block, role) → where its tensor lies in each model, of keys of one size.

        Raises:
            UsageError, NoAnswerError: see `shared`.
        """
        ids = list(self._store.model_ids(models).values())
        self._open(ids)
        rows = self._store.rows(
            "sources_of_keys",
            tables={
                "batch": {"component": member_names(self._store, component)},
                "chosen": {"model_id": ids},
            },
        )
        found: dict[tuple[str, str, str], dict[int, TensorRef]] = {}
        for model_id, key, block, role, _, sources, transposed in rows:
            tensors = self._checkpoints[model_id].tensors
            ref = assemble_ref(tensors, tuple(sources), transposed)
            found.setdefault((key, block or "", role or ""), {})[model_id] = ref
        return {
            at: [refs[i] for i in ids]
            for at, refs in found.items()
            if refs.keys() == set(ids) and len({ref.numel for ref in refs.values()}) == 1
        }

    def _open(self, ids: Sequence[int]) -> None:
        new = [i for i in ids if i not in self._checkpoints and i not in self._failed]
        for model_id in new:
            failed: list[MegasimError] = []
            with ThreadPoolExecutor(2) as executor:
                found = open_weights(self._store, [(model_id, model_id)], executor, failed)
            self._checkpoints |= found
            if failed:
                self._failed[model_id] = failed[0]
        for model_id in ids:
            if model_id in self._failed:
                error = self._failed[model_id]
                raise NoAnswerError(error.message, error.remedy)


def _sample(reader: TensorReader, ref: TensorRef, most: int) -> Floats:
    """Return at most so many elements of a tensor, the same for each tensor of its size."""
    if ref.numel <= most:
        runs = [(0, ref.numel)]
    else:
        length = most // _RUNS
        starts = np.linspace(0, ref.numel - length, _RUNS).astype(np.int64).tolist()
        runs = [(start, start + length) for start in starts]
    parts = []
    for start, stop in runs:
        out = np.empty(stop - start, dtype=np.float64)
        to_double(reader.read(ref, start, stop), ref.dtype, out)
        parts.append(out)
    return np.concatenate(parts)


def _corner(reader: TensorReader, ref: TensorRef, rows: int, columns: int) -> Floats:
    """Return (r, c) the first rows and columns of a tensor of two dimensions or more."""
    height, width = ref.shape[0], ref.numel // max(ref.shape[0], 1)
    out = np.empty((min(rows, height), min(columns, width)))
    for i, row in enumerate(out):
        start = i * width
        to_double(reader.read(ref, start, start + len(row)), ref.dtype, row)
    return out
