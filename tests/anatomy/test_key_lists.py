"""Anatomy of the key lists that real libraries write: see `write_key_lists.py`."""

from __future__ import annotations

from pathlib import Path

import pytest

from megasim.anatomy.classification import classify_keys
from tests.anatomy import original_names
from tests.anatomy.classified import Shapes, assert_nothing_lost

LISTS = Path(__file__).parent / "key_lists"
Labels = dict[str, tuple[str, str | None, str | None]]


def read_list(name: str) -> Shapes:
    shapes: Shapes = {}
    for line in (LISTS / f"{name}.txt").read_text().splitlines():
        key, _, sizes = line.partition(" ")
        if key != "#":
            shapes[key] = tuple(map(int, sizes.split("x"))) if sizes else ()
    return shapes


def prefixed(prefix: str, shapes: Shapes) -> Shapes:
    return {prefix + key: shape for key, shape in shapes.items()}


def labels(shapes: Shapes) -> Labels:
    parts = classify_keys(shapes).parts
    return {p.canonical_key: (p.component, p.block, p.role) for p in parts}


def by_source(shapes: Shapes) -> Labels:
    """What each key of the file is."""
    parts = classify_keys(shapes).parts
    return {key: (p.component, p.block, p.role) for p in parts for key in p.sources}


# ---- Image and video transformers -------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "family"),
    [
        ("wan", "Wan"),
        ("wan-i2v", "Wan"),
        ("ltx", "LTX"),
        ("hunyuan-video", "HunyuanVideo"),
        ("flux", "Flux"),
        ("flux2", "Flux"),
    ],
)
def test_a_layer_is_the_same_in_all_three_spellings(name: str, family: str) -> None:
    """Of its authors, of diffusers, of ComfyUI: one canonical key, component, block and role."""
    theirs = original_names.ORIGINALS[name]
    diffusers = read_list(f"{name}-diffusers")
    spellings = {
        "alone": theirs,
        "in ComfyUI": prefixed("model.diffusion_model.", theirs),
        "diffusers, alone": diffusers,
        "diffusers, a folder": prefixed("transformer/", diffusers),
    }
    if name == "hunyuan-video":
        spellings["renamed by ComfyUI"] = original_names.comfy_hunyuan_video()
    expected = labels(theirs)
    assert {component for component, _, _ in expected.values()} == {"transformer"}
    assert all(block and role for _, block, role in expected.values())
    for spelling, shapes in spellings.items():
        anatomy = classify_keys(shapes)
        assert anatomy.family == family, spelling
        assert_nothing_lost(shapes, anatomy)
        assert labels(shapes) == expected, spelling


def test_qwen_image_has_the_same_names_everywhere() -> None:
    shapes = read_list("qwen-image-diffusers")
    expected = labels(shapes)
    assert classify_keys(shapes).family == "Qwen-Image"
    assert expected == labels(prefixed("model.diffusion_model.", shapes))
    assert expected == labels(prefixed("transformer/", shapes))
    assert all(block and role for _, block, role in expected.values())
    key = "model.diffusion_model.transformer_blocks.1.{}.weight"
    assert expected[key.format("attn.add_q_proj")] == (
        *("transformer", "transformer_blocks.1"),
        "attn",
    )
    assert expected[key.format("txt_mod.1")][2] == "modulation"


@pytest.mark.parametrize(
    ("name", "key", "block", "role"),
    [
        ("wan-i2v", "blocks.1.self_attn.q.weight", "blocks.1", "attn1"),
        ("wan-i2v", "blocks.1.cross_attn.v_img.bias", "blocks.1", "attn2"),
        ("wan-i2v", "blocks.0.norm3.weight", "blocks.0", "norm"),
        ("wan", "blocks.0.ffn.2.weight", "blocks.0", "ff"),
        ("wan", "time_projection.1.weight", "time_projection", "modulation"),
        ("wan", "head.head.weight", "head", "proj"),
        ("ltx", "transformer_blocks.1.attn2.to_k.weight", "transformer_blocks.1", "attn2"),
        ("ltx", "patchify_proj.weight", "patchify_proj", "embedding"),
        ("hunyuan-video", "double_blocks.1.txt_attn_qkv.weight", "double_blocks.1", "attn"),
        ("hunyuan-video", "single_blocks.1.linear1.weight", "single_blocks.1", "attn_mlp"),
        ("hunyuan-video", "txt_in.c_embedder.linear_1.bias", "txt_in", "embedding"),
    ],
)
def test_blocks_and_roles_of_video_transformers(name: str, key: str, block: str, role: str) -> None:
    found = by_source(original_names.ORIGINALS[name])[key]
    assert found == ("transformer", block, role)


# ---- Language models ----------------------------------------------------------------------------

