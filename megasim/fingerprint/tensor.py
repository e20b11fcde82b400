"""A tensor → norms, moments, hashes, sketch, profile, in one walk over its elements.

Four hashes tell how far two tensors are the same. `content_hash` is BLAKE3 over dtype and bytes, so
that equal hashes mean equal bytes even where somebody wishes otherwise. The hashes of the numbers
(`value_hash`, `fp16_hash`, `bf16_hash`) are NH of tiles of 1024 elements, then BLAKE3 over the
results: two tensors that differ agree by chance with a probability of at most 2⁻⁹⁶, but a forger
can make some that do. They take a third of the time of BLAKE3 over all the numbers, of which there
would have to be three.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from blake3 import blake3

from megasim.checkpoint.tensors import TensorReader, TensorRef
from megasim.fingerprint.profile import NO_NORMS, Norms
from megasim.fingerprint.sketch import DEFAULT_SIZE
from megasim.fingerprint.stored_bytes import stored_hash
from megasim.fingerprint.walk import Walked, Walker
from megasim.kernels import state
from megasim.kernels.state import Singles

# Raised when any value of a fingerprint would come out otherwise; includes that of the sketch.
FINGERPRINT_VERSION = 4
# Versions whose hashes, norms and sketches are those of this one; version 3 had no profiles.
COMPARABLE_VERSIONS = frozenset({3, FINGERPRINT_VERSION})

_HASHED_ELEMENTS = 1 << 20  # at a time, where nothing but the hash is taken
_NO_SKETCH: Singles = np.empty(0, dtype=np.float32)
_walkers = threading.local()


@dataclass(frozen=True, slots=True, eq=False)
class Fingerprint:
    """What megasim keeps of one tensor.

    Attributes:
        content_hash: 64 hex digits, BLAKE3 over the dtype's name and the elements' bytes, row-major
            and little-endian. The shape is not in it. Of decoded values it is of the codes, scales
            … that are stored, with all that their values depend on beside.
        value_hash: 32 hex digits, equal if and only if the numbers are equal, whatever the dtype;
            −0 equals 0, and all NaNs are equal. Same as `fp16_hash` or `bf16_hash` if the numbers
            fit that dtype.
        fp16_hash, bf16_hash: 32 hex digits, of the numbers rounded to that dtype, to nearest with
            ties to even; of float64 and integers by way of float32, as torch rounds them.
        dtype: torch's name; float32 of decoded values. numel: number of elements.
        l1, l2, linf: norms; None where some element is NaN or inf, or l2 leaves float64's range.
            0 for an empty tensor.
        mean, std, kurtosis: of the elements as a population (ddof 0), the kurtosis as excess over
            the normal distribution's 3. None like the norms, and when empty; kurtosis also
            when the elements are all equal.
        zeros, nans, infs: how many elements are so.
        is_constant: whether all elements are equal; so with one element or none.
        sketch: (`sketch_length(numel, m)`,) float32, see `megasim.fingerprint.sketch`; empty with
            NaN or inf, or when the numbers leave the range of float32.
        row_norms, column_norms: float16, see `megasim.fingerprint.profile`; empty where none are
            kept. Unlike all else they depend on the shape.

    Norms and moments are good to about 1e-6 relative (the mean: to 1e-6 of the mean magnitude).
    """

    content_hash: str
    value_hash: str
    fp16_hash: str
    bf16_hash: str
    dtype: str
    numel: int
    l1: float | None
    l2: float | None
    linf: float | None
    mean: float | None
    std: float | None
    kurtosis: float | None
    zeros: int
    nans: int
    infs: int
    is_constant: bool
    sketch: Singles
    row_norms: Norms = field(default_factory=lambda: NO_NORMS)
    column_norms: Norms = field(default_factory=lambda: NO_NORMS)


def fingerprint_tensor(
    reader: TensorReader, ref: TensorRef, sketch_size: int = DEFAULT_SIZE
) -> Fingerprint:
    """Return the fingerprint of one tensor; for many, `fingerprint_refs` saves the preparations.

    Raises CheckpointError when the tensor cannot be read.
    """
    ((_, walked),) = Walker(sketch_size).walk(reader, [ref])
    return _fingerprint_of(ref, walked)


def fingerprint_refs(
    refs: Sequence[TensorRef], sketch_size: int = DEFAULT_SIZE
) -> list[Fingerprint]:
    """Return the fingerprints of some tensors, in order.

    Opens what files it needs, shares nothing with other calls, and lets go of the GIL while it
    reads, hashes and computes: several calls run well side by side in threads or processes. Takes
    about 7 MB of memory for float16, bfloat16 and float32, up to 40 MB for other dtypes, and 17 MB
    more where a tensor is transposed, however large the tensors are.

    Raises CheckpointError when a tensor cannot be read.
    """
    with TensorReader() as reader:
        found = dict(_walker(sketch_size).walk(reader, refs))
    return [_fingerprint_of(ref, found[i]) for i, ref in enumerate(refs)]


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


def _fingerprint_of(ref: TensorRef, walked: Walked) -> Fingerprint:
    counts, numel = walked.counts, ref.numel
    is_constant = numel == 0 or walked.is_one_value or counts[state.ZEROS] == numel
    is_finite = not (counts[state.NANS] or counts[state.INFS])
    l1, l2, linf, mean, std, kurtosis = _moments(walked.moments, numel, is_finite, is_constant)
    return Fingerprint(
        content_hash=walked.content_hash,
        value_hash=walked.hashes[_narrowest(counts)],
        fp16_hash=walked.hashes["half"],
        bf16_hash=walked.hashes["bfloat16"],
        dtype=ref.dtype,
        numel=numel,
        l1=l1,
        l2=l2,
        linf=linf,
        mean=mean,
        std=std,
        kurtosis=kurtosis,
        zeros=counts[state.ZEROS],
        nans=counts[state.NANS],
        infs=counts[state.INFS],
        is_constant=is_constant,
        sketch=walked.sketch if is_finite and not counts[state.UNFIT_SKETCH] else _NO_SKETCH,
        row_norms=walked.row_norms if l2 is not None else NO_NORMS,
        column_norms=walked.column_norms if l2 is not None else NO_NORMS,
    )


def _narrowest(counts: Sequence[int]) -> str:
    """Return the first field of `Digests` whose precision holds all elements exactly."""
    if counts[state.LOST_DOUBLE]:
        return "integer"
    if counts[state.LOST_SINGLE]:
        return "double"
    if not counts[state.LOST_HALF]:
        return "half"
    return "single" if counts[state.LOST_BFLOAT16] else "bfloat16"


def _moments(
    sums: Sequence[float], numel: int, is_finite: bool, is_constant: bool
) -> tuple[float | None, ...]:
    """Return l1, l2, linf, mean, std and kurtosis out of the sums of a walk."""
    if not is_finite:
        return (None,) * 6
    mean, m2, m4 = sums[state.MEAN], sums[state.M2], sums[state.M4]
    m2 = 0.0 if is_constant else max(m2, 0.0)
    values = (
        sums[state.L1],
        math.sqrt(m2 + numel * mean * mean),
        sums[state.LINF],
        mean if numel else math.nan,
        math.sqrt(m2 / numel) if numel else math.nan,
        m4 / m2 / m2 * numel - 3.0 if m2 > 0 else math.nan,
    )
    return tuple([value if math.isfinite(value) else None for value in values])
