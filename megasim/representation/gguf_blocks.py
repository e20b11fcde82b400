"""The block formats of GGUF (Q4_0 to Q8_0, K, IQ and TQ types, MXFP4) → their values.

Those that most files hold are decoded by loops of our own, the others by the library of llama.cpp,
the package gguf, which is imported when the first such block is. Values are ggml's to the last bit.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from typing import Final

import numpy as np
import numpy.typing as npt

from megasim.checkpoint.gguf_format import BlockType, block_types
from megasim.checkpoint.tensor_refs import ElementReader
from megasim.checkpoint.tensors import TensorRef
from megasim.errors import EXTRAS
from megasim.kernels import loops
from megasim.kernels.machine_code import Loop
from megasim.kernels.state import Singles
from megasim.representation.boxes import Box, BoxDecoder, as_singles, read_box
from megasim.representation.logical import Represented, StoredTensors

_PLUS_ONE: Final = " plus one"
_TRANSPOSED: Final = " transposed"


@dataclass(frozen=True)
class GgufBlocks(BoxDecoder):
    """Rows of blocks of codes, each with scales of its own.

    Attributes:
        code: the name of the format, as "Q4_K".
        blocks: (rows, bytes of a row).
    """

    code: str
    blocks: TensorRef

    def fill(self, reader: ElementReader, box: Box, out: Singles) -> None:
        """Fill `out` with the values of a box; whole blocks around it are decoded."""
        raw, columns = self._blocks_around(reader, box)
        out[...] = decode_blocks(raw, self.code)[:, columns]

    def interval_box(self, reader: ElementReader, box: Box) -> tuple[Singles, Singles] | None:
        """Return the ends of the intervals that are rounded to the codes of a box.

        None for formats whose values do not lie on a grid, or are not rounded one by one.
        """
        grid = _GRIDS.get(self.code) or _TABLES.get(self.code)
        if grid is None:
            return None
        raw, columns = self._blocks_around(reader, box)
        low, high = grid.intervals(raw, self.code)
        return low[:, columns], high[:, columns]

    def _blocks_around(
        self, reader: ElementReader, box: Box
    ) -> tuple[npt.NDArray[np.uint8], slice]:
        """Return the whole blocks around a box, and which of their elements it is."""
        kind = _kinds()[self.code]
        row_bytes = self.columns // kind.elements * kind.nbytes
        first, last = box.left // kind.elements, -(-box.right // kind.elements)
        part = Box(box.top, box.bottom, first * kind.nbytes, last * kind.nbytes)
        raw = read_box(reader, self.blocks, row_bytes, part)
        begin = box.left - first * kind.elements
        return np.asarray(raw), slice(begin, begin + box.right - box.left)


@dataclass(frozen=True)
class PlusOne(BoxDecoder):
    """Values that were stored with 1 added, as llama.cpp does with the norm gains of Gemma."""

    values: TensorRef

    def fill(self, reader: ElementReader, box: Box, out: Singles) -> None:
        raw = read_box(reader, self.values, self.columns, box)
        out[...] = as_singles(raw, self.values.dtype).reshape(out.shape) - np.float32(1)


@cache
def _kinds() -> dict[str, BlockType]:
    return {kind.name: kind for kind in block_types().values()}


# Formats that a loop of our own decodes, and where the scales stand in a block.
_LOOPS: Final[dict[str, tuple[Loop, tuple[int, ...]]]] = {
    "Q8_0": (loops.decode_q8_0, (0,)),
    "Q4_0": (loops.decode_q4_0, (0,)),
    "Q4_K": (loops.decode_q4_k, (0, 2)),
    "Q5_K": (loops.decode_q5_k, (0, 2)),
    "Q6_K": (loops.decode_q6_k, (208,)),
}


def decode_blocks(raw: npt.NDArray[np.uint8], code: str) -> Singles:
    """Return the values of rows of blocks, as float32.

    Args:
        raw: (rows, whole blocks) of uint8.
        code: the name of the format.

    >>> decode_blocks(np.zeros((1, 34), np.uint8), "Q8_0").shape
    (1, 32)
    """
    kind = _kinds()[code]
    if code in _LOOPS:
        loop, places = _LOOPS[code]
        blocks = np.ascontiguousarray(raw).reshape(-1, kind.nbytes)
        heads = (blocks[:, place : place + 2] for place in places)
        scales = [head.copy().view(np.float16).astype(np.float32).reshape(-1) for head in heads]
        out = np.empty(len(blocks) * kind.elements, np.float32)
        loop(blocks.reshape(-1), *scales, out)
        return out.reshape(len(raw), -1)
    from gguf.constants import GGMLQuantizationType
    from gguf.quants import dequantize

    with np.errstate(all="ignore"):  # a scale may be NaN or infinite: so are its values then
        found: Singles = dequantize(raw, GGMLQuantizationType[code])
    return found


@dataclass(frozen=True)
class RoundingGrid:
    """The evenly spaced numbers that the values of a block are rounded to.

    Attributes:
        codes: the bytes of a block that hold codes, as ranges.
        lowest, highest: the byte whose codes are all the first or the last.
        steps: from the first to the last.
        slack: how much the scale may be off from that by which the codes were made, as a part of
            it: Q8_0 rounds it once the codes are made, the K types before.
    """

    codes: tuple[tuple[int, int], ...]
    steps: int
    slack: float = 2.0**-20
    lowest: int = 0x00
    highest: int = 0xFF

    def intervals(self, raw: npt.NDArray[np.uint8], code: str) -> tuple[Singles, Singles]:
        """Return the ends of the intervals of all elements of whole blocks.

        The first and the last number of a grid also stand for all beyond them, which were cut off;
        and a grid of no width for all.
        """
        values = decode_blocks(raw, code)
        first, last = (decode_blocks(self._filled(raw, code, b), code) for b in self._ends)
        step = np.abs(last - first) / np.float32(self.steps)
        far = np.maximum(np.maximum(np.abs(first), np.abs(last)), np.abs(values))
        reach = step / 2 + far * np.float32(self.slack)
        below, above = np.minimum(first, last), np.maximum(first, last)
        low = np.where(values - below < step / 4, -np.inf, values - reach)
        high = np.where(above - values < step / 4, np.inf, values + reach)
        flat = ~(step > 0)
        return (
            np.where(flat, -np.inf, low).astype(np.float32),
            np.where(flat, np.inf, high).astype(np.float32),
        )

    @property
    def _ends(self) -> tuple[int, int]:
        return self.lowest, self.highest

    def _filled(self, raw: npt.NDArray[np.uint8], code: str, byte: int) -> npt.NDArray[np.uint8]:
        """Return the blocks with all codes the same."""
        blocks = np.array(raw).reshape(-1, _kinds()[code].nbytes)
        for begin, end in self.codes:
            blocks[:, begin:end] = byte
        return blocks.reshape(raw.shape)


# What rounding to float16 takes away of a scale.
_HALF: Final = 2.0**-10


@dataclass(frozen=True)
class RoundingTable:
    """The unevenly spaced numbers of 16 codes, that the values of a block are rounded to.

    Attributes:
        codes: the bytes of a block that hold two codes each, as a range.
    """

    codes: tuple[int, int]

    def intervals(self, raw: npt.NDArray[np.uint8], code: str) -> tuple[Singles, Singles]:
        """Return the ends of the intervals, as those of `RoundingGrid`."""
        values = decode_blocks(raw, code)
        low = np.full(values.shape, -np.inf, np.float32)
        high = np.full(values.shape, np.inf, np.float32)
        far = np.abs(values)
        for number in range(16):
            blocks = np.array(raw).reshape(-1, _kinds()[code].nbytes)
            blocks[:, self.codes[0] : self.codes[1]] = number * 0x11
            level = decode_blocks(blocks.reshape(raw.shape), code)
            middle = (level + values) / 2
            np.maximum(low, middle, out=low, where=level < values)
            np.minimum(high, middle, out=high, where=level > values)
            np.maximum(far, np.abs(level), out=far)
        slack = far * np.float32(_HALF)
        return low - slack, high + slack


_TABLES: Final = {
    "IQ4_NL": RoundingTable((2, 18)),
    "IQ4_XS": RoundingTable((8, 136)),
    "MXFP4": RoundingTable((1, 17)),
}
# Of Q4_0, Q4_1, Q5_0 and Q5_1 as ggml makes them without an importance matrix; with one, it makes
# codes by one scale and stores another, so that some need not be the nearest.
_GRIDS: Final = {
    "Q8_0": RoundingGrid(((2, 34),), 255, _HALF, 0x80, 0x7F),
    "Q4_0": RoundingGrid(((2, 18),), 15, _HALF),
    "Q4_1": RoundingGrid(((4, 20),), 15, _HALF),
    "Q5_0": RoundingGrid(((2, 22),), 31, _HALF),
    "Q5_1": RoundingGrid(((4, 24),), 31, _HALF),
    "Q2_K": RoundingGrid(((16, 80),), 3),
    "Q3_K": RoundingGrid(((0, 96),), 7),
    "Q4_K": RoundingGrid(((16, 144),), 15),
    "Q5_K": RoundingGrid(((16, 176),), 31),
    "Q6_K": RoundingGrid(((0, 192),), 63),
}


@cache
def _decodable() -> frozenset[str]:
    """The names of the formats that are decoded here, and of those that the installed gguf does."""
    if any(find_spec(module) is None for module in EXTRAS["gguf"]):
        return frozenset(_LOOPS)
    from gguf import quants

    return frozenset(_LOOPS) | {str(kind.name) for kind in quants._type_traits}


def gguf_blocks(stored: StoredTensors) -> Iterable[Represented]:
    """Yield the tensors of a GGUF file that are stored in block formats."""
    for key, odd in stored.unread.items():
        code = odd.dtype or ""
        plain = code.removesuffix(_PLUS_ONE).removesuffix(_TRANSPOSED)
        if plain not in _kinds() or len(odd.stored) != 1 or odd.shape is None:
            continue
        shape, ref = odd.shape, odd.stored[0]
        rows = ref.shape[0] if len(ref.shape) > 1 else 1
        columns = math.prod(shape) // max(rows, 1)
        if code.endswith(_PLUS_ONE):
            plus_one = PlusOne(1, ref.numel, f"gguf {plain} less one", ref)
            yield Represented(key, shape, (key,), plus_one)
        elif plain in _decodable():
            blocks = GgufBlocks(rows, columns, f"gguf {plain}", plain, ref)
            if code.endswith(_TRANSPOSED):
                yield Represented(key, shape[::-1], (key,), blocks.transposed())
            else:
                yield Represented(key, shape, (key,), blocks)
        else:
            why = f"{plain} of GGUF: not decoded"
            if _decodable() == frozenset(_LOOPS):
                why += "; run `pip install 'megasim[gguf]'`"
            yield Represented(key, shape, (key,), None, why)
