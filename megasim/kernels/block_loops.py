"""Blocks of GGUF → the values that they stand for: the formats that most files hold.

Each loop takes the blocks one after another, and the scales of their heads as float32, which cost
a loop more to read than all else. Values are products and differences in float32 in the order in
which ggml takes them, so that they are the same to the last bit. Layouts: ggml-common.h and
ggml-quants.c.
"""

from __future__ import annotations

import numpy as np

from megasim.kernels.compiled import compiled, inlined
from megasim.kernels.state import Bytes, Singles

SMALL, SUPER = 32, 256  # elements of a block


@compiled()
def decode_q8_0(blocks: Bytes, scales: Singles, out: Singles) -> None:
    """34 bytes: a scale and 32 signed codes."""
    for i in range(len(scales)):
        codes = blocks[34 * i + 2 : 34 * i + 34].view(np.int8)
        values = out[SMALL * i : SMALL * i + SMALL]
        scale = scales[i]
        for j in range(SMALL):
            values[j] = np.float32(codes[j]) * scale


@compiled()
def decode_q4_0(blocks: Bytes, scales: Singles, out: Singles) -> None:
    """18 bytes: a scale and 32 codes, the first 16 in the low halves of 16 bytes."""
    for i in range(len(scales)):
        codes = blocks[18 * i + 2 : 18 * i + 18]
        low = out[SMALL * i : SMALL * i + 16]
        high = out[SMALL * i + 16 : SMALL * i + SMALL]
        scale = scales[i]
        for j in range(16):
            low[j] = np.float32(np.int32(codes[j] & 15) - 8) * scale
            high[j] = np.float32(np.int32(codes[j] >> 4) - 8) * scale


@inlined
def _six_bits(six: Bytes, group: int) -> tuple[np.uint8, np.uint8]:
    """Return scale and minimum of one of 8 groups: 6 bits each, packed into 12 bytes."""
    if group < 4:
        factor, bottom = six[group] & 63, six[group + 4] & 63
    else:
        factor = (six[group + 4] & 15) | ((six[group - 4] >> 2) & 48)
        bottom = (six[group + 4] >> 4) | ((six[group] >> 2) & 48)
    return factor, bottom


@compiled()
def decode_q4_k(blocks: Bytes, scales: Singles, least: Singles, out: Singles) -> None:
    """144 bytes: two scales, 8 scales and 8 minima of 6 bits, 256 codes of 4 bits."""
    for i in range(len(scales)):
        six = blocks[144 * i + 4 : 144 * i + 16]
        for pair in range(4):
            codes = blocks[144 * i + 16 + 32 * pair : 144 * i + 48 + 32 * pair]
            for half in range(2):
                group = 2 * pair + half
                factor, bottom = _six_bits(six, group)
                scale = scales[i] * np.float32(factor)
                minimum = least[i] * np.float32(bottom)
                values = out[SUPER * i + 32 * group : SUPER * i + 32 * group + 32]
                shift = np.uint8(4 * half)
                for j in range(32):
                    values[j] = scale * np.float32((codes[j] >> shift) & 15) - minimum


@compiled()
def decode_q5_k(blocks: Bytes, scales: Singles, least: Singles, out: Singles) -> None:
    """176 bytes: as Q4_K, and between the scales and the codes their fifth bits."""
    for i in range(len(scales)):
        six = blocks[176 * i + 4 : 176 * i + 16]
        fifth = blocks[176 * i + 16 : 176 * i + 48]
        for pair in range(4):
            codes = blocks[176 * i + 48 + 32 * pair : 176 * i + 80 + 32 * pair]
            for half in range(2):
                group = 2 * pair + half
                factor, bottom = _six_bits(six, group)
                scale = scales[i] * np.float32(factor)
                minimum = least[i] * np.float32(bottom)
                values = out[SUPER * i + 32 * group : SUPER * i + 32 * group + 32]
                shift, bit = np.uint8(4 * half), np.uint8(group)
                for j in range(32):
                    code = ((codes[j] >> shift) & 15) | (((fifth[j] >> bit) & 1) << 4)
                    values[j] = scale * np.float32(code) - minimum


@compiled()
def decode_q6_k(blocks: Bytes, scales: Singles, out: Singles) -> None:
    """210 bytes: 256 codes of 6 bits in two pieces, 16 scales of 8 bits, a scale of all."""
    for i in range(len(scales)):
        eight = blocks[210 * i + 192 : 210 * i + 208].view(np.int8)
        for part in range(2):
            upper = blocks[210 * i + 128 + 32 * part : 210 * i + 160 + 32 * part]
            for quarter in range(4):
                begin = 210 * i + 64 * part + 32 * (quarter & 1)
                lower = blocks[begin : begin + 32]
                start = SUPER * i + 128 * part + 32 * quarter
                down, up = np.uint8(4 * (quarter >> 1)), np.uint8(2 * quarter)
                for half in range(2):
                    scale = scales[i] * np.float32(eight[8 * part + 2 * quarter + half])
                    values = out[start + 16 * half : start + 16 * half + 16]
                    low = lower[16 * half : 16 * half + 16]
                    top = upper[16 * half : 16 * half + 16]
                    for j in range(16):
                        code = ((low[j] >> down) & 15) | (((top[j] >> up) & 3) << 4)
                        values[j] = scale * np.float32(np.int32(code) - 32)