DENSE = ("llama", "mistral", "qwen2", "qwen3", "gemma2", "phi", "phi3", "gpt2")
MIXED = ("mixtral", "qwen2-moe", "qwen3-moe", "deepseek-v3", "gpt-oss")


@pytest.mark.parametrize("name", DENSE + MIXED)
def test_language_models_have_embedding_layers_and_head(name: str) -> None:
    shapes = read_list(name)
    anatomy = classify_keys(shapes)
    assert anatomy.family == "language model"
    assert anatomy.variant == ("experts" if name in MIXED else "")
    assert_nothing_lost(shapes, anatomy)
    components = {p.component for p in anatomy.parts}
    head = {"head"} if name != "gpt2" else set()  # its head is its embedding
    assert components - {"experts", "shared_experts"} == {"embedding", "layers"} | head
    assert ("experts" in components) == (name in MIXED)
    for part in anatomy.parts:
        assert part.role, part.canonical_key
        assert (part.component == "head") == part.canonical_key.startswith("lm_head.")
        if part.component not in ("embedding", "head"):
            assert part.block in ("layer 0", "layer 1", "final norm"), part.canonical_key
    roles = {p.role for p in anatomy.parts if p.component == "layers"}
    assert roles & {"q", "qkv"} and "o" in roles and "norm" in roles
    assert ("router" in roles) == (name in MIXED)
    roles = {p.role for p in anatomy.parts if p.component != "head"}
    assert roles & {"up", "gate_up"} and "down" in roles


# On disk → in memory, and as transformers 4 wrote files of LLaVA.
IN_MEMORY = {
    "language_model.model.": "model.language_model.",
    "language_model.lm_head.": "lm_head.",
    "model.layers.": "model.language_model.layers.",
    "model.embed_tokens.": "model.language_model.embed_tokens.",
    "model.norm.": "model.language_model.norm.",
    "vision_tower.": "model.vision_tower.",
    "visual.": "model.visual.",
    "multi_modal_projector.": "model.multi_modal_projector.",
}
OLDER = {"vision_tower.": "vision_tower.vision_model."}


def respelled(shapes: Shapes, prefixes: dict[str, str]) -> Shapes:
    found = {}
    for key, shape in shapes.items():
        old = next((p for p in prefixes if key.startswith(p)), "")
        found[prefixes.get(old, "") + key.removeprefix(old)] = shape
    return found


@pytest.mark.parametrize("name", ["llava", "paligemma", "qwen2-vl", "qwen3-vl", "idefics3"])
def test_language_models_that_see(name: str) -> None:
    """Their layers are those of a language model, and one on disk and in memory."""
    shapes = read_list(name)
    anatomy = classify_keys(shapes)
    assert anatomy.family == "vision-language model"
    assert_nothing_lost(shapes, anatomy)
    found = labels(shapes)
    assert {component for component, *_ in found.values()} - {"head"} == {
        *("embedding", "layers"),
        *("vision_model", "projector"),
    }
    assert all(role for _, _, role in found.values())
    assert found["model.layers.1.mlp.down_proj.weight"] == ("layers", "layer 1", "down")
    assert found["model.norm.weight"] == ("layers", "final norm", "norm")
    assert labels(respelled(shapes, IN_MEMORY)) == found
    assert labels(respelled(shapes, OLDER)) == found


def test_the_eyes_of_llava_are_a_clip() -> None:
    eyes = {p.canonical_key for p in classify_keys(read_list("clip")).parts}
    llava = {
        key
        for key, (component, *_) in labels(read_list("llava")).items()
        if component == "vision_model"
    }
    assert llava <= eyes


@pytest.mark.parametrize(
    ("name", "key", "expected"),
    [
        ("llama", "model.embed_tokens.weight", ("embedding", None, "embedding")),
        ("llama", "model.norm.weight", ("layers", "final norm", "norm")),
        ("llama", "lm_head.weight", ("head", None, "head")),
        ("llama", "model.layers.1.mlp.down_proj.weight", ("layers", "layer 1", "down")),
        ("qwen2", "model.layers.1.self_attn.k_proj.bias", ("layers", "layer 1", "k")),
        ("qwen3", "model.layers.1.self_attn.q_norm.weight", ("layers", "layer 1", "norm")),
        ("phi", "model.layers.0.mlp.fc1.weight", ("layers", "layer 0", "up")),
        ("phi", "model.layers.0.self_attn.dense.weight", ("layers", "layer 0", "o")),
        ("phi3", "model.layers.0.self_attn.qkv_proj.weight", ("layers", "layer 0", "qkv")),
        ("phi3", "model.layers.0.mlp.gate_up_proj.weight", ("layers", "layer 0", "gate_up")),
        ("gpt2", "transformer.h.1.mlp.c_proj.weight", ("layers", "layer 1", "down")),
        (
            "mixtral",
            "model.layers.1.block_sparse_moe.experts.0.w3.weight",
            ("experts", "layer 1", "up"),
        ),
        (
            "mixtral",
            "model.layers.1.block_sparse_moe.gate.weight",
            ("layers", "layer 1", "router"),
        ),
        (
            "deepseek-v3",
            "model.layers.1.mlp.shared_experts.up_proj.weight",
            ("shared_experts", "layer 1", "up"),
        ),
        ("deepseek-v3", "model.layers.0.mlp.up_proj.weight", ("layers", "layer 0", "up")),
        (
            "deepseek-v3",
            "model.layers.1.self_attn.kv_a_proj_with_mqa.weight",
            ("layers", "layer 1", "kv"),
        ),
        (
            "qwen2-moe",
            "model.layers.1.mlp.shared_expert_gate.weight",
            ("layers", "layer 1", "router"),
        ),
        ("gpt-oss", "model.layers.1.mlp.experts.down_proj_bias", ("experts", "layer 1", "down")),
        ("gpt-oss", "model.layers.1.self_attn.sinks", ("layers", "layer 1", "sinks")),
    ],
)
def test_layers_of_language_models(
    name: str, key: str, expected: tuple[str, str | None, str | None]
) -> None:
    assert by_source(read_list(name))[key] == expected


