"""SD1 checkpoints of full size, made faster than a disk takes them, for the benchmarks."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from megasim.progress import NO_PROGRESS, Progress
from megasim.zoo.architectures import Shape, sd1_shapes
from megasim.zoo.formats import appearing, stream_safetensors
from megasim.zoo.keys import component_of
from megasim.zoo.weights import bell, integer_layer, layer_statistics, philox

_PIECE = 1 << 17  # elements made at a time; what they need stays in the cache
_NOISE = 1 << 22  # elements of noise; pieces start anywhere in it
_STEP = 0.05  # relative size of the fine-tunes


class _Pieces(Protocol):
    def __call__(self, key: str, model: int) -> Iterator[NDArray[Any]]: ...


def build_full_size(
    folder: Path,
    count: int,
    width: float = 1.0,
    seed: int = 0,
    dtype: Literal["float16", "bfloat16", "float32"] = "float16",
    shared: Sequence[str] = (),
    progress: Progress = NO_PROGRESS,
) -> list[Path]:
    """Write `count` SD1 checkpoints, `full-01.safetensors` …, and return their paths.

    Each has 1,131 keys, at width 1 1.066e9 parameters (2.13 GB in float16). The first is a base,
    the others are fine-tunes of it in unrelated directions. `dtype` is float16, bfloat16 or
    float32. Components in `shared` ("text_encoder", "vae_decoder" …) are the same in all. Files
    that are there are kept, whatever they were made with. Memory does not grow with the width:
    all weights are pieces of 16 MB of noise, begun at another place for each piece, so no two
    layers are equal but the noise does come again.
    """
    layout = {
        key: ("int64" if integer_layer(key, shape) is not None else dtype, shape)
        for key, shape in sd1_shapes(width).items()
    }
    folder.mkdir(parents=True, exist_ok=True)
    pieces = _pieces_of(seed, layout, frozenset(shared))
    paths = [folder / f"full-{i:02}.safetensors" for i in range(1, count + 1)]
    progress.start("writing full-size models", count, "models")
    try:
        with _one_torch_thread():
            for i, path in enumerate(paths):
                if not path.exists():
                    with appearing(path) as temporary, temporary.open("wb") as file:
                        stream_safetensors(file, layout, partial(pieces, model=i), {})
                progress.advance(1)
    finally:
        progress.finish()
    return paths


@contextmanager
def _one_torch_thread() -> Iterator[None]:
    # On busy cores torch's threads wait for each other 100 times longer than a piece takes.
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _pieces_of(
    seed: int, layout: Mapping[str, tuple[str, Shape]], shared: frozenset[str]
) -> _Pieces:
    """Return the function that makes a tensor of a model (0: the base), piece by piece.

    A piece is good until the next one is asked for: all are made in the same memory.
    """
    noise = bell(seed, "full-size/noise", _NOISE)
    values, change = np.empty(_PIECE, np.float32), np.empty(_PIECE, np.float32)
    cast = _caster(next(name for name, _ in layout.values() if name != "int64"))

    def pieces(key: str, model: int) -> Iterator[NDArray[Any]]:
        shape = layout[key][1]
        integers = integer_layer(key, shape)
        if integers is not None:
            yield integers
            return
        mean, std = (np.float32(number) for number in layer_statistics(key, shape))
        size = math.prod(shape)
        count = -(-size // _PIECE)
        base = _places(seed, f"full-size/{key}", count)
        own = _places(seed, f"full-size/{key}/{model}", count)
        is_base = model == 0 or component_of(key) in shared
        for start, base_place, own_place in zip(range(0, size, _PIECE), base, own, strict=True):
            n = min(_PIECE, size - start)
            np.multiply(noise[base_place : base_place + n], std, out=values[:n])
            if mean:
                values[:n] += mean
            if not is_base:
                np.multiply(noise[own_place : own_place + n], _STEP * std, out=change[:n])
                values[:n] += change[:n]
            yield cast(values[:n])

    return pieces


def _places(seed: int, label: str, count: int) -> list[int]:
    raw = philox(seed, label).random_raw(count)
    return [int(number) % (_NOISE - _PIECE) for number in raw]


def _caster(dtype: str) -> Callable[[NDArray[np.float32]], NDArray[Any]]:
    """Return the function that rounds up to a piece of float32 to the bits of a dtype."""
    import torch  # rounds to half 50 times faster than numpy

    stored = torch.empty(_PIECE, dtype=getattr(torch, dtype))
    bits = stored.view(torch.int32 if dtype == "float32" else torch.int16).numpy()

    def cast(values: NDArray[np.float32]) -> NDArray[Any]:
        stored[: values.size].copy_(torch.from_numpy(values))
        return bits[: values.size]

    return cast
