"""The files of the demo zoo: the same bytes each time, whole, in the forms that tools write."""

from __future__ import annotations

import hashlib
import json
import pickletools
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file

from megasim.errors import UsageError
from megasim.zoo.architectures import (
    FAMILY_SHAPES,
)
from megasim.zoo.building import (
    TRUTH,
    ZOO_RECIPES,
    build_recipe_zoo,
    model,
)
from megasim.zoo.formats import appearing
from megasim.zoo.keys import (
    component_of,
)
from tests.zoo.zoo_files import Arrays, load_pickle


def sha256_of(folder: Path) -> dict[str, str]:
    return {
        str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in sorted(folder.rglob("*"))
        if file.is_file()
    }


def test_same_seed_same_bytes_in_another_process(demo: Path, tmp_path: Path) -> None:
    script = (
        "import sys, pathlib, megasim.zoo.building as z; "
        "z.build_demo_zoo(pathlib.Path(sys.argv[1]))"
    )
    subprocess.run([sys.executable, "-c", script, str(tmp_path)], check=True)
    assert sha256_of(tmp_path) == sha256_of(demo)


def test_bytes_are_the_same_on_every_machine(demo: Path) -> None:
    sums = sha256_of(demo)
    assert sums["mix-mbw.safetensors"].startswith("bdfc28ffc324ccde")
    assert sums["run-e05.safetensors"].startswith("53de36a2bec515f3")


def test_demo_zoo_is_small_and_holds_nothing_else(demo: Path) -> None:
    assert sum(f.stat().st_size for f in demo.rglob("*") if f.is_file()) < 100e6
    assert {f.name for f in demo.iterdir()} == {m.file for m in TRUTH} | {"zoo.json"}


def test_second_build_makes_only_what_is_missing(tmp_path: Path) -> None:
    build_recipe_zoo(tmp_path)
    before = sha256_of(tmp_path)
    written = {f.name: f.stat().st_mtime_ns for f in tmp_path.iterdir()}
    build_recipe_zoo(tmp_path)
    assert {f.name: f.stat().st_mtime_ns for f in tmp_path.iterdir()} == written
    (tmp_path / "three.safetensors").unlink()
    (tmp_path / "add-half.safetensors").write_bytes(b"half a file")
    build_recipe_zoo(tmp_path)
    assert sha256_of(tmp_path) == before
    again = {f.name for f in tmp_path.iterdir() if f.stat().st_mtime_ns != written[f.name]}
    assert again - {"zoo.json"} == {"three.safetensors", "add-half.safetensors"}

    build_recipe_zoo(tmp_path, seed=1)  # another history: nothing of the old one is kept
    after = sha256_of(tmp_path)
    assert all(after[m.file] != before[m.file] for m in ZOO_RECIPES)


def test_files_that_no_zoo_made_are_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "origin.safetensors").write_text("mine")
    for _ in range(2):
        with pytest.raises(UsageError, match="was not made by the demo"):
            build_recipe_zoo(tmp_path)
    assert [f.name for f in tmp_path.iterdir()] == ["origin.safetensors"]
    assert (tmp_path / "origin.safetensors").read_text() == "mine"


def test_an_interrupted_build_goes_on_where_it_was(tmp_path: Path) -> None:
    class Interrupting:
        done = 0

        def start(self, title: str, total: int, unit: str) -> None: ...

        def finish(self) -> None: ...

        def advance(self, amount: int) -> None:
            self.done += amount
            if self.done == 3:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build_recipe_zoo(tmp_path, progress=Interrupting())
    first = {f.name: f.stat().st_mtime_ns for f in tmp_path.glob("*.safetensors")}
    assert set(first) == {m.file for m in ZOO_RECIPES[:3]}
    build_recipe_zoo(tmp_path)
    assert {name: (tmp_path / name).stat().st_mtime_ns for name in first} == first
    assert {f.name for f in tmp_path.iterdir()} == {m.file for m in ZOO_RECIPES} | {"zoo.json"}


def test_a_file_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="disk full"), appearing(tmp_path / "a") as path:
        path.write_text("half")
        raise OSError("disk full")
    assert list(tmp_path.iterdir()) == []


def test_manifest_tells_the_truth(demo: Path) -> None:
    told = json.loads((demo / "zoo.json").read_text())["models"]
    assert list(told) == [m.name for m in TRUTH]
    assert all(told[m.name]["parents"] == list(m.parents) for m in TRUTH)
    assert told["mix-mbw"]["block_weights"] == model(TRUTH, "mix-mbw").block_weights


# ------------------------------------------------------------------------------- the formats


