"""A sample of a tensor → what is kept of it: a hash, a norm, how much of it is not finite."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from blake3 import blake3

from megasim.checkpoint.dtypes import STORAGE_DTYPES
from megasim.checkpoint.tensors import TensorReader, TensorRef
from megasim.fingerprint.sample_places import SAMPLE_VERSION, SampledBlocks, sampled_blocks
from megasim.kernels.elements import is_wide, to_double, to_single

# Blocks that lie so close are read in one go: a call costs as much as this many elements.
_GAP = 1 << 11
_READ_AT_ONCE = 1 << 20

Rows = npt.NDArray[Any]


@dataclass(frozen=True, slots=True)
class SamplePrint:
    """What is kept of the elements of a tensor that were read.

    Attributes:
        sampled: how many they are.
        content_hash: 64 hex digits, BLAKE3 over which elements they are, their dtype and bytes.
        non_finite: how many of them are NaN or inf.
        l2: an estimate of the norm of the whole tensor; None where any of them is not finite.
    """

    sampled: int
    content_hash: str
    non_finite: int
    l2: float | None


def sample_refs(refs: Sequence[TensorRef], level: int) -> list[SamplePrint]:
    """Return the samples of some tensors, in order.

    Opens what files it needs and shares nothing with other calls, as `fingerprint_refs`. Memory is
    that of the largest sample of a tensor.

    Raises CheckpointError when a tensor cannot be read.
    """
    with TensorReader() as reader:
        expect_samples(reader, ((ref, level) for ref in refs))
        return [_print(reader, ref, level) for ref in refs]


def expect_samples(reader: TensorReader, samples: Iterable[tuple[TensorRef, int]]) -> None:
    """Say which samples, of tensors and levels, will be read next: addresses are fetched ahead."""
    parts = [(ref, sampled_blocks(ref.numel, level)) for ref, level in samples]
    reader.expect_elements((ref, blocks.starts, blocks.stops) for ref, blocks in parts)


def read_blocks(
    reader: TensorReader, ref: TensorRef, starts: Sequence[int], stops: Sequence[int]
) -> Iterator[Rows]:
    """Yield the elements of some blocks of a tensor, as stored; each is valid until the next.

    Raises CheckpointError.
    """
    dtype = STORAGE_DTYPES[ref.dtype]
    i = 0
    while i < len(starts):
        j = i + 1
        while j < len(starts) and starts[j] - stops[j - 1] <= _GAP:
            if stops[j] - starts[i] > _READ_AT_ONCE:
                break
            j += 1
        found = reader.read(ref, starts[i], stops[j - 1], np.empty(stops[j - 1] - starts[i], dtype))
        for start, stop in zip(starts[i:j], stops[i:j], strict=True):
            yield found[start - starts[i] : stop - starts[i]]
        i = j


def as_numbers(raw: Rows, dtype: str, out: Rows) -> None:
    """Fill (n,) float32 or float64 with the numbers that stored elements of a dtype are."""
    if STORAGE_DTYPES[dtype] == out.dtype and dtype in ("float32", "float64"):
        out[:] = raw
    elif out.dtype == np.float32:
        to_single(np.ascontiguousarray(raw), dtype, out)
    else:
        to_double(np.ascontiguousarray(raw), dtype, out)


def _print(reader: TensorReader, ref: TensorRef, level: int) -> SamplePrint:
    blocks = sampled_blocks(ref.numel, level)
    digest = blake3(_title(ref, blocks))
    squared, non_finite = 0.0, 0
    room = np.empty(int((blocks.stops - blocks.starts).max()), _number_type(ref))
    found = read_blocks(reader, ref, blocks.starts.tolist(), blocks.stops.tolist())
    with np.errstate(all="ignore"):
        for weight, raw in zip(blocks.weights.tolist(), found, strict=True):
            digest.update(np.ascontiguousarray(raw).view(np.uint8).data)
            numbers = room[: len(raw)]
            as_numbers(raw, ref.dtype, numbers)
            square = float(np.dot(numbers, numbers.astype(np.float64)))
            squared += weight * square
            if not np.isfinite(square):
                non_finite += int((~np.isfinite(numbers)).sum())
    norm = float(np.sqrt(squared)) if np.isfinite(squared) and not non_finite else None
    return SamplePrint(blocks.numel, digest.hexdigest(), non_finite, norm)


def _title(ref: TensorRef, blocks: SampledBlocks) -> bytes:
    said = f"sample {SAMPLE_VERSION} {ref.numel} {len(blocks.starts)} {ref.dtype}"
    return f"{said} {ref.decoder.identity if ref.decoder else ''}:".encode("utf-8", "surrogatepass")


def _number_type(ref: TensorRef) -> type[np.floating[Any]]:
    return np.float64 if is_wide(ref.dtype) else np.float32
