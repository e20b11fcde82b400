"""The zoo: real keys and shapes, the same bytes each time, and files that match the truth told."""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import pickle
import pickletools
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.numpy import load_file

from megasim.errors import UsageError
from megasim.zoo.architectures import (
    FAMILY_SHAPES,
    Shapes,
    sd1_inpainting_shapes,
    sd1_shapes,
    sd2_shapes,
    sdxl_shapes,
)
from megasim.zoo.building import (
    TRUTH,
    ZOO_RECIPES,
    ZooModel,
    build_demo_zoo,
    build_full_size,
    build_recipe_zoo,
    expected_identity,
    model,
    recipe_by_ends,
    unrelated_models,
)
from megasim.zoo.formats import appearing
from megasim.zoo.keys import (
    MERGE_BLOCKS,
    TEXT_SD1,
    TEXT_SD2,
    TEXT_SDXL_1,
    TEXT_SDXL_2,
    UNET,
    VAE,
    component_of,
    diffusers_key,
    ema_key,
    merge_block_of,
)
from megasim.zoo.weights import decoded, encoded, fresh_weights, noise_schedule, train

Arrays = dict[str, NDArray[Any]]

POSITIONS = TEXT_SD1 + "embeddings.position_ids"


# ---------------------------------------------------------------------------- architectures


def read_architecture(path: Path) -> Shapes:
    shapes: Shapes = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        key, _, shape = line.rpartition(" ")
        shapes[key] = tuple(int(n) for n in shape.strip("[]").split(",") if n)
    return shapes


@pytest.mark.parametrize(
    ("family", "prefix", "name"),
    [
        (sd1_shapes, UNET, "UNET-v1-SD"),
        (sd1_shapes, TEXT_SD1, "CLIP-v1-SD"),
        (sd1_shapes, VAE, "VAE-v1-SD"),
        (sd1_inpainting_shapes, UNET, "UNET-v1-Inpainting"),
        (sd2_shapes, UNET, "UNET-v2-SD"),
        (sd2_shapes, TEXT_SD2, "CLIP-v2-SD"),
        (sdxl_shapes, UNET, "UNET-XL-SD"),
        (sdxl_shapes, TEXT_SDXL_1, "CLIP-v1-SD"),
        (sdxl_shapes, TEXT_SDXL_2, "CLIP-XL-SD"),
        (sdxl_shapes, VAE, "VAE-v1-SD"),
    ],
)
def test_keys_and_shapes_are_the_real_ones(
    shared: Path, family: Callable[[float], Shapes], prefix: str, name: str
) -> None:
    real = read_architecture(shared / "architectures" / f"{name}.txt")
    made = {k.removeprefix(prefix): s for k, s in family(1.0).items() if k.startswith(prefix)}
    assert made == real


def test_ema_keys_are_the_real_ones(shared: Path) -> None:
    real = read_architecture(shared / "architectures" / "UNET-v1-EMA.txt")
    made = {ema_key(k): s for k, s in sd1_shapes().items() if k.startswith(UNET)}
    assert made == {f"model_ema.diffusion_model{k}": s for k, s in real.items()}


def test_keys_beside_the_weights_are_the_real_ones(shared: Path) -> None:
    published = json.loads((shared / "published/v1/nai_nai7g_nai4g.json").read_text())
    schedule = {k for k in published["kv"] if component_of(k) == "training_state"}
    assert set(noise_schedule()) | {"model_ema.decay", "model_ema.num_updates"} == schedule


@pytest.mark.parametrize("family", sorted(FAMILY_SHAPES))
@pytest.mark.parametrize("width", [1 / 128, 1 / 33, 1 / 32])
def test_width_scales_channels_only(family: str, width: float) -> None:
    full, small = FAMILY_SHAPES[family](1.0), FAMILY_SHAPES[family](width)
    assert list(full) == list(small)
    for key, shape in full.items():
        assert len(small[key]) == len(shape)
        assert small[key][2:] == shape[2:]  # kernels
        assert all(0 < n <= m for n, m in zip(small[key], shape, strict=True))