def test_files_have_the_keys_of_their_family(arrays: dict[str, Arrays]) -> None:
    for planned in TRUTH:
        shapes = FAMILY_SHAPES[planned.family](1 / 32)
        expected = {k: s for k, s in shapes.items() if component_of(k) in planned.contents}
        found = {k: a.shape for k, a in arrays[planned.name].items()}
        extra = {k for k in found if k not in shapes}
        assert {k: s for k, s in found.items() if k not in extra} == expected, planned.name
        assert len(extra) == (686 + 14 if planned.trained_ema else 0), planned.name
        floats = {a.dtype for k, a in arrays[planned.name].items() if a.dtype.kind == "f"}
        stored = "float32" if planned.dtype == "bfloat16" else planned.dtype
        assert floats == {np.dtype(stored)}, planned.name


def test_base_is_as_lightning_left_it(demo: Path) -> None:
    with zipfile.ZipFile(demo / "base-ema.ckpt") as opened:
        codes = list(pickletools.genops(opened.read("archive/data.pkl")))
    names = [arg for code, arg, _ in codes if code.name == "GLOBAL"]
    assert "pytorch_lightning.callbacks.model_checkpoint ModelCheckpoint" in names
    assert not any(name.startswith("pytorch_lightning") for name in sys.modules)
    content = load_pickle(demo / "base-ema.ckpt")
    assert (content["epoch"], content["global_step"]) == (13, 470_000)
    assert content["optimizer_states"][0]["state"][0]["exp_avg"].numel() > 0
    assert content["state_dict"]["model_ema.num_updates"].item() == 470_000


def test_legacy_file_is_read_by_torch(demo: Path, arrays: dict[str, Arrays]) -> None:
    import torch

    path = demo / "base-legacy.pt"
    assert not zipfile.is_zipfile(path)
    state = torch.load(path, weights_only=True)
    assert list(state) == list(arrays["base-legacy"])
    assert all(tensor.is_contiguous() for tensor in state.values())


def test_standalone_vae_has_the_loss_beside_it(demo: Path, shared: Path) -> None:
    published = json.loads((shared / "published/v1/vae_full_sd84k.json").read_text())
    keys = set(load_pickle(demo / "vae-only.ckpt")["state_dict"])
    assert {k for k in keys if k.startswith("loss.")} == set(published["da"])


def test_diffusers_names_are_those_of_diffusers(demo: Path) -> None:
    unet = load_file(demo / "base-diffusers/unet/diffusion_pytorch_model.safetensors")
    vae = load_file(demo / "base-diffusers/vae/diffusion_pytorch_model.safetensors")
    text = load_file(demo / "base-diffusers/text_encoder/model.safetensors")
    assert (len(unet), len(vae), len(text)) == (686, 248, 197)
    # One of each rule, as in the published diffusers folders of SD1.
    attention = "attentions.0.transformer_blocks.0.attn2.to_k.weight"
    assert unet[f"down_blocks.1.{attention}"].shape == (20, 24)
    assert unet["down_blocks.3.resnets.1.time_emb_proj.bias"].shape == (40,)
    assert unet["down_blocks.2.downsamplers.0.conv.weight"].shape == (40, 40, 3, 3)
    assert unet["up_blocks.0.upsamplers.0.conv.weight"].shape == (40, 40, 3, 3)
    assert unet["up_blocks.3.resnets.0.conv_shortcut.weight"].shape == (10, 30, 1, 1)
    assert unet["mid_block.attentions.0.proj_in.weight"].shape == (40, 40, 1, 1)
    assert {"time_embedding.linear_2.bias", "conv_norm_out.weight", "conv_in.bias"} <= unet.keys()
    assert vae["encoder.mid_block.attentions.0.to_out.0.weight"].shape == (16, 16)
    assert vae["decoder.up_blocks.2.resnets.0.conv_shortcut.weight"].shape == (8, 16, 1, 1)
    assert {"quant_conv.weight", "decoder.up_blocks.0.upsamplers.0.conv.bias"} <= vae.keys()
    assert "text_model.encoder.layers.11.self_attn.out_proj.bias" in text


def test_shards_are_listed_in_their_index(demo: Path, arrays: dict[str, Arrays]) -> None:
    folder = demo / "other-sharded"
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    for key, name in index["weight_map"].items():
        with safe_open(folder / name, "pt") as opened:
            assert key in opened.keys()  # noqa: SIM118 - not a mapping
    assert index["weight_map"].keys() == arrays["other-arch"].keys()
    assert index["metadata"]["total_size"] == sum(2 * a.size for a in arrays["other-arch"].values())


def test_claims_are_in_the_metadata_true_or_not(demo: Path) -> None:
    claimed = {}
    for planned in TRUTH:
        if (demo / planned.file).suffix == ".safetensors":
            with safe_open(demo / planned.file, "np") as opened:
                metadata = opened.metadata()
            if "sd_merge_recipe" in metadata:
                recipe = json.loads(metadata["sd_merge_recipe"])
                names = json.loads(metadata["sd_merge_models"])
                parents = [
                    names[recipe[f"{which}_model_hash"]]["name"]
                    for which in ("primary", "secondary")
                ]
                assert parents == ["mix-00.safetensors", "mix-100.safetensors"]
                claimed[planned.name] = recipe["multiplier"]
    assert claimed == {"mix-30": 0.3, "mix-70": 0.5}
