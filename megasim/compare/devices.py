"""Where the arithmetic of a comparison runs: the compiled loops on the CPU, or a GPU.

Nothing of torch is imported unless a GPU is asked for by name, or is there and expected to pay.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from megasim.errors import UsageError, printable

AUTO, CPU = "auto", "cpu"
# What the driver of NVIDIA's cards makes.
_DRIVER = Path("/dev/nvidiactl")
# Element-pairs a second: of one core, in the loop over rows in its cache; of a GPU, with Triton.
_CORE, _GPU = 1e10, 8e11
# To import torch and start a card takes about so long.
_START_SECONDS = 5.0
# The GPU is chosen where it is expected to take at most this part of the time of the CPU: what is
# expected of it comes from another kernel's figures on one card.
_MARGIN = 0.5
# Bytes of a card for each worker, at least: rows, what is made of them, and what Triton takes.
_BYTES_A_WORKER = 1 << 28

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ComparisonSize:
    """What a comparison has to do.

    Attributes:
        elements: to be read, each content once.
        models, pairs: of which they are.
        workers: threads or processes of this machine.
    """

    elements: int
    models: int
    pairs: int
    workers: int

    @property
    def cpu_seconds(self) -> float:
        """How long the arithmetic is expected to take on the CPU."""
        return self._element_pairs / (_CORE * self.workers)

    @property
    def gpu_seconds(self) -> float:
        """And on a GPU, with the start of torch; files are read beside it by either."""
        return _START_SECONDS + self._element_pairs / _GPU

    @property
    def fits_gpu(self) -> bool:
        """Whether a GPU is expected to be faster by enough.

        >>> ComparisonSize(elements=10**11, models=100, pairs=4950, workers=16).fits_gpu
        True
        >>> ComparisonSize(elements=10**10, models=10, pairs=45, workers=16).fits_gpu
        False
        """
        return self.gpu_seconds <= _MARGIN * self.cpu_seconds

    @property
    def _element_pairs(self) -> float:
        return self.elements / max(self.models, 1) * self.pairs


def choose_devices(asked: str | None, job: ComparisonSize) -> tuple[str, ...]:
    """Return the GPUs that take the pieces of a comparison in turn; none: the compiled loops.

    Where a GPU was asked for that cannot be used, or will be slower, one sentence of the log says
    so, and the CPU does what the GPU cannot. Sums agree to 1e-6 relative, whichever takes them.

    Args:
        asked: None or "auto": a GPU where it is there and `ComparisonSize.fits_gpu`. "cpu". A
            torch device: "cuda" is all cards, "cuda:1" one of them.

    Raises:
        UsageError: what is asked for is none of these.
    """
    if asked == CPU:
        return ()
    if asked in (None, AUTO):
        if not (_DRIVER.exists() and job.fits_gpu and find_spec("torch")):
            return ()
    elif asked.partition(":")[0] != "cuda":
        raise UsageError(
            f"no device {printable(asked)!r}", "choose auto, cpu, cuda, or one card, as cuda:1"
        )
    cards, problem = _usable_cards(asked, job.workers)
    if problem:
        _log.warning("%s: the CPU does the arithmetic", problem)
    elif not job.fits_gpu:
        _log.warning(
            "for this comparison the GPU is expected to be slower than the CPU, or hardly faster: "
            "%.0f s with the start of torch, against %.0f s",
            job.gpu_seconds,
            job.cpu_seconds,
        )
    return cards


def _usable_cards(asked: str | None, workers: int) -> tuple[tuple[str, ...], str]:
    """Return the cards that give right sums and have room, or none and what is the matter."""
    import torch

    if not torch.cuda.is_available():
        return (), "torch finds no card for CUDA"
    if find_spec("triton") is None:
        return (), "Triton, which comes with torch's builds for CUDA, is not installed"
    count = torch.cuda.device_count()
    named = asked is not None and ":" in asked
    cards = (asked,) if named and asked else tuple(f"cuda:{i}" for i in range(count))
    try:
        for card in cards:
            free, _ = torch.cuda.mem_get_info(card)
            if free < workers * _BYTES_A_WORKER:
                needed = workers * _BYTES_A_WORKER / 1e9
                return (), f"{card} has {free / 1e9:.1f} GB free, and {needed:.1f} GB are needed"
            if not gives_right_sums(card):
                return (), f"{card} gives other sums than expected for a small example"
    except Exception as error:  # of the driver, of torch, or of Triton's compiler
        return (), f"the GPU cannot be used ({printable(error, 120)})"
    return cards, ""


def gives_right_sums(device: str) -> bool:
    """Whether a device gives the counts and sums of a small example, all of them exact."""
    from megasim.kernels.triton_pairs import TritonArithmetic

    i = np.arange(3000)
    rows = np.stack([i % 7, i % 5, -(i % 3)]).astype(np.float32)
    pairs = np.array([[0, 1], [0, 2], [1, 2]], dtype=np.int32)
    d = rows[pairs[:, 0]].astype(np.float64) - rows[pairs[:, 1]]
    bits = np.stack([rows[0].astype(np.float16).view(np.uint16), *(rows[1:].view(np.uint32) >> 16)])
    kinds = np.array([False, True, True])
    for given in (rows, bits.astype(np.uint16)):
        counts, sums = np.zeros(3, dtype=np.int64), np.zeros((3, 2))
        arithmetic = TritonArithmetic(device, 1 << 24, kinds)
        arithmetic.add_distances(given, pairs, counts, sums)
        if not (
            np.array_equal(counts, np.count_nonzero(d, axis=1))
            and np.array_equal(sums, np.stack([np.abs(d).sum(axis=1), (d * d).sum(axis=1)], 1))
        ):
            return False
    return True
