"""A tensor → norms, moments, hashes, sketch, profile, in one walk over its elements.

Four hashes tell how far two tensors are the same. `content_hash` is BLAKE3 over dtype and bytes, so
that equal hashes mean equal bytes even where somebody wishes otherwise. The hashes of the numbers
(`value_hash`, `fp16_hash`, `bf16_hash`) are NH of tiles of 1024 elements, then BLAKE3 over the
results: two tensors that differ agree by chance with a probability of at most 2⁻⁹⁶, but a forger
can make some that do. They take a third of the time of BLAKE3 over all the numbers, of which there
would have to be three.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence

import numpy as np
from blake3 import blake3

from megasim.checkpoint.tensors import TensorReader, TensorRef
from megasim.fingerprint.sketch import DEFAULT_SIZE
from megasim.fingerprint.stored_bytes import stored_hash
from megasim.fingerprint.table import Fingerprint, FingerprintTable
from megasim.fingerprint.walk import Walker

# Raised when any value of a fingerprint would come out otherwise; includes that of the sketch.
FINGERPRINT_VERSION = 4
# Versions whose hashes, norms and sketches are those of this one; version 3 had no profiles.
COMPARABLE_VERSIONS = frozenset({3, FINGERPRINT_VERSION})

_HASHED_ELEMENTS = 1 << 20  # at a time, where nothing but the hash is taken
_walkers = threading.local()


def fingerprint_tensor(
    reader: TensorReader, ref: TensorRef, sketch_size: int = DEFAULT_SIZE
) -> Fingerprint:
    """Return the fingerprint of one tensor; for many, `fingerprint_refs` saves the preparations.

    Raises CheckpointError when the tensor cannot be read.
    """
    return Walker(sketch_size).walk(reader, [ref])[0]


def fingerprint_refs(
    refs: Sequence[TensorRef], sketch_size: int = DEFAULT_SIZE
) -> FingerprintTable:
    """Return the fingerprints of some tensors, in order.

    Opens what files it needs, shares nothing with other calls, and lets go of the GIL while it
    reads, hashes and computes: several calls run well side by side in threads or processes. Takes
    about 7 MB of memory for float16, bfloat16 and float32, up to 40 MB for other dtypes, and 17 MB
    more where a tensor is transposed, however large the tensors are.

    Raises CheckpointError when a tensor cannot be read.
    """
    with TensorReader() as reader:
        reader.expect(refs)
        return _walker(sketch_size).walk(reader, refs)


def _walker(sketch_size: int) -> Walker:
    """Return the walker of this thread: its buffers serve for one piece of a file after another."""
    kept: Walker | None = getattr(_walkers, "kept", None)
    if kept is None or kept.sketch_size != sketch_size:
        kept = _walkers.kept = Walker(sketch_size)
    return kept


def content_hashes(refs: Sequence[TensorRef]) -> list[str]:
    """Return the content hash alone of some tensors, in order: a third of the work.

    Raises CheckpointError when a tensor cannot be read.
    """
    found = []
    with TensorReader() as reader:
        reader.expect(refs)
        for ref in refs:
            if ref.is_decoded:
                found.append(stored_hash(reader, ref))
                continue
            digest = blake3(f"{ref.dtype}:".encode())
            for start in range(0, ref.numel, _HASHED_ELEMENTS):
                stop = min(start + _HASHED_ELEMENTS, ref.numel)
                digest.update(reader.read(ref, start, stop).view(np.uint8).data)
            found.append(digest.hexdigest())
    return found