def test_fused_experts_have_the_component_and_block_of_split_ones() -> None:
    """transformers 5 keeps them fused in memory: all experts' gate and up in one tensor."""
    split = by_source(read_list("qwen3-moe"))
    block = "model.layers.1.mlp.experts"
    fused = by_source({f"{block}.gate_up_proj": (2, 32, 32), f"{block}.down_proj": (2, 32, 16)})
    assert fused[f"{block}.down_proj"] == split[f"{block}.1.down_proj.weight"]
    assert fused[f"{block}.gate_up_proj"][:2] == split[f"{block}.1.gate_proj.weight"][:2]


def test_a_language_model_without_its_head_has_the_same_keys() -> None:
    """`LlamaModel` leaves out the first name that `LlamaForCausalLM` writes."""
    whole, base = labels(read_list("llama")), labels(read_list("llama-base"))
    assert base == {key: label for key, label in whole.items() if key != "lm_head.weight"}


# ---- Vision and speech --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "family", "components"),
    [
        ("vit", "ViT", {"embeddings", "encoder", "head"}),
        ("timm-vit", "ViT", {"embeddings", "encoder", "head"}),
        ("clip", "CLIP", {"text_model", "vision_model", "other"}),
        ("siglip", "SigLIP", {"text_model", "vision_model", "other"}),
        ("siglip-vision", "SigLIP", {"vision_model"}),
        ("whisper", "Whisper", {"encoder", "decoder"}),
        ("t5", "T5", {"embedding", "encoder", "decoder"}),
        ("yolo-v5", "YOLOv5", {"backbone", "neck", "detect"}),
        ("yolo-v8", "YOLO", {"backbone", "neck", "detect"}),
        ("yolo-11", "YOLO", {"backbone", "neck", "detect"}),
        ("timm-resnet", "generic", {"conv1", "bn1", "fc", *(f"layer{i}" for i in range(1, 5))}),
        ("timm-convnext", "generic", {"stem", "stages", "head"}),
        ("bert", "generic", {"embeddings", "encoder", "cls"}),
    ],
)
def test_components_of_other_networks(name: str, family: str, components: set[str]) -> None:
    shapes = read_list(name)
    anatomy = classify_keys(shapes)
    assert (anatomy.family, {p.component for p in anatomy.parts}) == (family, components)
    assert_nothing_lost(shapes, anatomy)
    nameless = [p.canonical_key for p in anatomy.parts if p.role is None]
    assert not [key for key in nameless if not key.endswith((".gamma", "logit_bias", "probe"))
                and not key.startswith("stem.")], nameless  # fmt: skip


