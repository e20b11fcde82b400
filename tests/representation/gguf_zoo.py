"""Writes tests/golden/gguf: what ggml itself makes of numbers, and reads out of that.

    PYTHONPATH=. python -m tests.representation.gguf_zoo tests/golden/gguf

in an environment with xllamacpp 2026.10.11549, which holds ggml, gguf 0.19.0 and numpy 2.4.6.
`blocks.npz` has `NAME`, (rows, bytes) of uint8, and `NAME values`, (rows, elements) of float32, of
every format; `llama-q4_k_m.gguf` a small Llama in Q4_K and Q6_K, as Q4_K_M mixes them.
"""

from __future__ import annotations

import ctypes
import sys
from pathlib import Path
from typing import Any

import numpy as np
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType

from tests.representation.gguf_llama import Array, converted, llama, write_gguf

ROWS, COLUMNS = 3, 512
PLAIN = {"F32", "F16", "I8", "I16", "I32", "I64", "F64", "BF16"}
# Formats of intermediate results, which no file holds.
INNER = {"Q8_1", "Q8_K"}


class TypeTraits(ctypes.Structure):
    """The head of ggml_type_traits, in ggml.h."""

    _fields_ = (
        ("type_name", ctypes.c_char_p),
        ("blck_size", ctypes.c_int64),
        ("blck_size_interleave", ctypes.c_int64),
        ("type_size", ctypes.c_size_t),
        ("is_quantized", ctypes.c_bool),
        ("to_float", ctypes.c_void_p),
    )


def ggml() -> Any:
    """Return the library, its functions typed."""
    import xllamacpp

    (path,) = Path(xllamacpp.__file__).parent.glob("*.so")
    library = ctypes.CDLL(str(path))
    library.ggml_get_type_traits.restype = ctypes.POINTER(TypeTraits)
    library.ggml_quantize_chunk.restype = ctypes.c_size_t
    library.ggml_quantize_chunk.argtypes = (
        *(ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p),
        *(ctypes.c_int64, ctypes.c_int64, ctypes.c_int64, ctypes.c_void_p),
    )
    return library


def quantised(library: Any, values: Array, kind: GGMLQuantizationType, importance: Any) -> Array:
    """Return rows as ggml quantises them."""
    elements, size = GGML_QUANT_SIZES[kind]
    rows, columns = values.shape
    values = np.ascontiguousarray(values, np.float32)
    codes = np.zeros((rows, columns // elements * size), np.uint8)
    library.ggml_quantize_init(int(kind))
    given = None if importance is None else importance.ctypes.data
    count = library.ggml_quantize_chunk(
        int(kind), values.ctypes.data, codes.ctypes.data, 0, rows, columns, given
    )
    assert count == codes.nbytes, kind
    return codes


def write_blocks(library: Any, path: Path) -> None:
    """Write a few blocks of every format."""
    rng = np.random.default_rng(0)
    values = rng.standard_normal((ROWS, COLUMNS), dtype=np.float32)
    importance = np.abs(rng.standard_normal(COLUMNS, dtype=np.float32)) + 0.1
    made: dict[str, Any] = {}
    for kind, sizes in GGML_QUANT_SIZES.items():
        if kind.name in PLAIN | INNER or kind is GGMLQuantizationType.Q1_0:
            continue
        codes = quantised(library, values, kind, importance)
        read = np.zeros_like(values)
        traits = library.ggml_get_type_traits(int(kind)).contents
        assert (traits.blck_size, traits.type_size) == sizes
        to_float = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64)
        to_float(traits.to_float)(codes.ctypes.data, read.ctypes.data, read.size)
        assert np.corrcoef(read.ravel(), values.ravel())[0, 1] > 0.3, kind
        made |= {kind.name: codes, f"{kind.name} values": read}
    np.savez_compressed(path, **made)


def write_llama(library: Any, path: Path) -> None:
    """Write the Llama of seed 0."""

    def encode(name: str, values: Array) -> tuple[Array, Any]:
        if values.ndim == 1:
            return values, GGMLQuantizationType.F32
        kind = GGMLQuantizationType.Q4_K
        if any(part in name for part in ("attn_v", "ffn_down", "output.weight")):
            kind = GGMLQuantizationType.Q6_K
        return quantised(library, values, kind, None), kind

    write_gguf(path, converted(llama()), encode)


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    write_blocks(ggml(), folder / "blocks.npz")
    write_llama(ggml(), folder / "llama-q4_k_m.gguf")
