"""Write the key lists in `key_lists/`: the names and shapes that real libraries give small models.

    python -m tests.anatomy.write_key_lists

in an environment with torch, transformers, diffusers, timm, ultralytics and safetensors. Models of
transformers are saved and their files read, since names in memory may be others. It ends with an
error where diffusers' converters do not turn `original_names.py` into diffusers' own names.
"""

from __future__ import annotations

import inspect
import tempfile
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from tests.anatomy.classified import Shapes
from tests.anatomy.original_names import ORIGINALS

FOLDER = Path(__file__).parent / "key_lists"

_LANGUAGE: dict[str, Any] = {
    **{"vocab_size": 96, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2},
    **{"num_attention_heads": 4, "num_key_value_heads": 2, "tie_word_embeddings": False},
    **{"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2},
}
_EXPERTS: dict[str, Any] = {"moe_intermediate_size": 16, "num_experts": 2, "num_experts_per_tok": 1}
_LATENT: dict[str, Any] = {
    **{"n_routed_experts": 4, "n_shared_experts": 1, "first_k_dense_replace": 1},
    **{"n_group": 2, "topk_group": 1, "kv_lora_rank": 8, "q_lora_rank": 8},
    **{"qk_rope_head_dim": 4, "v_head_dim": 8, "qk_nope_head_dim": 8},
}
_TOWER: dict[str, Any] = {
    **{"hidden_size": 32, "intermediate_size": 48},
    **{"num_hidden_layers": 2, "num_attention_heads": 4},
}
_IMAGE: dict[str, Any] = {**_TOWER, "image_size": 32, "patch_size": 16}
_TOWERS = {"text_config": {**_TOWER, "vocab_size": 96}, "vision_config": _IMAGE}
_CAUSAL: dict[str, Any] = {k: v for k, v in _LANGUAGE.items() if k != "tie_word_embeddings"}
_SEEN_BY_CLIP: dict[str, Any] = {
    "vision_config": {**_IMAGE, "model_type": "clip_vision_model", "projection_dim": 16},
    "text_config": {**_CAUSAL, "model_type": "llama"},
    "image_token_index": 5,
}
_SEEN_BY_SIGLIP: dict[str, Any] = {
    "vision_config": {**_IMAGE, "model_type": "siglip_vision_model", "vision_use_head": False},
    "text_config": {**_CAUSAL, "model_type": "gemma", "head_dim": 8},
    "projection_dim": 32,
}
_QWEN_VL: dict[str, Any] = {
    "text_config": {**_CAUSAL, "head_dim": 8, "rope_scaling": {"mrope_section": [1, 1, 2]}},
    "vision_config": {
        **{"depth": 2, "hidden_size": 32, "num_heads": 4, "intermediate_size": 48},
        **{"embed_dim": 32, "out_hidden_size": 32, "patch_size": 14},
    },
}
_T5: dict[str, Any] = {
    **{"d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_decoder_layers": 2},
    **{"num_heads": 4, "vocab_size": 96},
}
_WHISPER: dict[str, Any] = {
    **{"d_model": 32, "encoder_layers": 2, "decoder_layers": 2, "vocab_size": 96},
    **{"encoder_attention_heads": 4, "decoder_attention_heads": 4, "num_mel_bins": 8},
    **{"encoder_ffn_dim": 48, "decoder_ffn_dim": 48, "decoder_start_token_id": 1},
    **{"max_source_positions": 20, "max_target_positions": 20},
    **{"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2},
}

# name: class of the model, and settings
TRANSFORMERS: dict[str, tuple[str, Mapping[str, Any]]] = {
    "llama": ("LlamaForCausalLM", _LANGUAGE),
    "llama-base": ("LlamaModel", _LANGUAGE),
    "qwen2": ("Qwen2ForCausalLM", _LANGUAGE),
    "qwen3": ("Qwen3ForCausalLM", {**_LANGUAGE, "head_dim": 8}),
    "mistral": ("MistralForCausalLM", _LANGUAGE),
    "gemma2": ("Gemma2ForCausalLM", {**_LANGUAGE, "head_dim": 8}),
    "phi": ("PhiForCausalLM", {**_LANGUAGE, "num_key_value_heads": 4}),
    "phi3": ("Phi3ForCausalLM", _LANGUAGE),
    "gpt2": ("GPT2LMHeadModel", {"n_embd": 32, "n_layer": 2, "n_head": 4, "vocab_size": 96}),
    "mixtral": ("MixtralForCausalLM", {**_LANGUAGE, "num_local_experts": 2}),
    "qwen2-moe": (
        "Qwen2MoeForCausalLM",
        {**_LANGUAGE, **_EXPERTS, "shared_expert_intermediate_size": 16},
    ),
    "qwen3-moe": ("Qwen3MoeForCausalLM", {**_LANGUAGE, **_EXPERTS, "head_dim": 8}),
    "deepseek-v3": (
        "DeepseekV3ForCausalLM",
        {**_LANGUAGE, **_EXPERTS, **_LATENT, "num_key_value_heads": 4, "num_experts_per_tok": 2},
    ),
    "gpt-oss": (
        "GptOssForCausalLM",
        {**_LANGUAGE, "num_local_experts": 2, "num_experts_per_tok": 1, "head_dim": 8},
    ),
    "llava": ("LlavaForConditionalGeneration", _SEEN_BY_CLIP),
    "paligemma": ("PaliGemmaForConditionalGeneration", _SEEN_BY_SIGLIP),
    "qwen2-vl": ("Qwen2VLForConditionalGeneration", _QWEN_VL),
    "qwen3-vl": ("Qwen3VLForConditionalGeneration", _QWEN_VL),
    "idefics3": (
        "Idefics3ForConditionalGeneration",
        {"vision_config": _IMAGE, "text_config": {**_CAUSAL, "model_type": "llama"}},
    ),
    "bert": ("BertForMaskedLM", {**_TOWER, "vocab_size": 96}),
    "vit": ("ViTForImageClassification", _IMAGE),
    "clip": ("CLIPModel", {**_TOWERS, "projection_dim": 16}),
    "clip-text": ("CLIPTextModel", {**_TOWER, "vocab_size": 96}),
    "siglip": ("SiglipModel", _TOWERS),
    "siglip-vision": ("SiglipVisionModel", _IMAGE),
    "whisper": ("WhisperForConditionalGeneration", _WHISPER),
    "t5": (
        "T5ForConditionalGeneration",
        {**_T5, "feed_forward_proj": "gated-gelu", "tie_word_embeddings": False},
    ),
}

_HEADS: dict[str, Any] = {"num_layers": 2, "attention_head_dim": 8, "num_attention_heads": 4}
_WAN: dict[str, Any] = {
    **{"num_layers": 2, "attention_head_dim": 12, "num_attention_heads": 2},
    **{"text_dim": 16, "freq_dim": 16, "ffn_dim": 40},
}
_FLUX: dict[str, Any] = {**_HEADS, "num_single_layers": 2, "joint_attention_dim": 24}
DIFFUSERS: dict[str, tuple[str, Mapping[str, Any]]] = {
    "flux-diffusers": (
        "FluxTransformer2DModel",
        {
            **_FLUX,
            "pooled_projection_dim": 16,
            "guidance_embeds": True,
            "axes_dims_rope": (2, 2, 4),
        },
    ),
    "flux2-diffusers": ("Flux2Transformer2DModel", {**_FLUX, "axes_dims_rope": (2, 2, 2, 2)}),
    "wan-diffusers": ("WanTransformer3DModel", _WAN),
    "wan-i2v-diffusers": (
        "WanTransformer3DModel",
        {**_WAN, "image_dim": 16, "added_kv_proj_dim": 24, "in_channels": 36},
    ),
    "qwen-image-diffusers": (
        "QwenImageTransformer2DModel",
        {
            **{"num_layers": 2, "attention_head_dim": 16, "num_attention_heads": 2},
            **{"joint_attention_dim": 24, "axes_dims_rope": (4, 6, 6)},
        },
    ),
    "ltx-diffusers": (
        "LTXVideoTransformer3DModel",
        {**_HEADS, "cross_attention_dim": 32, "caption_channels": 16},
    ),
    "hunyuan-video-diffusers": (
        "HunyuanVideoTransformer3DModel",
        {
            **_HEADS,
            **{"num_single_layers": 2, "num_refiner_layers": 2, "text_embed_dim": 24},
            **{"pooled_projection_dim": 16, "rope_axes_dim": (2, 2, 4)},
        },
    ),
}
# Which converter, and the width of the real model that it takes for granted.
_CONVERTERS = {
    "wan": ("convert_wan_transformer_to_diffusers", ""),
    "wan-i2v": ("convert_wan_transformer_to_diffusers", ""),
    "ltx": ("convert_ltx_transformer_checkpoint_to_diffusers", ""),
    "hunyuan-video": ("convert_hunyuan_video_transformer_to_diffusers", "hidden_size = 3072"),
    "flux": ("convert_flux_transformer_checkpoint_to_diffusers", "inner_dim = 3072"),
    "flux2": ("convert_flux2_transformer_checkpoint_to_diffusers", ""),
}

TIMM = {
    "timm-vit": "vit_tiny_patch16_224",
    "timm-resnet": "resnet18",
    "timm-convnext": "convnext_atto",
    "timm-swin": "swin_tiny_patch4_window7_224",
    "timm-efficientnet": "efficientnet_b0",
}
YOLO = {"yolo-v5": "v5/yolov5.yaml", "yolo-v8": "v8/yolov8.yaml", "yolo-11": "11/yolo11.yaml"}


def _written(name: str, shapes: Shapes, source: str) -> Shapes:
    lines = [f"{key} {'x'.join(map(str, shapes[key]))}".rstrip() for key in sorted(shapes)]
    (FOLDER / f"{name}.txt").write_text(f"# {source}\n" + "\n".join(lines) + "\n")
    return shapes


def _in_file(model: Any) -> Shapes:
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        (path,) = Path(folder).glob("*.safetensors")
        with safe_open(path, "pt") as file:
            return {key: tuple(file.get_slice(key).get_shape()) for key in file.keys()}  # noqa: SIM118


def _in_memory(model: Any) -> Shapes:
    return {key: tuple(value.shape) for key, value in model.state_dict().items()}


def main() -> None:
    """Write all lists."""
    transformers, diffusers = import_module("transformers"), import_module("diffusers")
    timm, ultralytics = import_module("timm"), import_module("ultralytics")
    FOLDER.mkdir(exist_ok=True)
    for name, (kind, settings) in TRANSFORMERS.items():
        cls = getattr(transformers, kind)
        model = cls(cls.config_class(**settings))
        _written(name, _in_file(model), f"transformers {transformers.__version__} {kind}")
    for name, (kind, settings) in DIFFUSERS.items():
        with torch.device("meta"):
            model = getattr(diffusers, kind)(**settings)
        theirs = _written(name, _in_memory(model), f"diffusers {diffusers.__version__} {kind}")
        original = name.removesuffix("-diffusers")
        if original in ORIGINALS and _converted(original) != theirs:
            raise SystemExit(f"{name}: the names of its authors are not what diffusers expects")
    for name, kind in TIMM.items():
        with torch.device("meta"):
            model = timm.create_model(kind)
        _written(name, _in_memory(model), f"timm {timm.__version__} {kind}")
    tasks = import_module("ultralytics.nn.tasks")
    configs = Path(str(ultralytics.__file__)).parent / "cfg" / "models"
    for name, file in YOLO.items():
        shapes = _in_memory(tasks.DetectionModel(str(configs / file), verbose=False))
        _written(name, shapes, f"ultralytics {ultralytics.__version__} {file}")


def _converted(name: str) -> Shapes:
    """Return what diffusers' converter makes of the names of the authors."""
    converters = import_module("diffusers.loaders.single_file_utils")
    function, width = _CONVERTERS[name]
    source = inspect.getsource(getattr(converters, function))
    if width:
        source = source.replace(width, width.replace("3072", "32"))
    scope = dict(vars(converters))
    exec(source, scope)
    tensors = {key: torch.zeros(shape) for key, shape in ORIGINALS[name].items()}
    return {key: tuple(value.shape) for key, value in scope[function](tensors).items()}


if __name__ == "__main__":
    main()