def test_every_sd1_block_has_a_merge_ratio() -> None:
    blocks = {merge_block_of(key) for key in sd1_shapes(1 / 64)}
    assert blocks == {*MERGE_BLOCKS, ""}


# ------------------------------------------------------------------------------ the demo zoo


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("demo")
    assert build_demo_zoo(folder) == list(TRUTH)
    return folder


@pytest.fixture(scope="module")
def arrays(demo: Path) -> dict[str, Arrays]:
    """Every model of the demo zoo under LDM keys, as stored."""
    return {planned.name: read(demo, planned) for planned in TRUTH}


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


# --------------------------------------------------------------------------------- the truth


def test_contents_are_equal_exactly_when_the_truth_says_so(arrays: dict[str, Arrays]) -> None:
    digests: dict[tuple[str, str], str] = {}
    for planned in TRUTH:
        for component in planned.contents:
            digest = hashlib.sha256()
            for key, array in sorted(arrays[planned.name].items()):
                if component_of(key) == component:
                    half = array.astype(np.float16) if array.dtype.kind == "f" else array
                    digest.update(key.encode() + half.tobytes())
            digests[planned.name, component] = digest.hexdigest()
    pairs = 0
    for a, b in itertools.combinations(TRUTH, 2):
        for component in a.contents.keys() & b.contents.keys():
            same = digests[a.name, component] == digests[b.name, component]
            assert same == (expected_identity(a, b, component) != "changed"), (a.name, b.name)
            pairs += 1
    assert pairs > 1900


def test_rounding_is_not_identity(arrays: dict[str, Arrays]) -> None:
    full, half = model(TRUTH, "base-pruned"), model(TRUTH, "base-fp16")
    assert expected_identity(full, half, "unet") == "same_at_fp16"
    key = UNET + "out.2.weight"
    assert (arrays["base-pruned"][key] != arrays["base-fp16"][key]).any()
    assert expected_identity(half, model(TRUTH, "base-legacy"), "unet") == "identical"
    assert expected_identity(half, model(TRUTH, "chain-1"), "vae_decoder") == "missing_b"
    assert expected_identity(half, model(TRUTH, "chain-1"), "ema") == ""


def test_a_step_changes_every_key_it_trains_and_no_other(arrays: dict[str, Arrays]) -> None:
    counts = {}
    for planned in (m for m in TRUTH if m.trains):
        before = arrays[planned.parents[0]]
        for component in planned.contents:
            changed = sum(
                not np.array_equal(encoded(before[key].astype(np.float32), planned.dtype), after)
                for key, after in arrays[planned.name].items()
                if component_of(key) == component and key != POSITIONS
            )
            assert planned.changed_keys(component)[0] == changed, (planned.name, component)
            counts[planned.name, component] = planned.changed_keys(component)
    assert counts["dreambooth", "text_encoder"] == (64, 197)
    assert counts["dreambooth", "vae_decoder"] == (0, 138)
    assert counts["sd2-tail", "text_encoder"] == (14, 294)
    assert counts["nai-layout", "unet"] == (686, 686)


def recomputed(planned: ZooModel, key: str, parents: list[Arrays]) -> NDArray[np.float64]:
    weights = planned.weights
    if planned.kind == "block-merge":
        share = planned.block_weights[merge_block_of(key) or "BASE"]
        weights = (1 - share, share)
    terms = [w * p[key].astype(np.float64) for w, p in zip(weights, parents, strict=True)]
    return np.sum(terms, axis=0)


def assert_is_the_merge_it_says(planned: ZooModel, merged: Arrays, parents: list[Arrays]) -> None:
    assert math.isclose(sum(planned.weights), 1) or planned.kind == "block-merge"
    for key, array in merged.items():
        if array.dtype == np.float16 and not (planned.broken_positions and key == POSITIONS):
            exact = recomputed(planned, key, parents)
            # Half a unit in the last place of fp16, and the float32 sum before it.
            bound = np.maximum(np.abs(exact) * 2.0**-11, 2.0**-25) + 1e-6
            assert (np.abs(array - exact) <= bound).all(), (planned.name, key)


