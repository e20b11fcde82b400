"""NF4, FP4 and int8 as bitsandbytes writes them.

4-bit codes stand two to a byte, the first in the higher half, in one row for the whole tensor, and
have the scale `absmax` of their block. That may be quantised again ("nested"): an 8-bit code, whose
number of `nested_quant_map` is multiplied by the scale of its own block, plus an offset. The bytes
may be declared to be of any dtype (`quant_storage`). Source: bitsandbytes 0.50.2,
`functional.QuantState` and `backends/default/ops.py`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from math import prod
from typing import Final

import numpy as np

from megasim.checkpoint.dtypes import AnyArray
from megasim.checkpoint.strict_json import JSON, parse_json
from megasim.checkpoint.tensor_refs import ElementReader
from megasim.checkpoint.tensors import TensorRef
from megasim.kernels.loops import look_up_pairs
from megasim.kernels.state import Singles
from megasim.representation.boxes import Box, BoxDecoder, Interval, as_singles
from megasim.representation.grids import Blocks, Numbers, edges_of, scaled_interval, slack_of
from megasim.representation.logical import Represented, StoredTensors

_STATE: Final = ".quant_state.bitsandbytes__"
# In the order in which bitsandbytes multiplies: a constant for 1 / 127.
_OF_127: Final = np.float32(7.874015718698502e-3)
_LARGEST: Final = 1e30
_MAX_JSON: Final = 1 << 12
_MAX_DIMENSIONS: Final = 8


@dataclass(frozen=True)
class FourBits(BoxDecoder):
    """Values = the number of each 4-bit code × the scale of its block.

    Attributes:
        codes: bytes. levels: (16,) float32. absmax: (blocks,) float32, or bytes where nested.
        block: values of a block.
        nested: where `absmax` is quantised: its scales, the numbers of its codes, (256,).
        nested_block, offset: values of a block of it; what is added.
    """

    codes: TensorRef
    levels: TensorRef
    absmax: TensorRef
    block: int
    nested: tuple[TensorRef, TensorRef] | None = None
    nested_block: int = 1
    offset: float = 0.0

    @property
    def stored(self) -> tuple[TensorRef, ...]:
        return (self.codes, self.levels, self.absmax, *(self.nested or ()))

    def fill(self, reader: ElementReader, box: Box, out: Singles) -> None:
        if box.shape[0] == 1:
            first = box.top * self.columns
            self._range(reader, first + box.left, first + box.right, out.reshape(-1))
            return
        # blocks run on from row to row, so whole rows are decoded and a part of them is kept
        step = max(1, self.piece // self.columns)
        for top in range(box.top, box.bottom, step):
            bottom = min(top + step, box.bottom)
            rows = np.empty((bottom - top, self.columns), np.float32)
            start, stop = top * self.columns, bottom * self.columns
            self._range(reader, start, stop, rows.reshape(-1))
            out[top - box.top : bottom - box.top] = rows[:, box.left : box.right]

    def read(self, reader: ElementReader, start: int, stop: int, out: AnyArray) -> None:
        for first in range(start, stop, self.piece):
            last = min(first + self.piece, stop)
            self._range(reader, first, last, out[first - start : last - start])

    def _range(self, reader: ElementReader, start: int, stop: int, values: AnyArray) -> None:
        """Fill (stop - start,) values, as they follow each other."""
        levels = reader.read(self.levels)
        if start % 2 or stop % 2 or values.ctypes.data % 8:
            np.take(levels, self._codes(reader, start, stop), out=values, mode="clip")
        else:
            # of each byte the number of its higher half, then of its lower half
            both = np.stack([np.repeat(levels, 16), np.tile(levels, 16)], axis=1)
            data = reader.read(self.codes, start // 2, stop // 2)
            look_up_pairs(data, both.view(np.uint64).reshape(-1), values.view(np.uint64))
        first = start // self.block
        scales = self._absmax(reader, first, -(-stop // self.block))
        if start % self.block or stop % self.block:
            values *= np.repeat(scales, self.block)[start - first * self.block :][: stop - start]
        else:
            values.reshape(-1, self.block)[...] *= scales[:, None]

    def _codes(self, reader: ElementReader, start: int, stop: int) -> AnyArray:
        """Return (stop - start,) codes, as they follow each other."""
        data = reader.read(self.codes, start // 2, -(-stop // 2))
        codes = np.empty(2 * len(data), np.uint8)
        np.right_shift(data, 4, out=codes[::2])
        np.bitwise_and(data, 15, out=codes[1::2])
        return codes[start % 2 :][: stop - start]

    def intervals(
        self, reader: ElementReader, start: int, stop: int
    ) -> tuple[Singles, Singles] | None:
        codes = self._codes(reader, start, stop)
        low, high = edges_of(reader.read(self.levels).tolist())
        first = start // self.block
        scales = self._absmax(reader, first, -(-stop // self.block))
        slack = scales * np.float32(slack_of("float32")) + self._absmax_error(reader, first, scales)
        place = np.arange(start, stop) // self.block - first
        ends = low[codes] * scales[place], high[codes] * scales[place]
        widest = np.maximum(np.abs(low), np.abs(high))[codes] * slack[place]
        return ends[0] - widest, ends[1] + widest

    def interval_box(self, reader: ElementReader, box: Box) -> Interval | None:
        if box.shape[0] > 1 and box.shape[1] < self.columns:
            rows = [
                self.interval_box(reader, Box(row, row + 1, box.left, box.right))
                for row in range(box.top, box.bottom)
            ]
            known = [row for row in rows if row is not None]
            return np.concatenate([r[0] for r in known]), np.concatenate([r[1] for r in known])
        first = box.top * self.columns + box.left
        found = self.intervals(reader, first, first + box.shape[0] * box.shape[1])
        return None if found is None else (found[0].reshape(box.shape), found[1].reshape(box.shape))

    def _absmax_error(self, reader: ElementReader, start: int, scales: Singles) -> AnyArray:
        """Return how much quantising them again may have moved the scales from `start` on."""
        if self.nested is None:
            return np.zeros_like(scales)
        outer, levels = self.nested
        codes = reader.read(self.absmax, start, start + len(scales))
        first = start // self.nested_block
        found = reader.read(outer, first, -(-(start + len(scales)) // self.nested_block))
        known = reader.read(levels)
        low, high = edges_of(known.tolist())
        half: Singles = np.maximum(known - low, high - known)[codes] * np.float32(1.001)
        spread = np.repeat(np.abs(found), self.nested_block)[start - first * self.nested_block :]
        error: Singles = half * spread[: len(scales)]
        return error

    def _absmax(self, reader: ElementReader, start: int, stop: int) -> AnyArray:
        found = reader.read(self.absmax, start, stop)
        if self.nested is None:
            return as_singles(found, self.absmax.dtype)
        scales, levels = self.nested
        first = start // self.nested_block
        outer = reader.read(scales, first, -(-stop // self.nested_block))
        spread = np.repeat(outer, self.nested_block)[start - first * self.nested_block :]
        outer_scaled: Singles = reader.read(levels)[found] * spread[: stop - start]
        return outer_scaled + np.float32(self.offset)


@dataclass(frozen=True)
class Int8Rows(BoxDecoder):
    """Values = codes × the largest magnitude of their row × (1 / 127), rounded after each."""

    codes: Numbers
    scales: Blocks

    def fill(self, reader: ElementReader, box: Box, out: Singles) -> None:
        out[...] = self.codes.read(reader, box)
        out *= self.scales.over(reader, box)
        out *= _OF_127

    def interval_box(self, reader: ElementReader, box: Box) -> Interval | None:
        codes = self.codes.read(reader, box)
        scales = self.scales.over(reader, box) * _OF_127
        half = np.float32(0.5)
        # the codes were computed in float16
        return scaled_interval(codes - half, codes + half, scales, slack_of("float16"))


def four_bits(stored: StoredTensors) -> Iterator[Represented]:
    """Find tensors with a packed `quant_state`, in NF4 or FP4."""
    for state_key in stored.tensors:
        key, found, kind = state_key.partition(_STATE)
        if found and kind in ("nf4", "fp4") and key in stored.tensors:
            names = ("absmax", "quant_map", "nested_absmax", "nested_quant_map")
            beside = [f"{key}.{name}" for name in names if f"{key}.{name}" in stored.tensors]
            try:
                shape, decoder = _four_bits(stored, key, state_key, kind)
            except ValueError as error:
                shape = stored.tensors[key].shape
                yield Represented(key, shape, (key, *beside, state_key), None, str(error))
            else:
                yield Represented(key, shape, (key, *beside, state_key), decoder)


def _four_bits(
    stored: StoredTensors, key: str, state_key: str, kind: str
) -> tuple[tuple[int, ...], FourBits]:
    state = _state(stored, state_key)
    shape = _shape(state.get("shape"))
    numel = prod(shape)
    packed = stored.tensors[key]
    if packed.nbytes != -(-numel // 2):
        wanted = "x".join(map(str, shape))
        raise ValueError(f"{packed.nbytes} bytes of 4-bit codes for {wanted} values")
    if not packed.lies_whole:
        raise ValueError("its 4-bit codes do not lie one after another")
    codes = replace(packed, dtype="uint8", shape=(packed.nbytes,))
    block = _size(state, "blocksize")
    absmax = _of_size(stored, f"{key}.absmax", -(-numel // block), ("float32", "uint8"))
    levels = _of_size(stored, f"{key}.quant_map", 16, ("float32",))
    name = f"bitsandbytes {kind}"
    decoder = FourBits(numel // shape[-1], shape[-1], name, codes, levels, absmax, block)
    if absmax.dtype != "uint8":
        return shape, decoder
    nested_block = _size(state, "nested_blocksize")
    offset = state.get("nested_offset")
    if not isinstance(offset, int | float) or not abs(offset) < _LARGEST:
        raise ValueError("its quant_state has no nested_offset")
    count = -(-absmax.numel // nested_block)
    nested = (
        _of_size(stored, f"{key}.nested_absmax", count, ("float32",)),
        _of_size(stored, f"{key}.nested_quant_map", 256, ("float32",)),
    )
    return shape, replace(decoder, nested=nested, nested_block=nested_block, offset=float(offset))


def _state(stored: StoredTensors, key: str) -> dict[str, JSON]:
    """Return what a quant_state says; ValueError where it is no JSON of a mapping."""
    raw = stored.read_small(key)
    if raw is None or raw.dtype != np.uint8 or len(raw) > _MAX_JSON:
        raise ValueError("its quant_state is no text")
    try:
        state = parse_json(raw.tobytes(), _MAX_JSON)
    except ValueError:
        raise ValueError("its quant_state is no JSON") from None
    if not isinstance(state, dict):
        raise ValueError("its quant_state is no mapping")
    return state


def _shape(said: JSON) -> tuple[int, ...]:
    if not isinstance(said, list) or not 0 < len(said) <= _MAX_DIMENSIONS:
        raise ValueError("its quant_state has no shape")
    sizes = tuple(n for n in said if type(n) is int and 0 < n < 1 << 48)
    if len(sizes) != len(said):
        raise ValueError("its quant_state has no sound shape")
    return sizes


def _size(state: dict[str, JSON], name: str) -> int:
    size = state.get(name)
    if type(size) is not int or not 0 < size <= 1 << 20:
        raise ValueError(f"its quant_state has no sound {name}")
    return size


def _of_size(stored: StoredTensors, key: str, count: int, dtypes: tuple[str, ...]) -> TensorRef:
    ref, name = stored.tensors.get(key), key.rpartition(".")[2]
    if ref is None:
        raise ValueError(f"its {name} is missing")
    if ref.numel != count or ref.dtype not in dtypes:
        raise ValueError(f"its {name} are {ref.numel} {ref.dtype}, where {count} belong")
    return ref


def int8_rows(stored: StoredTensors) -> Iterator[Represented]:
    """Find int8 codes with `SCB`, the largest magnitude of each row (LLM.int8)."""
    for prefix, scales in stored.ending_in("SCB"):
        key = f"{prefix}weight" if not prefix.endswith("weight.") else prefix[:-1]
        codes = stored.tensors.get(key)
        if codes is None or codes.dtype != "int8":
            continue
        formats = (f"{prefix}weight_format", f"{key}.weight_format")
        beside = [name for name in formats if name in stored.tensors]
        sources = (key, prefix + "SCB", *beside)
        if len(codes.shape) != 2 or scales.numel != codes.shape[0] or scales.dtype != "float32":
            problem = f"its SCB are {scales.numel} {scales.dtype}, not one float32 for each row"
            yield Represented(key, codes.shape, sources, None, problem)
            continue
        if not all(_is_by_row(stored, name) for name in beside):
            problem = "its codes are laid out in tiles of a GPU: not decoded"
            yield Represented(key, codes.shape, sources, None, problem)
            continue
        rows, columns = codes.shape
        decoder = Int8Rows(
            rows,
            columns,
            "bitsandbytes int8",
            Numbers(codes, columns, "int8"),
            Blocks(Numbers(scales, 1, "float32"), columns, rows, (1, columns)),
        )
        yield Represented(key, codes.shape, sources, decoder)


def _is_by_row(stored: StoredTensors, key: str) -> bool:
    """Whether a weight_format says "row", whose number is 0: codes lie in the order of values."""
    said = stored.read_small(key)
    return said is not None and len(said) == 1 and int(said[0]) == 0
