"""How the authors of image and video transformers name their layers: small key lists.

Written from the definitions of their modules: Flux and Flux 2 (black-forest-labs), Wan (Alibaba),
LTX-Video (Lightricks), HunyuanVideo (Tencent; ComfyUI gives it the names of Flux). The script
`write_key_lists.py` runs diffusers' own converters over them: what comes out are exactly the keys
and shapes of the diffusers models of the same sizes.
"""

from __future__ import annotations

from tests.anatomy.classified import Shapes

# The sizes of all: channels, and channels of a head.
_WIDTH, _HEAD = 32, 8


def _linear(key: str, rows: int, columns: int, *, bias: bool = True) -> Shapes:
    return {f"{key}.weight": (rows, columns), **({f"{key}.bias": (rows,)} if bias else {})}


def _norm(key: str, size: int) -> Shapes:
    return {f"{key}.weight": (size,), f"{key}.bias": (size,)}


def wan(*, from_image: bool) -> Shapes:
    """`WanModel`, for text to video or image to video."""
    c, text, ff = 24, 16, 40
    channels = 36 if from_image else 16
    keys: Shapes = {"patch_embedding.weight": (c, channels, 1, 2, 2), "patch_embedding.bias": (c,)}
    for name, size in (("text_embedding", text), ("time_embedding", 16)):
        keys |= _linear(f"{name}.0", c, size) | _linear(f"{name}.2", c, c)
    keys |= _linear("time_projection.1", 6 * c, c)
    for i in range(2):
        block = f"blocks.{i}"
        for attention in ("self_attn", "cross_attn"):
            for name in "qkvo":
                keys |= _linear(f"{block}.{attention}.{name}", c, c)
            keys |= {f"{block}.{attention}.norm_{name}.weight": (c,) for name in "qk"}
        if from_image:
            keys |= _linear(f"{block}.cross_attn.k_img", c, c)
            keys |= _linear(f"{block}.cross_attn.v_img", c, c)
            keys[f"{block}.cross_attn.norm_k_img.weight"] = (c,)
        keys |= _norm(f"{block}.norm3", c)
        keys |= _linear(f"{block}.ffn.0", ff, c) | _linear(f"{block}.ffn.2", c, ff)
        keys[f"{block}.modulation"] = (1, 6, c)
    keys |= _linear("head.head", 64, c) | {"head.modulation": (1, 2, c)}
    if from_image:
        keys |= _norm("img_emb.proj.0", 16) | _linear("img_emb.proj.1", 16, 16)
        keys |= _linear("img_emb.proj.3", c, 16) | _norm("img_emb.proj.4", c)
    return keys


def ltx() -> Shapes:
    """`Transformer3DModel` of LTX-Video."""
    c = _WIDTH
    keys = _linear("patchify_proj", c, 128) | _linear("proj_out", 128, c)
    keys |= _linear("adaln_single.emb.timestep_embedder.linear_1", c, 256)
    keys |= _linear("adaln_single.emb.timestep_embedder.linear_2", c, c)
    keys |= _linear("adaln_single.linear", 6 * c, c)
    keys |= _linear("caption_projection.linear_1", c, 16)
    keys |= _linear("caption_projection.linear_2", c, c)
    keys["scale_shift_table"] = (2, c)
    for i in range(2):
        block = f"transformer_blocks.{i}"
        keys[f"{block}.scale_shift_table"] = (6, c)
        for attention in ("attn1", "attn2"):
            for name in ("to_q", "to_k", "to_v", "to_out.0"):
                keys |= _linear(f"{block}.{attention}.{name}", c, c)
            keys |= {f"{block}.{attention}.{name}_norm.weight": (c,) for name in "qk"}
        keys |= _linear(f"{block}.ff.net.0.proj", 4 * c, c) | _linear(f"{block}.ff.net.2", c, 4 * c)
    return keys


def hunyuan_video() -> Shapes:
    """`HYVideoDiffusionTransformer`."""
    c = _WIDTH
    keys = _linear("img_in.proj", c, 16) | {"img_in.proj.weight": (c, 16, 1, 2, 2)}
    keys |= _linear("txt_in.input_embedder", c, 24)
    keys |= _linear("txt_in.t_embedder.mlp.0", c, 256) | _linear("txt_in.t_embedder.mlp.2", c, c)
    keys |= _linear("txt_in.c_embedder.linear_1", c, 24)
    keys |= _linear("txt_in.c_embedder.linear_2", c, c)
    for name in ("time_in", "guidance_in"):
        keys |= _linear(f"{name}.mlp.0", c, 256) | _linear(f"{name}.mlp.2", c, c)
    keys |= _linear("vector_in.in_layer", c, 16) | _linear("vector_in.out_layer", c, c)
    for i in range(2):
        block = f"txt_in.individual_token_refiner.blocks.{i}"
        keys |= _norm(f"{block}.norm1", c) | _norm(f"{block}.norm2", c)
        keys |= _linear(f"{block}.self_attn_qkv", 3 * c, c)
        keys |= _linear(f"{block}.self_attn_proj", c, c)
        keys |= _linear(f"{block}.mlp.fc1", 4 * c, c) | _linear(f"{block}.mlp.fc2", c, 4 * c)
        keys |= _linear(f"{block}.adaLN_modulation.1", 2 * c, c)
        for side in ("img", "txt"):
            block = f"double_blocks.{i}.{side}"
            keys |= _linear(f"{block}_mod.linear", 6 * c, c)
            keys |= _linear(f"{block}_attn_qkv", 3 * c, c) | _linear(f"{block}_attn_proj", c, c)
            keys |= {f"{block}_attn_{name}_norm.weight": (_HEAD,) for name in "qk"}
            keys |= _linear(f"{block}_mlp.fc1", 4 * c, c) | _linear(f"{block}_mlp.fc2", c, 4 * c)
        block = f"single_blocks.{i}"
        keys |= _linear(f"{block}.linear1", 7 * c, c) | _linear(f"{block}.linear2", c, 5 * c)
        keys |= _linear(f"{block}.modulation.linear", 3 * c, c)
        keys |= {f"{block}.{name}_norm.weight": (_HEAD,) for name in "qk"}
    keys |= _linear("final_layer.linear", 64, c)
    return keys | _linear("final_layer.adaLN_modulation.1", 2 * c, c)