def test_merges_of_the_demo_are_what_they_say(arrays: dict[str, Arrays]) -> None:
    merges = [m for m in TRUTH if m.kind in ("merge", "block-merge")]
    assert [m.name for m in merges if m.kind == "merge"] == [
        *(f"mix-{percent}" for percent in (15, 30, 50, 70, 85)),
        "broken-ids",
    ]
    for planned in merges:
        parents = [arrays[name] for name in planned.parents]
        assert_is_the_merge_it_says(planned, arrays[planned.name], parents)


def test_merges_of_the_recipe_zoo_are_what_they_say(tmp_path: Path) -> None:
    plan = build_recipe_zoo(tmp_path, tunes=2)
    arrays = {m.name: load_file(tmp_path / m.file) for m in plan}
    merges = [m for m in plan if m.kind in ("merge", "block-merge")]
    assert {len(m.parents) for m in merges} == {2, 3, 4}
    for planned in merges:
        parents = [arrays[name] for name in planned.parents]
        assert_is_the_merge_it_says(planned, arrays[planned.name], parents)
    assert recipe_by_ends(plan, "nested") == pytest.approx(
        {"north": 0.21, "east": 0.39, "south": 0.4}
    )
    assert recipe_by_ends(plan, "add-full") == {"north": 1.0, "east": 1.0, "origin": -1.0}
    assert recipe_by_ends(plan, "tune-01") == recipe_by_ends(plan, "blocks") == {}
    assert len(set(model(plan, "blocks").block_weights.values())) == 26


def steps_and_end(path: list[Arrays], role: str) -> tuple[list[float], float]:
    keys = [k for k in path[-1] if k.startswith(UNET) and role in k]

    def distance(a: Arrays, b: Arrays) -> float:
        return math.sqrt(sum(float(((a[k].astype(float) - b[k]) ** 2).sum()) for k in keys))

    return [distance(a, b) for a, b in itertools.pairwise(path)], distance(path[0], path[-1])


@pytest.mark.parametrize(
    ("name", "role", "coherence"),
    [("run-e0", "", 0.35), ("chain-", ".attn1.", 0.16), ("chain-", ".attn2.", 0.0)],
)
def test_paths_drift_as_planned(
    arrays: dict[str, Arrays], name: str, role: str, coherence: float
) -> None:
    path = [arrays["base-pruned"], *(arrays[f"{name}{i}"] for i in range(1, 6))]
    steps, end = steps_and_end(path, role)
    squares = sum(step**2 for step in steps)
    assert (end**2 - squares) / (sum(steps) ** 2 - squares) == pytest.approx(coherence, abs=0.02)


def test_broken_positions_are_no_integers_any_more(arrays: dict[str, Arrays]) -> None:
    whole = np.arange(77)
    for planned in TRUTH:
        if planned.family == "sd1" and "text_encoder" in planned.contents:
            found = arrays[planned.name][POSITIONS][0]
            assert np.array_equal(found, whole) != planned.broken_positions
    broken = arrays["broken-ids"][POSITIONS][0]
    assert broken.dtype == np.float16
    assert (broken.astype(np.int64) != whole).sum() == 18


def test_damage_is_where_the_truth_says(arrays: dict[str, Arrays]) -> None:
    for planned in TRUTH:
        found = {k: int(np.isnan(a).sum()) for k, a in arrays[planned.name].items()}
        assert {k: n for k, n in found.items() if n} == dict(planned.non_finite)


def test_inpainting_starts_from_the_base(arrays: dict[str, Arrays]) -> None:
    key = UNET + "input_blocks.0.0.weight"
    before, after = arrays["base-pruned"][key], arrays["inpainting"][key].astype(np.float32)
    assert after.shape == (10, 9, 3, 3)
    assert np.linalg.norm(after[:, :4] - before) < 0.2 * np.linalg.norm(before)
    assert 0 < np.linalg.norm(after[:, 4:]) < 0.2 * np.linalg.norm(before)


