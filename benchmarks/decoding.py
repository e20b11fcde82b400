"""What decoding costs: core time of the fingerprints of as many values, by representation."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import numpy.typing as npt
from safetensors.numpy import save_file

from benchmarks.measure import Row
from megasim.checkpoint.tensors import TensorRef
from megasim.fingerprint.tensor import fingerprint_refs
from megasim.representation.opening import open_model

_COLUMNS = 4096
_GGUF = {"Q8_0": (0,), "Q4_0": (0,), "Q4_K": (0, 2), "Q5_K": (0, 2), "Q6_K": (208,)}
Bytes = npt.NDArray[np.uint8]


def measure_decoding(folder: Path, values: int, tensors: int = 4, runs: int = 5) -> list[Row]:
    """Return the core time of each representation, and how many times that of bfloat16 it is.

    The representations take turns, and of each the fastest run counts: what else the machine does
    then disturbs none of them more than the others.

    Args:
        values: of a tensor.
    """
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    rows = values // _COLUMNS
    writers: dict[str, Callable[[Path], None]] = {
        "bf16": lambda path: _write_bfloat16(path, rng, rows, tensors),
        "FP8 scaled": lambda path: _write_float8(path, rng, rows, tensors),
        "NF4 nested": lambda path: _write_nf4(path, rng, rows, tensors),
    }
    for kind in _GGUF if find_spec("gguf") else ():
        writers[kind] = lambda path, kind=kind: _write_gguf(path, rng, rows, tensors, kind)
    refs: dict[str, list[TensorRef]] = {}
    for name, write in writers.items():
        path = folder / f"{name}.{'gguf' if name in _GGUF else 'safetensors'}"
        write(path)
        refs[name] = list(open_model(path).tensors.values())
        fingerprint_refs(refs[name][:1])  # compiled by now, and in the cache of the system
    best = dict.fromkeys(refs, float("inf"))
    for _ in range(runs):
        for name, those in refs.items():
            start = time.process_time()
            fingerprint_refs(those)
            best[name] = min(best[name], time.process_time() - start)
    count = rows * _COLUMNS * tensors
    return [
        {
            "what": "decoding",
            "representation": name,
            "core ns a value": 1e9 * seconds / count,
            "/ bf16": seconds / best["bf16"],
        }
        for name, seconds in best.items()
    ]


def _write_bfloat16(path: Path, rng: np.random.Generator, rows: int, tensors: int) -> None:
    singles = rng.standard_normal((rows, _COLUMNS), np.float32).view(np.uint32)
    _save(
        path, {f"{i}.weight": ("BF16", (singles >> 16).astype(np.uint16)) for i in range(tensors)}
    )


def _write_float8(path: Path, rng: np.random.Generator, rows: int, tensors: int) -> None:
    held: dict[str, tuple[str, npt.NDArray[np.generic]]] = {}
    for i in range(tensors):
        codes = rng.integers(0, 120, (rows, _COLUMNS), np.uint8)
        held[f"{i}.weight"] = ("F8_E4M3", codes | rng.choice(np.uint8([0, 128]), codes.shape))
        held[f"{i}.weight_scale"] = ("F32", np.full((rows, 1), 0.01, np.float32))
    _save(path, held)


def _save(path: Path, held: dict[str, tuple[str, npt.NDArray[np.generic]]]) -> None:
    """Write arrays as .safetensors, in dtypes that numpy lacks too."""
    header: dict[str, object] = {}
    end = 0
    for key, (dtype, array) in held.items():
        offsets = [end, end + array.nbytes]
        header[key] = {"dtype": dtype, "shape": list(array.shape), "data_offsets": offsets}
        end = offsets[1]
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for _, array in held.values():
            file.write(array.tobytes())


def _write_nf4(path: Path, rng: np.random.Generator, rows: int, tensors: int) -> None:
    """As bitsandbytes stores it, the scales of the blocks quantised again."""
    levels = np.linspace(-1, 1, 16, dtype=np.float32)
    held: dict[str, npt.NDArray[np.generic]] = {}
    for i in range(tensors):
        key, blocks = f"{i}.weight", rows * _COLUMNS // 64
        held |= {
            key: rng.integers(0, 256, (rows * _COLUMNS // 2, 1), np.uint8),
            f"{key}.absmax": rng.integers(0, 256, blocks, np.uint8),
            f"{key}.quant_map": levels,
            f"{key}.nested_absmax": np.full(-(-blocks // 256), 0.1, np.float32),
            f"{key}.nested_quant_map": np.linspace(-1, 1, 256, dtype=np.float32),
        }
        state = {
            "quant_type": "nf4",
            "blocksize": 64,
            "dtype": "bfloat16",
            "shape": [rows, _COLUMNS],
            "nested_blocksize": 256,
            "nested_dtype": "float32",
            "nested_offset": 0.2,
        }
        text = np.frombuffer(json.dumps(state).encode(), np.uint8)
        held[f"{key}.quant_state.bitsandbytes__nf4"] = text
    save_file(held, path)


def _write_gguf(path: Path, rng: np.random.Generator, rows: int, tensors: int, kind: str) -> None:
    """Blocks of random codes with sound scales."""
    from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, GGUFWriter

    code = GGMLQuantizationType[kind]
    elements, size = GGML_QUANT_SIZES[code]
    writer = GGUFWriter(path, "none")
    for i in range(tensors):
        blocks: Bytes = rng.integers(0, 256, (rows, _COLUMNS // elements, size), np.uint8)
        for place in _GGUF[kind]:
            blocks[..., place : place + 2] = np.array([0.01], np.float16).view(np.uint8)
        writer.add_tensor(f"{i}.weight", blocks.reshape(rows, -1), raw_dtype=code)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
