"""Folders of small models of known history, for `megasim demo` and the tests."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from megasim.errors import UsageError, require_extra
from megasim.progress import NO_PROGRESS, Progress
from megasim.zoo.architectures import Shapes, transformer_shapes, vae_loss_shapes
from megasim.zoo.formats import (
    Arrays,
    appearing,
    write_ckpt,
    write_diffusers,
    write_legacy,
    write_peft,
    write_safetensors,
    write_sharded,
    write_training,
)
from megasim.zoo.full_size import build_full_size
from megasim.zoo.history import ZooModel, expected_identity, make_weights, model, recipe_by_ends
from megasim.zoo.keys import TEXT_NOVELAI, TEXT_SD1, VAE
from megasim.zoo.networks import NETWORKS
from megasim.zoo.plans import TRUTH, ZOO_RECIPES, recipes_and_tunes
from megasim.zoo.variants import ALPHA, RANK, quantised
from megasim.zoo.weights import Weights, encoded, fresh_weights

__all__ = [
    "NETWORKS",
    "TRUTH",
    "ZOO_RECIPES",
    "ZooModel",
    "build_demo_zoo",
    "build_full_size",
    "build_networks",
    "build_recipe_zoo",
    "build_zoo",
    "expected_identity",
    "model",
    "recipe_by_ends",
    "recipes_and_tunes",
    "unrelated_models",
]

ZOO_VERSION = 1
"""Raised with every change that makes other bytes, so that old folders are built anew."""

_MANIFEST = "zoo.json"


def build_demo_zoo(folder: Path, seed: int = 0, progress: Progress = NO_PROGRESS) -> list[ZooModel]:
    """Make the demo zoo, TRUTH, in a folder: about 80 MB, a few seconds; what is there is kept.

    The same seed gives the same bytes. Raises UsageError when the folder holds files of these
    names that no zoo made.
    """
    return build_zoo(TRUTH, folder, seed=seed, width=1 / 32, progress=progress)


def build_networks(folder: Path, seed: int = 0, progress: Progress = NO_PROGRESS) -> list[ZooModel]:
    """Make NETWORKS, the demo's language models and convolutional networks: about 20 MB."""
    return build_zoo(NETWORKS, folder, seed=seed, width=1 / 32, progress=progress)


def build_recipe_zoo(
    folder: Path, seed: int = 0, tunes: int = 0, progress: Progress = NO_PROGRESS
) -> list[ZooModel]:
    """Make ZOO_RECIPES and `tunes` fine-tunes that are no merges; otherwise as `build_demo_zoo`."""
    return build_zoo(recipes_and_tunes(tunes), folder, seed=seed, width=1 / 64, progress=progress)


def build_zoo(
    plan: Sequence[ZooModel],
    folder: Path,
    *,
    seed: int,
    width: float,
    progress: Progress = NO_PROGRESS,
) -> list[ZooModel]:
    """Make every model of a plan that the folder does not hold yet; return the plan as a list.

    Each file appears whole or not at all. `zoo.json` in the folder says what was made, with the
    truth about each model.

    Raises:
        MissingExtraError: torch, which writes the pickles among them, is not installed.
        UsageError: the folder holds files of these names that no zoo made.
    """
    require_extra("demo", "the demo")
    folder.mkdir(parents=True, exist_ok=True)
    made = _Manifest(folder, {"version": ZOO_VERSION, "seed": seed, "width": width})
    made.refuse_to_replace_others(plan)
    weights: dict[str, Weights] = {}

    def weights_of(planned: ZooModel) -> Weights:
        if planned.name not in weights:
            parents = [weights_of(model(plan, name)) for name in planned.parents]
            weights[planned.name] = make_weights(planned, parents, seed, width)
        return weights[planned.name]

    progress.start("making the zoo", len(plan), "models")
    try:
        for planned in plan:
            if not made.has(planned):
                arrays = _file_arrays(planned, weights_of(planned), seed, width)
                with appearing(folder / planned.file) as path:
                    _write(path, planned, arrays, _claimed_recipe(plan, planned, folder))
                made.add(planned)
            progress.advance(1)
    finally:
        made.save_if_changed()
        progress.finish()
    return list(plan)