@pytest.mark.parametrize(
    ("name", "key", "expected"),
    [
        ("vit", "vit.encoder.layer.1.output.dense.weight", ("encoder", "layer 1", "down")),
        ("timm-vit", "blocks.1.mlp.fc2.weight", ("encoder", "layer 1", "down")),
        ("timm-vit", "blocks.1.attn.qkv.weight", ("encoder", "layer 1", "qkv")),
        (
            "clip",
            "vision_model.encoder.layers.1.self_attn.out_proj.weight",
            ("vision_model", "layer 1", "o"),
        ),
        ("siglip-vision", "encoder.layers.1.mlp.fc1.weight", ("vision_model", "layer 1", "up")),
        (
            "whisper",
            "model.decoder.layers.1.encoder_attn.q_proj.weight",
            ("decoder", "layer 1", "cross_q"),
        ),
        (
            "t5",
            "decoder.block.1.layer.1.EncDecAttention.v.weight",
            ("decoder", "layer 1", "cross_v"),
        ),
        (
            "t5",
            "encoder.block.1.layer.1.DenseReluDense.wi_0.weight",
            ("encoder", "layer 1", "gate"),
        ),
        ("yolo-11", "model.23.cv3.2.2.weight", ("detect", "layer 23", "conv")),
        ("yolo-11", "model.10.cv1.bn.running_mean", ("backbone", "layer 10", "buffer")),
        ("yolo-v5", "model.10.conv.weight", ("neck", "layer 10", "conv")),
        ("timm-swin", "layers.2.blocks.3.attn.qkv.weight", ("layers", "layers.2.blocks.3", "qkv")),
        (
            "timm-convnext",
            "stages.2.blocks.1.mlp.fc1.weight",
            ("stages", "stages.2.blocks.1", "up"),
        ),
        ("timm-efficientnet", "blocks.3.1.conv_dw.weight", ("blocks", "blocks.3.1", "conv")),
        ("timm-resnet", "layer3.1.bn2.weight", ("layer3", "layer3.1", "norm")),
    ],
)
def test_layers_of_other_networks(
    name: str, key: str, expected: tuple[str, str | None, str | None]
) -> None:
    assert by_source(read_list(name))[key] == expected


def openai_whisper() -> Shapes:
    """Whisper as its authors name it, for the sizes of the list."""
    c, ff, words, places = 32, 48, 96, 20
    keys: Shapes = {"encoder.conv1.weight": (c, 8, 3), "encoder.conv2.weight": (c, c, 3)}
    keys |= {"encoder.conv1.bias": (c,), "encoder.conv2.bias": (c,)}
    keys |= {f"{side}.positional_embedding": (places, c) for side in ("encoder", "decoder")}
    keys["decoder.token_embedding.weight"] = (words, c)
    norms = ["encoder.ln_post", "decoder.ln"]
    for side in ("encoder", "decoder"):
        for i in range(2):
            block = f"{side}.blocks.{i}"
            for attention in ("attn", "cross_attn")[: 1 if side == "encoder" else 2]:
                for name in ("query", "key", "value", "out"):
                    keys[f"{block}.{attention}.{name}.weight"] = (c, c)
                    if name != "key":
                        keys[f"{block}.{attention}.{name}.bias"] = (c,)
                norms.append(f"{block}.{attention}_ln")
            norms.append(f"{block}.mlp_ln")
            keys |= {f"{block}.mlp.0.weight": (ff, c), f"{block}.mlp.0.bias": (ff,)}
            keys |= {f"{block}.mlp.2.weight": (c, ff), f"{block}.mlp.2.bias": (c,)}
    return keys | {f"{name}.{kind}": (c,) for name in norms for kind in ("weight", "bias")}


def test_whisper_of_its_authors_has_the_keys_of_hugging_face() -> None:
    theirs = openai_whisper()
    shapes = read_list("whisper")
    assert labels(theirs) == labels(shapes)
    sizes = {p.canonical_key: shapes[p.sources[0]] for p in classify_keys(shapes).parts}
    assert sizes == theirs


def test_the_image_side_of_openai_clip_has_the_labels_of_hugging_face() -> None:
    theirs = by_source(
        {
            "visual.class_embedding": (32,),
            "visual.transformer.resblocks.1.attn.in_proj_weight": (96, 32),
            "visual.transformer.resblocks.1.ln_1.weight": (32,),
            "transformer.resblocks.1.mlp.c_fc.weight": (48, 32),
            "token_embedding.weight": (96, 32),
        }
    )
    assert theirs["visual.transformer.resblocks.1.attn.in_proj_weight"] == (
        *("vision_model", "layer 1"),
        "qkv",
    )
    ours = by_source(read_list("clip"))
    assert (
        theirs["transformer.resblocks.1.mlp.c_fc.weight"]
        == ours["text_model.encoder.layers.1.mlp.fc1.weight"]
        == ("text_model", "layer 1", "up")
    )


def test_a_text_encoder_that_transformers_5_wrote_is_that_of_sd1() -> None:
    """Its `CLIPTextModel` leaves out `text_model.` in the file."""
    short = read_list("clip-text")
    assert not any(key.startswith("text_model.") for key in short)
    long = prefixed("text_model.", short)
    assert labels(short) == labels(long)
    unet = {"unet/down_blocks.0.attentions.0.proj_in.weight": (320, 320, 1, 1)}
    folder = unet | prefixed("text_encoder/", short)
    assert labels(folder) == labels(unet | prefixed("text_encoder/", long))
    linear = {"unet/down_blocks.0.attentions.0.proj_in.weight": (320, 320)}  # SD2: OpenCLIP
    folder = linear | prefixed("text_encoder/", short)
    assert labels(folder) == labels(linear | prefixed("text_encoder/", long))
