"""Which files of a folder make one model: shards, diffusers pipelines, variants.

Only names and the small json files beside the weights are read here.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from megasim.checkpoint.limits import DEFAULT_LIMITS, Limits, remedy
from megasim.checkpoint.strict_json import JSON, JsonTooLarge, read_json
from megasim.errors import CheckpointError, printable

SUFFIXES: Final = (
    *(".safetensors", ".gguf", ".ckpt", ".pt", ".pth", ".bin", ".jit", ".th"),
    *(".pth.tar", ".pt.tar"),  # as older code names them: no archives
    *(".nemo", ".pt2"),
)

# Files that end like checkpoints and stand beside them, but hold no model.
SKIPPED_FILES: Final = {
    "optimizer.bin": "the state of the optimiser",
    "optimizer.pt": "the state of the optimiser",
    "scheduler.bin": "the state of the learning-rate schedule",
    "scheduler.pt": "the state of the learning-rate schedule",
    "scaler.pt": "the state of the gradient scaler",
    "training_args.bin": "the arguments of a training run",
    "rng_state.pth": "the state of the random generators",
    "openvino_model.bin": "weights of OpenVINO, not of torch",
}

# Beside the shards of torch.distributed.checkpoint.
DISTRIBUTED_METADATA: Final = ".metadata"
DISTRIBUTED: Final = (
    "a shard of torch.distributed.checkpoint, which holds pieces of tensors",
    "name its folder, which holds `.metadata`; or join it: "
    "python -m torch.distributed.checkpoint.format_utils dcp_to_torch FOLDER x.pt",
)
# Other files that hold weights, by their ending: what they are, and how to get to the weights.
FOREIGN_ENDINGS: Final = {
    ".distcp": DISTRIBUTED,
    ".onnx": ("an ONNX file", ""),
    ".h5": ("an HDF5 file", ""),
    ".keras": ("a Keras file", ""),
    ".tflite": ("a TensorFlow Lite file", ""),
    ".msgpack": ("weights of Flax", ""),
    ".pkl": ("a pickle", "load it and save its tensors with torch.save or safetensors"),
    ".npz": (
        "numpy arrays, which may or may not be weights",
        "name the file itself if they are weights",
    ),
}

# The names Hugging Face gives to the weights of a folder, to their index, and to their shards.
_WEIGHTS = re.compile(
    r"(?P<stem>diffusion_pytorch_model|pytorch_model|model)"
    r"(?:\.(?P<variant>[\w-]+))?\.(?P<suffix>safetensors|bin)"
)
_INDEX = re.compile(r".+\.(?P<suffix>safetensors|bin)\.index(?:\.(?P<variant>[\w-]+))?\.json")
_SHARD = re.compile(r".+-\d{5}-of-\d{5}(\.[\w-]+)?\.(safetensors|bin)")
_NUMBERED = re.compile(
    r"(?P<stem>.+)-(?P<number>\d{5})-of-(?P<total>\d{5})(?P<rest>(\.[\w-]+)?\.(safetensors|bin|gguf))"
)
# Of DeepSpeed's ZeRO: the states of the module, and what each rank has of those of the optimiser.
_MODULE = re.compile(r"(?:zero_pp_rank_(?P<rank>\d+)_)?mp_rank_00_model_states\.pt")
_RANK = re.compile(r"(?:bf16_|fp16_)?zero_pp_rank_(?P<rank>\d+)_mp_rank_00_optim_states\.pt")
_OPTIMISER = re.compile(r"(bf16_|fp16_)?(zero_pp_rank_\d+_)?mp_rank_\d+_optim_states\.pt")
_SPLIT_MODEL = re.compile(r".*mp_rank_(?!00_)\d+_(?:model|optim)_states\.pt")
_GENERIC_STEM = re.compile(r"(diffusion_pytorch_model|pytorch_model|adapter_model|model)(?=$|\.)")

# Most faithful first: the plain weights before their casts, before those without EMA.
_VARIANT_ORDER = {"": 0, "fp32": 1, "bf16": 3, "fp16": 4, "non_ema": 9}
_NO_WEIGHTS = {"scheduler", "tokenizer", "tokenizer_2", "tokenizer_3", "feature_extractor"}
_CONFIG_BYTES = 64 << 10
_DAMAGED = "get the folder again"


@dataclass(frozen=True)
class Weights:
    """The files of one state dict.

    Attributes:
        files: one file, or the shards in the order of their names.
        shard_of: key to the name of its shard; None for a single file.
        metadata: what the index json says of the whole.
    """

    files: tuple[Path, ...]
    shard_of: dict[str, str] | None = None
    metadata: dict[str, JSON] = field(default_factory=dict)


def choose_weights(folder: Path) -> Path | None:
    """Return the weights file, or the index json of the shards, that stands for a folder.

    Of several, the plain variant comes before fp16 and the like, and `non_ema` last; then
    .safetensors before .bin; then shards last. None if no file has one of the usual names.
    """
    found: list[tuple[int, int, int, str]] = []
    for name in _file_names(folder):
        index = _INDEX.fullmatch(name)
        if match := index or (None if _SHARD.fullmatch(name) else _WEIGHTS.fullmatch(name)):
            rank = _VARIANT_ORDER.get(match["variant"] or "", 2)
            found.append((rank, match["suffix"] == "bin", index is not None, name))
    return folder / min(found)[-1] if found else None


def read_index(path: Path, limits: Limits = DEFAULT_LIMITS) -> Weights:
    """Return the shards that an index json lists.

    Raises CheckpointError if it is malformed, names a file outside of its folder, or one that
    is not there.
    """
    try:
        index = read_json(path, limits.header_bytes, limits.header_values)
    except JsonTooLarge as e:
        raise CheckpointError(path, str(e), remedy()) from None
    except ValueError as e:
        raise CheckpointError(path, str(e), _DAMAGED) from None
    shards = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(index, dict) or not isinstance(shards, dict) or not shards:
        raise CheckpointError(path, "an index without a weight_map", _DAMAGED)
    shard_of: dict[str, str] = {}
    for key, name in shards.items():
        if not isinstance(name, str) or not name or re.search(r"[/\\:\0]|^\.", name):
            raise CheckpointError(path, "a shard outside of the folder", "do not use it", key)
        shard_of[key] = name
    names = sorted(set(shard_of.values()))
    for name in names:
        if not (path.parent / name).is_file():
            raise CheckpointError(path, f"the shard {printable(name)} is not there", _DAMAGED)
    metadata = index.get("metadata")
    return Weights(
        files=tuple(path.parent / name for name in names),
        shard_of=shard_of,
        metadata=metadata if isinstance(metadata, dict) else {},
    )


def shards_alone(folder: Path) -> Weights | None:
    """Return the shards of a folder that holds all of one model, no index, and no other weights.

    None for any other folder: a shard is then a checkpoint of its own.
    """
    names = [n for n in _file_names(folder) if n.endswith(SUFFIXES) and n not in SKIPPED_FILES]
    found = [_NUMBERED.fullmatch(name) for name in names]
    if len(names) < 2 or not all(found):
        return None
    sets = {(m["stem"], m["total"], m["rest"]) for m in found if m}
    numbers = sorted(int(m["number"]) for m in found if m)
    total = int(next(iter(sets))[1])
    if len(sets) > 1 or numbers != list(range(1, total + 1)):
        return None
    return Weights(files=tuple(folder / name for name in sorted(names)), shard_of={})


def is_index(path: Path) -> bool:
    """Whether a file name is that of an index of shards.

    >>> is_index(Path("model.safetensors.index.json")), is_index(Path("config.json"))
    (True, False)
    """
    return _INDEX.fullmatch(path.name) is not None


def is_distributed(folder: Path) -> bool:
    """Whether a folder is one that torch.distributed.checkpoint wrote."""
    return (folder / DISTRIBUTED_METADATA).is_file() and any(folder.glob("*.distcp"))


def zero_files(folder: Path) -> tuple[list[Path], list[Path]]:
    """Return the files of a folder of ZeRO, in the order of ranks: of the module, of the optimiser.

    Both are empty where it is none, or one of a model that several ranks have a part of.
    """
    names = _file_names(folder)
    if any(_SPLIT_MODEL.fullmatch(name) for name in names):
        return [], []
    found = []
    for kind in (_MODULE, _RANK):
        ranks = {int(m["rank"] or 0): m[0] for m in map(kind.fullmatch, names) if m}
        found.append([folder / ranks[rank] for rank in sorted(ranks)])
    return (found[0], found[1]) if all(found) else ([], [])


def is_pipeline(folder: Path) -> bool:
    """Whether a folder is a diffusers pipeline: `model_index.json`, or a denoiser and company."""
    if (folder / "model_index.json").is_file():
        return True
    names = _part_names(folder)
    return bool(names & {"unet", "transformer"}) and len(names) > 1


def pipeline_parts(folder: Path) -> tuple[dict[str, Path], dict[str, str]]:
    """Return the weights of each part of a pipeline, and the parts whose weights are not there.

    Parts are the subfolders that hold weights, in the order of their names. Those that
    `model_index.json` promises and that have none are in the second mapping, with the reason.
    """
    chosen = {name: choose_weights(folder / name) for name in _folder_names(folder)}
    parts = {name: path for name, path in chosen.items() if path is not None}
    promised = read_config(folder / "model_index.json")
    missing = {
        f"{name}/": "model_index.json names it, but its weights are not there"
        for name, kind in promised.items()
        if isinstance(kind, list)
        and len(kind) == 2
        and isinstance(kind[1], str)
        and name not in parts
        and name not in _NO_WEIGHTS
    }
    return parts, missing


def read_config(path: Path) -> dict[str, JSON]:
    """Return a small json file as metadata: empty if it is absent, no object, or over 64 KiB."""
    try:
        config = read_json(path) if path.stat().st_size <= _CONFIG_BYTES else None
    except (OSError, ValueError):
        return {}
    return config if isinstance(config, dict) else {}


def walk_checkpoints(folder: Path) -> Iterator[Path]:
    """Yield the checkpoints of a folder and of those inside, in the order of their names.

    A folder of shards and a diffusers pipeline are yielded themselves. Where one folder holds
    the same weights as .safetensors and .bin, the latter are left out. Hidden names and
    `SKIPPED_FILES` are passed over, and a folder reached twice by links is visited once. A folder
    that cannot be listed, a link to what is missing, and a pipe or a device that is called like a
    checkpoint are yielded, for opening them to fail.
    """
    yield from _walk(folder, set())


def walk_foreign(folder: Path) -> Iterator[tuple[Path, str, str]]:
    """Yield the files in a folder, and in those inside, whose ending says weights not read here.

    Each with what it is, and what to do, "" where nothing is known. Hidden names are passed over.
    """
    for path in sorted(folder.rglob("*")):
        foreign = FOREIGN_ENDINGS.get(path.suffix)
        hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
        of_folder = path.suffix == ".distcp" and is_distributed(path.parent)
        if foreign is not None and not (hidden or of_folder) and path.is_file():
            yield path, *foreign


def _walk(folder: Path, visited: set[tuple[int, int]]) -> Iterator[Path]:
    status = folder.stat()
    if (status.st_dev, status.st_ino) in visited:
        return
    visited.add((status.st_dev, status.st_ino))
    parts: set[str] = set()
    files = _file_names(folder)
    if is_distributed(folder):
        yield folder
    elif zero_files(folder)[0]:
        yield folder
        files = [n for n in files if not _MODULE.fullmatch(n)]
    elif is_pipeline(folder):
        parts = _part_names(folder)
        yield folder
    elif indexes := [name for name in files if _INDEX.fullmatch(name)]:
        yield folder
        shards = {name for index in indexes for name in _shard_names(folder / index)}
        files = [
            n for n in files if not (n in shards or _SHARD.fullmatch(n) or _WEIGHTS.fullmatch(n))
        ]
    elif shards_alone(folder) is not None:
        yield folder
        files = [n for n in files if not _NUMBERED.fullmatch(n)]
    candidates = sorted([*files, *_names_beyond_reach(folder)])
    yield from (folder / name for name in candidates if _is_candidate(name, files))
    for name in _folder_names(folder):
        if name not in parts:
            try:
                inside = list(_walk(folder / name, visited))
            except OSError:  # opening it will say why, and the others are still found
                inside = [folder / name]
            yield from inside


def _part_names(folder: Path) -> set[str]:
    """The subfolders that hold weights, as far as they can be listed."""
    names = set()
    for name in _folder_names(folder):
        with suppress(OSError):
            if choose_weights(folder / name):
                names.add(name)
    return names


def _shard_names(index: Path) -> set[str]:
    try:
        return {file.name for file in read_index(index).files}
    except CheckpointError:  # opening the folder will say why
        return set()


def _is_candidate(name: str, beside: list[str]) -> bool:
    if not name.endswith(SUFFIXES) or name in SKIPPED_FILES or _OPTIMISER.fullmatch(name):
        return False
    match = _WEIGHTS.fullmatch(name)
    if not match or match["suffix"] != "bin":
        return True
    twins = (_WEIGHTS.fullmatch(other) for other in beside)
    return not any(
        twin and twin["suffix"] == "safetensors" and twin["variant"] == match["variant"]
        for twin in twins
    )


def default_name(path: Path) -> str:
    """Return a model's name from its path: the name of a folder, or of a file without its ending.

    A name that every such folder holds, `pytorch_model.bin` say, gives that of the folder; a
    snapshot in the cache of the hub is called after its repository.

    >>> default_name(Path("models/sd-v1.5.ckpt")), default_name(Path("bert/pytorch_model.bin"))
    ('sd-v1.5', 'bert')
    >>> default_name(Path("unet/diffusion_pytorch_model.fp16.safetensors"))
    'unet.fp16'
    >>> default_name(Path("models--openai--gpt2/snapshots/607a30d/model.safetensors"))
    'gpt2'
    """
    path = path.absolute()
    if (cached := _cached_repository(path)) is not None:
        return cached
    if path.is_dir():
        return path.name
    name = path.name.partition(".index.")[0] if is_index(path) else path.name
    stem = Path(name.removesuffix(".tar")).stem
    generic = _GENERIC_STEM.match(stem) if name.endswith((".safetensors", ".bin")) else None
    if generic and path.parent.name:
        return (_cached_repository(path.parent) or path.parent.name) + stem[generic.end() :]
    return stem


def _cached_repository(path: Path) -> str | None:
    """The name of the repository whose snapshot a folder is in the cache of the hub, else None."""
    if path.parent.name != "snapshots":
        return None
    name = path.parent.parent.name
    return name.rpartition("--")[2] or None if name.startswith("models--") else None


def _file_names(folder: Path) -> list[str]:
    return _names(folder, folders=False)


def _folder_names(folder: Path) -> list[str]:
    return _names(folder, folders=True)


def _names_beyond_reach(folder: Path) -> list[str]:
    """The names in a folder that are those of neither a file nor a folder."""
    return [
        item.name
        for item in folder.iterdir()
        if not item.name.startswith(".") and not (item.is_file() or item.is_dir())
    ]


def _names(folder: Path, *, folders: bool) -> list[str]:
    if not folder.is_dir():
        return []
    return sorted(
        item.name
        for item in folder.iterdir()
        if not item.name.startswith(".") and (item.is_dir() if folders else item.is_file())
    )