class _Manifest:
    """The record of what was made in a folder."""

    def __init__(self, folder: Path, settings: Mapping[str, Any]) -> None:
        self._folder = folder
        self._path = folder / _MANIFEST
        try:
            content = json.loads(self._path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            content = {}
        if not isinstance(content, dict):
            content = {}
        self._is_new = "models" not in content
        self._is_changed = False
        self._settings = dict(settings)
        same = {key: content.get(key) for key in settings} == self._settings
        self._models: dict[str, Any] = content["models"] if same and not self._is_new else {}

    def has(self, planned: ZooModel) -> bool:
        entry = self._models.get(planned.name)
        path = self._folder / planned.file
        return entry is not None and path.exists() and entry["bytes"] == _bytes(path)

    def refuse_to_replace_others(self, plan: Sequence[ZooModel]) -> None:
        for path in (self._folder / planned.file for planned in plan):
            if self._is_new and path.exists():
                raise UsageError(
                    f"{path} exists and was not made by the demo", "choose another folder"
                )

    def add(self, planned: ZooModel) -> None:
        truth = {key: value for key, value in asdict(planned).items() if value or key == "parents"}
        self._is_changed = True
        self._models[planned.name] = {**truth, "bytes": _bytes(self._folder / planned.file)}

    def save_if_changed(self) -> None:
        if not self._is_changed:
            return
        text = json.dumps({**self._settings, "models": self._models}, indent=1)
        with appearing(self._path) as path:
            path.write_text(text + "\n", encoding="utf-8")


def _bytes(path: Path) -> int:
    files = path.rglob("*") if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files if file.is_file())


def _file_arrays(planned: ZooModel, weights: Weights, seed: int, width: float) -> Arrays:
    """Return the arrays as stored under the keys of the model's layout (diffusers: LDM's)."""
    if planned.layout == "novelai":
        weights = {key.replace(TEXT_SD1, TEXT_NOVELAI): value for key, value in weights.items()}
    elif planned.layout == "bare-vae":
        loss = fresh_weights(vae_loss_shapes(width), seed, f"{planned.name}/loss")
        weights = {key.removeprefix(VAE): value for key, value in weights.items()} | loss
    if planned.dtype == "float8":
        return quantised(weights)
    return {key: encoded(value, planned.dtype) for key, value in weights.items()}


def _write(path: Path, planned: ZooModel, arrays: Arrays, claim: Mapping[str, str]) -> None:
    ending = Path(planned.file).suffix
    if ending == ".safetensors":
        metadata = {key: str(value) for key, value in planned.metadata.items()}
        write_safetensors(path, arrays, {**metadata, **claim})
    elif planned.layout == "training":
        write_training(path, arrays, planned.metadata)
    elif ending == ".ckpt":
        write_ckpt(path, arrays, planned.metadata, training=planned.trained_ema)
    elif ending in (".pt", ".pth"):
        write_legacy(path, arrays)
    elif planned.layout == "diffusers":
        write_diffusers(path, arrays)
    elif planned.layout == "peft":
        write_peft(path, arrays, base=planned.parents[0], rank=RANK, alpha=ALPHA)
    else:
        write_sharded(path, arrays, shards=3)


def _claimed_recipe(plan: Sequence[ZooModel], planned: ZooModel, folder: Path) -> dict[str, str]:
    """Return the metadata by which a merge claims its parents, in the form of webui's merger."""
    if not planned.claim:
        return {}
    parents = [model(plan, name) for name in planned.parents]
    hashes = [hashlib.sha256((folder / p.file).read_bytes()).hexdigest() for p in parents]
    recipe = {
        "type": "webui",
        "primary_model_hash": hashes[0],
        "secondary_model_hash": hashes[1],
        "tertiary_model_hash": None,
        "interp_method": "Weighted sum",
        "multiplier": planned.claim[1],
        "save_as_half": True,
        "custom_name": planned.name,
    }
    models = {
        digest: {"name": parent.file, "legacy_hash": None, "sd_merge_recipe": None}
        for digest, parent in zip(hashes, parents, strict=True)
    }
    return {"sd_merge_recipe": json.dumps(recipe), "sd_merge_models": json.dumps(models)}


def unrelated_models(count: int, seed: int = 0, shapes: Shapes | None = None) -> Iterator[Weights]:
    """Yield models of equal shapes that share nothing but what every new model shares.

    Key → float32 array. The gains of norms are all 1 and biases all 0, as before training: equal
    in all of them, and no evidence of anything. `shapes` defaults to a small language model.

    >>> a, b = unrelated_models(2)
    >>> bool((a["model.norm.weight"] == b["model.norm.weight"]).all())
    True
    >>> bool((a["lm_head.weight"] == b["lm_head.weight"]).any())
    False
    """
    shapes = transformer_shapes() if shapes is None else shapes
    for i in range(count):
        weights = fresh_weights(shapes, seed, f"unrelated-{i}")
        for key, value in weights.items():
            if value.ndim == 1 and key.endswith(("norm.weight", "bias")):
                weights[key] = (value * 0) + (0 if key.endswith("bias") else 1)
        yield weights
