"""Which keys are factors of an adapter."""

from __future__ import annotations

import pytest

from megasim.checkpoint.adapter_keys import parse_adapter_key

_ENDINGS = [
    "lora_up.weight",
    "lora_down",
    "lora_mid.weight",
    "lora_A.weight",
    "lora_B.default.weight",
    "lora_B.bias",
    "lora_embedding_A",
    "lora_embedding_B.x",
    "lora.up.weight",
    "lora_linear_layer.down.weight",
    "q_lora.up.weight",
    "alpha",
    "dora_scale",
    "lora_magnitude_vector.default.weight",
    "hada_w1_a",
    "hada_t2",
    "lokr_w1",
    "lokr_t2",
    "oft_blocks",
    "rescale",
    "diff",
    "w_norm",
    "diff_b",
    "b_norm",
    "oft_R.default",
    "oft_S",
    "boft_R",
    "boft_s",
    "oft_diag",
    "vera_lambda_b",
    "vera_lambda_d.x",
    "ia3_l",
    "a1.weight",
    "b1.weight",
    "a2.weight",
    "b2.weight",
    "on_input",
]


@pytest.mark.parametrize("ending", _ENDINGS)
def test_every_spelling_is_seen(ending: str) -> None:
    found = parse_adapter_key(f"model.layers.3.proj.{ending}")
    assert found is not None
    assert found[0].startswith("model.layers.3.proj")


@pytest.mark.parametrize("key", ["model.layers.3.proj.weight", "norm1.weight", "alpha", "diff", ""])
def test_keys_of_models_are_none(key: str) -> None:
    assert parse_adapter_key(key) is None
