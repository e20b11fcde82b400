"""The file formats of checkpoints, written byte for byte the same each time.

torch is imported only by the functions that write pickles.
"""

from __future__ import annotations

import json
import math
import pickle
import shutil
import struct
import sys
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import IO, TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from megasim.zoo.architectures import Shape
from megasim.zoo.keys import diffusers_key

if TYPE_CHECKING:
    import torch

Arrays = Mapping[str, NDArray[Any]]
"""Key → array as stored; bfloat16 as its bits in uint16, float8_e4m3fn as its in uint8."""

_CODES = {"float32": "F32", "float16": "F16", "bfloat16": "BF16", "int64": "I64", "int32": "I32"}
_CODES["float8"] = "F8_E4M3"
_SIZES = {"F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "F8_E4M3": 1}


@contextmanager
def appearing(path: Path) -> Iterator[Path]:
    """Give a temporary path beside `path`, and move it there when all went well."""
    temporary = path.with_name(f".{path.name}.part")
    _remove(temporary)
    try:
        yield temporary
        if path.is_dir():
            shutil.rmtree(path)
        temporary.replace(path)
    finally:
        _remove(temporary)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def write_safetensors(path: Path, arrays: Arrays, metadata: Mapping[str, str]) -> None:
    """Write arrays to a .safetensors file; uint16 arrays become bfloat16, uint8 float8_e4m3fn."""
    names = {dtype: dtype.name for dtype in {array.dtype for array in arrays.values()}}
    names[np.dtype(np.uint16)] = "bfloat16"
    names[np.dtype(np.uint8)] = "float8"
    layout = {key: (names[array.dtype], array.shape) for key, array in arrays.items()}
    with path.open("wb") as file:
        stream_safetensors(file, layout, lambda key: [arrays[key]], metadata)


def stream_safetensors(
    file: IO[bytes],
    layout: Mapping[str, tuple[str, Shape]],
    pieces: Callable[[str], Iterable[NDArray[Any]]],
    metadata: Mapping[str, str],
) -> None:
    """Write a safetensors file tensor by tensor, holding one piece in memory.

    `layout` has dtype name and shape of each key; `pieces(key)` yields the elements in row-major
    order, as stored.
    """
    # As the safetensors library orders them, so that each tensor is aligned to its own dtype.
    keys = sorted(layout, key=lambda key: (-_SIZES[_CODES[layout[key][0]]], key))
    header: dict[str, Any] = {"__metadata__": {"format": "pt", **metadata}}
    end = 0
    for key in keys:
        dtype, shape = layout[key]
        start, code = end, _CODES[dtype]
        end = start + math.prod(shape) * _SIZES[code]
        header[key] = {"dtype": code, "shape": list(shape), "data_offsets": [start, end]}
    encoded = json.dumps(header, separators=(",", ":")).encode()
    encoded += b" " * (-len(encoded) % 8)
    file.write(struct.pack("<Q", len(encoded)) + encoded)
    for key in keys:
        for piece in pieces(key):
            file.write(np.ascontiguousarray(piece).data)


def write_sharded(folder: Path, arrays: Arrays, shards: int) -> None:
    """Write arrays as a folder of safetensors shards with their index."""
    folder.mkdir()
    keys = sorted(arrays)
    size = -(-len(keys) // shards)
    places: dict[str, str] = {}
    for i in range(shards):
        name = f"model-{i + 1:05}-of-{shards:05}.safetensors"
        part = {key: arrays[key] for key in keys[i * size : (i + 1) * size]}
        write_safetensors(folder / name, part, {})
        places |= dict.fromkeys(part, name)
    total = sum(array.nbytes for array in arrays.values())
    _write_json(
        folder / "model.safetensors.index.json",
        {"metadata": {"total_size": total}, "weight_map": places},
    )


def write_peft(folder: Path, factors: Arrays, *, base: str, rank: int, alpha: int) -> None:
    """Write the factors of a LoRA as PEFT does: a file, and its settings beside it."""
    folder.mkdir()
    write_safetensors(folder / "adapter_model.safetensors", factors, {})
    modules = sorted({key.split(".")[-3] for key in factors})
    settings = {"peft_type": "LORA", "base_model_name_or_path": base, "task_type": "CAUSAL_LM"}
    sizes = {"r": rank, "lora_alpha": alpha, "use_rslora": False, "target_modules": modules}
    _write_json(folder / "adapter_config.json", {**settings, **sizes})


_PIPELINE = {
    "unet": ("diffusers", "UNet2DConditionModel", "diffusion_pytorch_model.safetensors"),
    "vae": ("diffusers", "AutoencoderKL", "diffusion_pytorch_model.safetensors"),
    "text_encoder": ("transformers", "CLIPTextModel", "model.safetensors"),
}


def write_diffusers(folder: Path, arrays: Arrays) -> None:
    """Write an SD1 model, given in LDM keys, as a diffusers pipeline folder."""
    folder.mkdir()
    parts: dict[str, dict[str, NDArray[Any]]] = {name: {} for name in _PIPELINE}
    for key, array in arrays.items():
        part, name = diffusers_key(key)
        if part == "vae" and ".attentions." in name and array.ndim == 4:
            array = array.reshape(array.shape[:2])  # a 1×1 convolution, linear in diffusers
        parts[part][name] = array
    index: dict[str, Any] = {"_class_name": "StableDiffusionPipeline"}
    for part, (library, class_name, file) in _PIPELINE.items():
        (folder / part).mkdir()
        write_safetensors(folder / part / file, parts[part], {})
        config = (
            {"architectures": [class_name]}
            if library == "transformers"
            else {"_class_name": class_name}
        )
        _write_json(folder / part / "config.json", config)
        index[part] = [library, class_name]
    _write_json(folder / "model_index.json", index)


def _write_json(path: Path, content: object) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def write_ckpt(
    path: Path, arrays: Arrays, metadata: Mapping[str, str | int], training: bool
) -> None:
    """Write a .ckpt (torch's zip format) with a nested `state_dict`.

    With `training` it also holds what Lightning leaves in one: the state of an optimiser, and of a
    callback named by its class, which a reader must not import.
    """
    import torch

    state = {key: _tensor(array) for key, array in arrays.items()}
    content: dict[str, Any] = {**metadata, "state_dict": state}
    with _lightning_class() as callback, path.open("wb") as file:
        if training:
            first = sorted(arrays)[:2]
            content |= {
                "pytorch-lightning_version": "1.4.2",
                "callbacks": {callback: {"monitor": "val/loss", "best_model_score": None}},
                "optimizer_states": [
                    {
                        "state": {
                            i: {"step": 1000, "exp_avg": torch.zeros_like(state[key])}
                            for i, key in enumerate(first)
                        },
                        "param_groups": [{"lr": 1e-4, "params": list(range(len(first)))}],
                    }
                ],
                "lr_schedulers": [],
            }
        torch.save(content, file)  # by handle: from a path it would store the file's name


def write_training(path: Path, arrays: Arrays, metadata: Mapping[str, str | int]) -> None:
    """Write what a training run keeps: the weights, their EMA copy, and the state of Adam.

    The EMA copy lags behind by a hundredth of each weight.
    """
    import torch

    state = {key: _tensor(array) for key, array in arrays.items()}
    learned = [key for key, array in arrays.items() if not key.endswith(_NOT_LEARNED)]
    ema = {
        key: _tensor(array * np.float32(0.99) if key in learned else array)
        for key, array in arrays.items()
    }
    moments = {
        i: {
            "step": torch.tensor(float(metadata.get("global_step", 0))),
            "exp_avg": torch.zeros_like(state[key]),
            "exp_avg_sq": torch.full_like(state[key], 1e-8),
        }
        for i, key in enumerate(learned)
    }
    groups = [{"lr": 1e-3, "betas": (0.9, 0.999), "params": list(range(len(learned)))}]
    optimizer = {"state": moments, "param_groups": groups}
    content = {**metadata, "model": state, "ema": ema, "optimizer": optimizer}
    with path.open("wb") as file:
        torch.save(content, file)  # by handle: from a path it would store the file's name


_NOT_LEARNED = ("running_mean", "running_var", "num_batches_tracked")


def _tensor(array: NDArray[Any]) -> torch.Tensor:
    import torch

    return torch.from_numpy(np.ascontiguousarray(array).reshape(array.shape))


@contextmanager
def _lightning_class() -> Iterator[type]:
    """Give a class that pickles as Lightning's ModelCheckpoint, which need not be installed."""
    name = "pytorch_lightning.callbacks.model_checkpoint"
    parts = name.split(".")
    names = [".".join(parts[: i + 1]) for i in range(len(parts))]
    before = {name: sys.modules.get(name) for name in names}
    stand_in = type("ModelCheckpoint", (), {"__module__": name})
    for each in names:
        sys.modules[each] = ModuleType(each)
    sys.modules[name].ModelCheckpoint = stand_in  # type: ignore[attr-defined]
    try:
        yield stand_in
    finally:
        for each, module in before.items():
            if module is None:
                del sys.modules[each]
            else:
                sys.modules[each] = module


class _Storage:
    """What the pickle of a legacy file names and the end of the file holds."""

    def __init__(self, array: NDArray[Any], key: str) -> None:
        self.array = array
        self.key = key


class _LegacyPickler(pickle.Pickler):
    """Pickles arrays as torch tensors whose storages stand outside the pickle."""

    def __init__(self, file: IO[bytes]) -> None:
        super().__init__(file, protocol=2)
        self.storages: list[_Storage] = []

    def persistent_id(self, obj: object) -> tuple[Any, ...] | None:
        if not isinstance(obj, _Storage):
            return None
        import torch

        types = {
            "float32": torch.FloatStorage,
            "float16": torch.HalfStorage,
            "int64": torch.LongStorage,
            "int32": torch.IntStorage,
        }
        return "storage", types[obj.array.dtype.name], obj.key, "cpu", obj.array.size, None

    def reducer_override(self, obj: object) -> Any:
        if not isinstance(obj, np.ndarray):
            return NotImplemented
        from torch._utils import _rebuild_tensor_v2

        storage = _Storage(obj, str(len(self.storages)))
        self.storages.append(storage)
        strides = tuple(step // obj.itemsize for step in obj.strides)
        return _rebuild_tensor_v2, (storage, 0, obj.shape, strides, False, OrderedDict())


def write_legacy(path: Path, arrays: Arrays) -> None:
    """Write a bare state dict in the pickle format that torch used before 1.6.

    torch can still write it, but names the storages by their memory addresses: other bytes each
    time. So the format is written here: five pickles (magic number, version, machine, content,
    storage keys), then each storage as its length and its bytes.
    """
    machine = {
        "protocol_version": 1001,
        "little_endian": True,
        "type_sizes": {"short": 2, "int": 4, "long": 4},
    }
    with path.open("wb") as file:
        for part in (0x1950A86A20F9469CFC6C, 1001, machine):
            pickle.dump(part, file, protocol=2)
        pickler = _LegacyPickler(file)
        pickler.dump({key: np.ascontiguousarray(a).reshape(a.shape) for key, a in arrays.items()})
        pickle.dump([storage.key for storage in pickler.storages], file, protocol=2)
        for storage in pickler.storages:
            file.write(struct.pack("<q", storage.array.size) + storage.array.tobytes())
