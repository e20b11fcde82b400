"""Anatomy of networks that are no image model: what their keys are called."""

from __future__ import annotations

import pytest

from megasim.anatomy.classification import classify_keys
from megasim.zoo import architectures as zoo


@pytest.mark.parametrize(
    ("key", "component", "block", "role"),
    [
        ("bert.embeddings.word_embeddings.weight", "embeddings", None, "embedding"),
        ("bert.embeddings.LayerNorm.bias", "embeddings", None, "norm"),
        ("bert.encoder.layer.11.attention.self.query.weight", "encoder", "layer 11", "q"),
        ("encoder.layer.11.attention.output.LayerNorm.bias", "encoder", "layer 11", "norm"),
        ("bert.encoder.layer.3.intermediate.dense.bias", "encoder", "layer 3", "up"),
        ("bert.encoder.layer.3.output.dense.bias", "encoder", "layer 3", "down"),
        ("bert.pooler.dense.weight", "pooler", None, "head"),
        ("cls.predictions.decoder.weight", "cls", None, "head"),
        ("lm_head.weight", "head", None, "head"),
        ("blocks.9.norm1.weight", "blocks", "layer 9", "norm"),
        ("layer1.0.bn1.running_mean", "layer1", "layer1.0", "buffer"),
        ("layer1.0.conv1.weight", "layer1", "layer1.0", "conv"),
        ("encoder.block.4.layer.0.SelfAttention.q.weight", "encoder", "layer 4", "q"),
        ("4.weight", "layers", "layer 4", None),
        ("lstm_cell.weight_ih", "lstm_cell", None, "rnn"),
        ("weight", "other", None, None),
        ("", "other", None, None),
        ("..", "other", None, None),
    ],
)
def test_generic_keys(key: str, component: str, block: str | None, role: str | None) -> None:
    anatomy = classify_keys({key: (4,)})
    (part,) = anatomy.parts
    assert (anatomy.family, anatomy.layout, part.canonical_key) == ("generic", "generic", key)
    assert (part.component, part.block, part.role) == (component, block, role)


def test_generic_models_lose_only_wrappers_that_every_key_has() -> None:
    wrapped = classify_keys({"module.net.weight": (2,), "module.net.bias": (2,)})
    assert [p.canonical_key for p in wrapped.parts] == ["net.bias", "net.weight"]
    mixed = classify_keys({"module.net.weight": (2,), "net.bias": (2,)})
    assert [p.canonical_key for p in mixed.parts] == ["module.net.weight", "net.bias"]
    language = classify_keys(zoo.transformer_shapes())
    assert {p.canonical_key for p in language.parts} == set(zoo.transformer_shapes())


def test_files_that_only_look_like_a_family_are_generic() -> None:
    control = {
        f"control_model.{k}": s
        for k, s in zoo.unet_shapes(zoo.UNetPlan((1, 2), (1, 0), 1, 768, False), 1 / 32).items()
    }
    lora = {
        "lora_unet_mid_block_attentions_0_proj_in.lora_up.weight": (4, 4),
        "lora_te1_text_model_encoder_layers_0_mlp_fc1.lora_up.weight": (4, 4),
    }
    assert classify_keys(control).family == "generic"
    anatomy = classify_keys(lora)
    assert anatomy.family == "generic"
    assert [p.component for p in anatomy.parts] == ["lora_te", "lora_unet"]


def test_a_crowd_of_top_level_names_is_no_set_of_components() -> None:
    parts = classify_keys({f"n{i}x.weight": (2,) for i in range(500)}).parts
    assert {part.component for part in parts} == {"other"}
