"""Files of the zoo as they are read here, by other means than those that are tested."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.numpy import load_file

from megasim.zoo.architectures import (
    sd1_shapes,
)
from megasim.zoo.building import (
    ZooModel,
)
from megasim.zoo.keys import (
    TEXT_SD1,
    VAE,
    diffusers_key,
)

Arrays = dict[str, NDArray[Any]]

POSITIONS = TEXT_SD1 + "embeddings.position_ids"


def read(folder: Path, planned: ZooModel) -> Arrays:
    path = folder / planned.file
    if planned.dtype == "bfloat16":
        return read_bfloat16(path)
    if planned.layout == "diffusers":
        found = {
            (part, key): array
            for part in ("unet", "vae", "text_encoder")
            for file in (path / part).glob("*.safetensors")
            for key, array in load_file(file).items()
        }
        renamed: Arrays = {}
        for key, shape in sd1_shapes(1 / 32).items():
            renamed[key] = found.pop(diffusers_key(key)).reshape(shape)
        assert not found
        return renamed
    if path.suffix == ".safetensors":
        return load_file(path)
    raw = load_pickle(path)
    state = raw.get("state_dict", raw)
    found_arrays = {key: tensor.numpy() for key, tensor in state.items()}
    if planned.layout == "novelai":
        short = "cond_stage_model.transformer."
        return {
            TEXT_SD1 + k.removeprefix(short) if k.startswith(short) else k: v
            for k, v in found_arrays.items()
        }
    if planned.layout == "bare-vae":
        return {VAE + k: v for k, v in found_arrays.items() if not k.startswith("loss.")}
    return found_arrays


def load_pickle(path: Path) -> dict[str, Any]:
    import torch

    class Inert(type):
        pass

    class Unpickler(pickle.Unpickler):
        def find_class(self, module: str, name: str) -> Any:
            if module.startswith("pytorch_lightning"):
                return Inert(name, (), {})
            return super().find_class(module, name)

    class Module:
        Unpickler: Any
        load = staticmethod(pickle.load)

    Module.Unpickler = Unpickler
    return torch.load(path, pickle_module=Module, weights_only=False)  # a file of our own


def read_bfloat16(path: Path) -> Arrays:
    import torch

    result: Arrays = {}
    for file in sorted(path.glob("*.safetensors")) if path.is_dir() else [path]:
        with safe_open(file, "pt") as opened:
            for key in opened.keys():  # noqa: SIM118 - not a mapping
                result[key] = opened.get_tensor(key).to(torch.float32).numpy()
    return result