# -------------------------------------------------------------------------------- the weights


def test_weights_look_trained() -> None:
    weights = fresh_weights(sd1_shapes(1 / 16), 0, "test")
    gain = weights[UNET + "output_blocks.5.0.in_layers.0.weight"]
    assert abs(gain.mean() - 1) < 0.05
    assert abs(weights[UNET + "time_embed.0.bias"].mean()) < 0.02
    matrix = weights[UNET + "middle_block.0.in_layers.2.weight"]
    standard = (matrix - matrix.mean()) / matrix.std()
    assert 0.1 < (standard**4).mean() - 3 < 3  # heavier tails than normal, as real layers have


def test_training_moves_only_what_it_trains() -> None:
    before = fresh_weights(sd1_shapes(1 / 64), 0, "test")
    after = train(before, 0, "step", step=0.05, trains=lambda key: ".attn1." in key)
    for key in before:
        assert (after[key] is before[key]) == (".attn1." not in key)


def test_bfloat16_rounds_as_torch_does() -> None:
    import torch

    values = np.concatenate(
        [
            fresh_weights({"w": (100, 100)}, 0, "test")["w"].ravel(),
            np.float32([np.nan, np.inf, -0.0]),
        ]
    )
    bits = torch.from_numpy(values).to(torch.bfloat16).view(torch.int16).numpy().view(np.uint16)
    finite = ~np.isnan(values)
    assert np.array_equal(encoded(values, "bfloat16")[finite], bits[finite])
    assert np.isnan(decoded(encoded(values, "bfloat16"), "bfloat16")[~finite]).all()


def test_unrelated_models_share_only_what_is_trivial() -> None:
    models = list(unrelated_models(6, seed=3))
    for a, b in itertools.combinations(models, 2):
        same = {key for key in a if (a[key] == b[key]).any()}
        assert same == {key for key in a if key.endswith("norm.weight")}
    again = next(unrelated_models(1, seed=3))
    assert all(np.array_equal(again[key], models[0][key]) for key in again)


# --------------------------------------------------------------------------------- full size


def test_full_size_models_are_distinct_and_reproducible(tmp_path: Path) -> None:
    paths = build_full_size(tmp_path / "a", 3, width=1 / 16, shared=("vae_decoder",))
    models = [load_file(path) for path in paths]
    shapes = sd1_shapes(1 / 16)
    assert all({k: a.shape for k, a in m.items()} == shapes for m in models)
    for a, b in itertools.combinations(models, 2):
        same = {k for k in shapes if np.array_equal(a[k], b[k])}
        assert same == {k for k in shapes if component_of(k) == "vae_decoder"} | {POSITIONS}
    base = models[0]
    assert len({a.tobytes() for a in base.values()}) == len(base)
    key = UNET + "middle_block.0.in_layers.2.weight"
    change = np.linalg.norm(models[1][key].astype(float) - base[key])
    assert change == pytest.approx(0.05 * np.linalg.norm(base[key].astype(float)), rel=0.05)
    again = build_full_size(tmp_path / "b", 1, width=1 / 16)
    assert again[0].read_bytes() == paths[0].read_bytes()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_full_size_dtypes_are_roundings_of_each_other(tmp_path: Path, dtype: Any) -> None:
    import torch

    halves = load_file(build_full_size(tmp_path / "half", 1, width=1 / 64)[0])
    (path,) = build_full_size(tmp_path / dtype, 1, width=1 / 64, dtype=dtype)
    with safe_open(path, "pt") as opened:
        for key, half in halves.items():
            tensor = opened.get_tensor(key)
            if key != POSITIONS:
                assert tensor.dtype == getattr(torch, dtype)
                difference = np.abs(tensor.float().numpy() - half.astype(np.float32))
                assert (difference <= 2.0**-7 * np.abs(half.astype(np.float32)) + 1e-6).all()


def test_importing_the_zoo_does_not_import_torch() -> None:
    script = "import sys, megasim.zoo.building; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0