# What ComfyUI makes of Tencent's names, in this order.
_COMFY = (
    ("txt_in.t_embedder.mlp.0.", "txt_in.t_embedder.in_layer."),
    ("txt_in.t_embedder.mlp.2.", "txt_in.t_embedder.out_layer."),
    ("txt_in.c_embedder.linear_1.", "txt_in.c_embedder.in_layer."),
    ("txt_in.c_embedder.linear_2.", "txt_in.c_embedder.out_layer."),
    ("_mod.linear.", "_mod.lin."),
    ("_attn_qkv.", "_attn.qkv."),
    ("mlp.fc1.", "mlp.0."),
    ("mlp.fc2.", "mlp.2."),
    ("_attn_q_norm.weight", "_attn.norm.query_norm.scale"),
    ("_attn_k_norm.weight", "_attn.norm.key_norm.scale"),
    (".q_norm.weight", ".norm.query_norm.scale"),
    (".k_norm.weight", ".norm.key_norm.scale"),
    ("_attn_proj.", "_attn.proj."),
    (".modulation.linear.", ".modulation.lin."),
    ("_in.mlp.2.", "_in.out_layer."),
    ("_in.mlp.0.", "_in.in_layer."),
)


def comfy_hunyuan_video() -> Shapes:
    """HunyuanVideo as ComfyUI saves it."""
    keys: Shapes = {}
    for key, shape in hunyuan_video().items():
        for old, new in _COMFY:
            key = key.replace(old, new)
        keys[f"model.model.{key}"] = shape
    return keys


def flux() -> Shapes:
    """`Flux`."""
    c = _WIDTH
    keys = _linear("img_in", c, 64) | _linear("txt_in", c, 24)
    for name, size in (("time_in", 256), ("guidance_in", 256), ("vector_in", 16)):
        keys |= _linear(f"{name}.in_layer", c, size) | _linear(f"{name}.out_layer", c, c)
    for i in range(2):
        for side in ("img", "txt"):
            block = f"double_blocks.{i}.{side}"
            keys |= _linear(f"{block}_mod.lin", 6 * c, c) | _linear(f"{block}_attn.qkv", 3 * c, c)
            keys |= _linear(f"{block}_attn.proj", c, c)
            keys |= {f"{block}_attn.norm.{x}_norm.scale": (_HEAD,) for x in ("query", "key")}
            keys |= _linear(f"{block}_mlp.0", 4 * c, c) | _linear(f"{block}_mlp.2", c, 4 * c)
        block = f"single_blocks.{i}"
        keys |= _linear(f"{block}.linear1", 7 * c, c) | _linear(f"{block}.linear2", c, 5 * c)
        keys |= _linear(f"{block}.modulation.lin", 3 * c, c)
        keys |= {f"{block}.norm.{x}_norm.scale": (_HEAD,) for x in ("query", "key")}
    keys |= _linear("final_layer.linear", 64, c)
    return keys | _linear("final_layer.adaLN_modulation.1", 2 * c, c)


def flux2() -> Shapes:
    """`Flux2`: no biases, and one modulation for all blocks."""
    c = _WIDTH
    keys: Shapes = {}

    def linear(key: str, rows: int, columns: int) -> None:
        keys.update(_linear(key, rows, columns, bias=False))

    linear("img_in", c, 128)
    linear("txt_in", c, 24)
    for name in ("time_in", "guidance_in"):
        linear(f"{name}.in_layer", c, 256)
        linear(f"{name}.out_layer", c, c)
    for side in ("img", "txt"):
        linear(f"double_stream_modulation_{side}.lin", 6 * c, c)
    linear("single_stream_modulation.lin", 3 * c, c)
    for i in range(2):
        for side in ("img", "txt"):
            block = f"double_blocks.{i}.{side}"
            linear(f"{block}_attn.qkv", 3 * c, c)
            linear(f"{block}_attn.proj", c, c)
            linear(f"{block}_mlp.0", 6 * c, c)
            linear(f"{block}_mlp.2", c, 3 * c)
            keys |= {f"{block}_attn.norm.{x}_norm.scale": (_HEAD,) for x in ("query", "key")}
        linear(f"single_blocks.{i}.linear1", 9 * c, c)
        linear(f"single_blocks.{i}.linear2", c, 4 * c)
        keys |= {f"single_blocks.{i}.norm.{x}_norm.scale": (_HEAD,) for x in ("query", "key")}
    linear("final_layer.linear", 128, c)
    linear("final_layer.adaLN_modulation.1", 2 * c, c)
    return keys


# diffusers' key list of the same sizes, and what the authors call the same layers.
ORIGINALS = {
    "wan": wan(from_image=False),
    "wan-i2v": wan(from_image=True),
    "ltx": ltx(),
    "hunyuan-video": hunyuan_video(),
    "flux": flux(),
    "flux2": flux2(),
}
