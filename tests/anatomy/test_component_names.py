"""What components are called, and which keys a family never uses."""

from __future__ import annotations

import json
from pathlib import Path

from megasim.anatomy.classification import (
    classify_keys,
    component_members,
    component_title,
    unused_reason,
)
from megasim.zoo import architectures as zoo
from tests.anatomy.classified import Shapes


def test_component_names() -> None:
    assert component_members("te") == (
        "text_encoder",
        "text_encoder_1",
        "text_encoder_2",
        "text_encoder_3",
    )
    assert component_members("te1") == ("text_encoder_2",)
    assert component_members("unet") == ("unet",)
    assert component_title("unet") == "UNet"
    assert component_title("text_encoder") == "text encoder"


def unused(shapes: Shapes) -> set[str]:
    anatomy = classify_keys(shapes)
    return {
        part.canonical_key
        for part in anatomy.parts
        if unused_reason(anatomy.family, part.component, part.canonical_key)
    }


def test_unused_keys_are_the_ones_the_families_skip(shared: Path) -> None:
    sd2 = unused(zoo.sd2_shapes(1 / 32))
    changed = {
        key
        for key, distance in json.loads(
            (shared / "published" / "v1" / "sd2_sd21_jrd.json").read_text()
        )["kv"].items()
        if distance and key.startswith("cond_stage_model.")
    }
    assert sd2 == changed  # the 14 keys of which people wrote that nothing had changed
    sdxl = {key.split(".", 4)[4] for key in unused(zoo.sdxl_shapes(1 / 32))}
    layer = "text_model.encoder.layers.11."
    assert {key for key in sdxl if not key.startswith(layer)} == {
        "text_model.final_layer_norm.weight",
        "text_model.final_layer_norm.bias",
        "logit_scale",
    }
    assert sum(key.startswith(layer) for key in sdxl) == 16
    assert unused(zoo.sd1_shapes(1 / 32)) == set()
    assert unused({"model_ema.diffusion_modelout2bias": (4,), "betas": (1000,)}) == {
        "model_ema.diffusion_modelout2bias",
        "betas",
    }
    reason = unused_reason("VAE", "training_state", "first_stage_model.loss.logvar")
    assert reason is not None and "trained against" in reason
