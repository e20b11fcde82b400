"""The inner loops of the pair pass in torch, for a device other than the CPU.

The same sums as `megasim.kernels.pair_loops`, to 1e-6 relative; the last digits may depend on the
device.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from megasim.errors import UsageError, printable
from megasim.kernels.state import Counts, Doubles, Pairs


class TorchArithmetic:
    """Sums over many pairs at a time on a torch device; see `Arithmetic` in `compare.piece`."""

    takes_halves = False

    def __init__(self, device: str, memory: int) -> None:
        """Use a device, such as "cuda" or "cuda:1".

        Args:
            memory: bytes that the differences of a batch of pairs may take on the device.

        Raises:
            UsageError: there is no such device, or it has no float64.
        """
        try:
            self._device = torch.device(device)
            torch.zeros(1, dtype=torch.float64, device=self._device)
        except (RuntimeError, AssertionError, TypeError, NotImplementedError) as error:
            raise UsageError(
                f"no device {printable(device)!r} on which torch can sum in float64",
                f"leave out --device; torch says: {printable(error, 120)}",
            ) from None
        self._memory = memory

    def add_distances(
        self, rows: npt.NDArray[Any], pairs: Pairs, counts: Counts, sums: Doubles
    ) -> None:
        """Add to the (P,) counts of differing elements and the (P, 2) sums of |d| and d²."""
        for batch, a, b in self._batches(rows, pairs):
            d = a - b
            counts[batch] += to_numpy(torch.count_nonzero(d, dim=1))
            sums[batch, 0] += to_numpy(d.abs().sum(dim=1, dtype=torch.float64))
            sums[batch, 1] += to_numpy(d.double().square_().sum(dim=1))

    def raise_to_largest(self, rows: npt.NDArray[Any], pairs: Pairs, linf: Doubles) -> None:
        """Raise the (P,) maxima of |d|."""
        for batch, a, b in self._batches(rows, pairs):
            np.maximum(linf[batch], to_numpy((a - b).abs().amax(dim=1)), out=linf[batch])

    def add_products(self, rows: npt.NDArray[Any], pairs: Pairs, products: Doubles) -> None:
        """Add the products of the pairs to (P, C) sums by column, over whole lines of C."""
        columns = products.shape[1]
        for batch, a, b in self._batches(rows, pairs):
            product = a.double().mul_(b)
            products[batch] += to_numpy(product.view(len(a), -1, columns).sum(dim=1))

    def _batches(
        self, rows: npt.NDArray[Any], pairs: Pairs
    ) -> Iterator[tuple[slice, torch.Tensor, torch.Tensor]]:
        """Yield the rows of as many pairs at a time as fit, each with its slice of the pairs."""
        on_device = torch.from_numpy(rows).to(self._device)
        index = torch.from_numpy(pairs.astype(np.int64)).to(self._device)
        # both rows, their difference, and a float64 copy of it
        step = max(1, self._memory // (rows.shape[1] * (3 * rows.itemsize + 8)))
        for start in range(0, len(pairs), step):
            batch = slice(start, start + step)
            yield batch, on_device[index[batch, 0]], on_device[index[batch, 1]]


def to_numpy(values: torch.Tensor) -> npt.NDArray[Any]:
    """Return a tensor of any device as an array."""
    return np.asarray(values.cpu().numpy())
