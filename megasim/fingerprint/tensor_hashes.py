"""The hashes of tensors that are walked over together, made as they go through the buffer."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from blake3 import blake3

from megasim.checkpoint.dtypes import AnyArray
from megasim.checkpoint.tensors import TensorReader
from megasim.fingerprint.batches import Batch, Load
from megasim.fingerprint.stored_bytes import stored_hash
from megasim.kernels import state
from megasim.kernels.elements import is_wide
from megasim.kernels.state import PASSES, TILE, Counts

# Bytes of the digests of a tile; and of the hash of all those of a tensor.
DIGEST_BYTES = 8 * PASSES
_KEPT_BYTES = 16
# Follows the digests of a uint64 tensor that int64 could not hold: else 2⁶⁴ − 1 would be −1.
_BEYOND_INT64 = b"unsigned"


class TensorHashes:
    """Takes in one load after another: first the bytes, then what the walk made of them.

    Attributes:
        is_one_value: of each tensor of the batch, False where its elements, taken as float64 or
            integers, were seen to differ bit by bit. Of other dtypes the walk looks itself.
    """

    def __init__(self, batch: Batch) -> None:
        count = len(batch.refs)
        self.is_one_value = [True] * count
        self._batch = batch
        self._contents = [b""] * count
        self._digests: list[dict[str, bytes]] = [{}] * count
        # of the tensor that goes on in the next load
        self._content = blake3()
        self._streams: dict[str, blake3] = {}
        self._first: AnyArray | None = None

    def add_bytes(self, load: Load, data: AnyArray) -> None:
        """Take in the bytes of a load, before a walk may change them.

        Args:
            data: the bytes of the buffer.
        """
        batch, memory = self._batch, data.data
        for part in load.parts:
            i = part.tensor
            extent, ref = batch.extents[i], batch.refs[i]
            if part.start == 0:
                self._content = blake3(extent.title)
            end = part.begin + extent.itemsize * (part.stop - part.start)
            if not ref.is_decoded:
                self._content.update(memory[part.begin : end])
            if part.stop == extent.numel:
                self._contents[i] = self._content.digest()
            if is_wide(ref.dtype):
                bits = data[part.begin : end].view(f"u{extent.itemsize}")
                if part.start == 0:
                    self._first = bits[:1].copy()
                self.is_one_value[i] &= bool((bits == self._first).all())

    def add_digests(self, load: Load, digests: Mapping[str, memoryview], counts: Counts) -> None:
        """Take in what the walk over a load made of its tiles.

        Args:
            digests: the bytes of each field of `Digests`.
            counts: of the tensors of the batch; see `Sums`.
        """
        batch, end = self._batch, 0
        for part in load.parts:
            i = part.tensor
            extent = batch.extents[i]
            first, end = end, end + -(-(part.stop - part.start) // TILE) * DIGEST_BYTES
            if part.start == 0:
                self._streams = {name: blake3(title) for name, title in extent.streams}
            for name, stream in self._streams.items():
                stream.update(digests[name][first:end])
            if part.stop == extent.numel:
                if "integer" in self._streams and counts[i, state.BEYOND_INT64]:
                    self._streams["integer"].update(_BEYOND_INT64)
                self._digests[i] = {
                    name: stream.digest(_KEPT_BYTES) for name, stream in self._streams.items()
                }

    def found(self, reader: TensorReader, counts: Counts) -> bytes:
        """Return the hashes of each tensor in the order of `HASHES`, after all loads.

        Raises CheckpointError when what is stored of a decoded tensor cannot be read.
        """
        hashes = []
        for ref, content, digests, narrowest in zip(
            self._batch.refs, self._contents, self._digests, _narrowest(counts), strict=True
        ):
            stored = bytes.fromhex(stored_hash(reader, ref)) if ref.is_decoded else content
            hashes += [stored, digests[narrowest], digests["half"], digests["bfloat16"]]
        return b"".join(hashes)


def _narrowest(counts: Counts) -> list[str]:
    """Return the first field of `Digests` whose precision holds all elements exactly, of each."""
    lost = counts[:, [state.LOST_DOUBLE, state.LOST_SINGLE]] != 0
    fits = counts[:, [state.LOST_HALF, state.LOST_BFLOAT16]] == 0
    conditions = [lost[:, 0], lost[:, 1], fits[:, 0], fits[:, 1]]
    found: list[str] = np.select(
        conditions, ["integer", "double", "half", "bfloat16"], "single"
    ).tolist()
    return found
