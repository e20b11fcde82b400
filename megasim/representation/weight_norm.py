"""Weights that are stored as a length and a direction for each row: torch's weight_norm.

`weight_g` and `weight_v` of `torch.nn.utils.weight_norm`, `parametrizations.weight.original0` and
`original1` of the newer one. Source: torch 2.13.0, `nn/utils/parametrizations.py`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from typing import Final

import numpy as np

from megasim.checkpoint.dtypes import AnyArray
from megasim.checkpoint.tensor_refs import ElementReader
from megasim.checkpoint.tensors import TensorRef
from megasim.kernels.state import Singles
from megasim.representation.boxes import Box, BoxDecoder, as_singles, read_box
from megasim.representation.logical import Represented, StoredTensors

# Nothing is lost by it: such a tensor is not quantised, and statements on these leave it out.
WEIGHT_NORM: Final = "weight_norm"
_FLOATS: Final = ("float32", "float16", "bfloat16")
_PARAMETRIZED: Final = ".parametrizations."


@dataclass(frozen=True)
class WeightNorm(BoxDecoder):
    """Values = directions × (lengths / the norms of their rows), the norms in float64.

    Attributes:
        lengths: one for each row. directions: as many as values.
    """

    lengths: TensorRef
    directions: TensorRef

    def fill(self, reader: ElementReader, box: Box, out: Singles) -> None:
        raw = read_box(reader, self.directions, self.columns, box)
        found = as_singles(raw, self.directions.dtype).reshape(box.shape)
        norms = self._norms(reader, box, found)
        lengths = reader.read(self.lengths, box.top, box.bottom)
        factors = as_singles(lengths, self.lengths.dtype) / norms
        np.multiply(found, factors[:, None], out=out)

    def _norms(self, reader: ElementReader, box: Box, found: Singles) -> Singles:
        if box.shape[1] == self.columns:
            return _rows_norms(found)
        squares = np.zeros(box.shape[0])
        for left in range(0, self.columns, self.piece):
            right = min(left + self.piece, self.columns)
            raw = read_box(
                reader, self.directions, self.columns, box._replace(left=left, right=right)
            )
            part = as_singles(raw, self.directions.dtype).reshape(box.shape[0], -1)
            squares += np.square(part, dtype=np.float64).sum(axis=1)
        return np.sqrt(squares).astype(np.float32)


def _rows_norms(values: AnyArray) -> Singles:
    norms: Singles = np.sqrt(np.square(values, dtype=np.float64).sum(axis=1)).astype(np.float32)
    return norms


def weight_norms(stored: StoredTensors) -> Iterator[Represented]:
    """Find lengths with directions, of the same rows, under the names that torch gives them."""
    for lengths_key, lengths in stored.tensors.items():
        names = _names(lengths_key) if lengths_key.endswith(("_g", ".original0")) else None
        directions = stored.tensors.get(names[1]) if names else None
        if names is None or directions is None:
            continue
        shape = directions.shape
        if len(shape) < 2 or len(lengths.shape) != len(shape) or not directions.numel:
            continue
        if lengths.dtype not in _FLOATS or directions.dtype not in _FLOATS:
            continue
        key, sources = names[0], (lengths_key, names[1])
        if lengths.shape != (shape[0], *[1] * (len(shape) - 1)):
            if lengths.numel == max(lengths.shape) in shape:
                problem = "weight_norm over another dimension than the rows: not decoded"
                yield Represented(key, shape, sources, None, problem)
            continue
        rows, columns = shape[0], prod(shape[1:])
        decoder = WeightNorm(rows, columns, WEIGHT_NORM, lengths, directions)
        yield Represented(key, shape, sources, decoder)


def _names(key: str) -> tuple[str, str] | None:
    """Return the key of the values and that of the directions, for one of lengths; else None.

    >>> _names("0.weight_g"), _names("a.parametrizations.weight.original0"), _names("0.bias")
    (('0.weight', '0.weight_v'), ('a.weight', 'a.parametrizations.weight.original1'), None)
    """
    last = key.rpartition(".")[2]
    if last.startswith("weight") and last.endswith("_g"):
        return key.removesuffix("_g"), f"{key.removesuffix('_g')}_v"
    if last == "original0" and _PARAMETRIZED in f".{key}":
        inner = key.removesuffix(".original0")
        module, _, name = f".{inner}".rpartition(_PARAMETRIZED)
        return f"{module}.{name}"[1:], f"{inner}.original1"
    return None
