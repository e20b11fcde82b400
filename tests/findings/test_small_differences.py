"""Models that differ in one thing, or in few: said as that, and nothing is said to be trained."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.findings.sentences import related, related_files
from tests.models import random_model
from tests.small_networks import (
    StateDict,
    convolutional,
    copied,
    language_model,
    lora,
    noise,
    transformer,
)
from tests.small_sd import UNET, cast, small_sd

WHOLE = random_model(1)
HALF = cast(WHOLE, torch.float16)


def test_a_cast_with_one_key_more_one_less_or_one_moved(tmp_path: Path) -> None:
    moved = {k: v.clone() for k, v in HALF.items()}
    moved["block.2.weight"].view(torch.int16)[0, 0] += 1  # one unit in the last place
    (one,) = related(tmp_path / "moved", full=WHOLE, half=moved)
    assert one == "half is full cast to float16, but for 1 of 4 keys: block.2.weight"
    (more,) = related(
        tmp_path / "more", full=WHOLE, half=HALF | {"extra.weight": noise(9, 9, 9).half()}
    )
    assert more == "half is full cast to float16, plus its extra"
    less = {key: HALF[key] for key in list(HALF)[1:]}
    (fewer,) = related(tmp_path / "less", full=WHOLE, half=less)
    assert fewer == "half is full cast to float16, without block.0.weight"


def test_the_unet_of_a_cast_that_lost_keys_was_not_fine_tuned(tmp_path: Path) -> None:
    base = small_sd(1)
    time = UNET + "time_embed.0.weight"
    (text,) = related(
        tmp_path,
        base=base | {time: noise(3, 8, 8)},
        half=cast(base, torch.float16),
    )
    assert text == f"half is base cast to float16, without {time}"


def test_a_convolution_widened_with_zeros(tmp_path: Path) -> None:
    base = random_model(3) | {"conv.weight": noise(4, 8, 4, 3, 3)}
    zeros = torch.zeros(8, 5, 3, 3)
    wide = base | {"conv.weight": torch.cat([base["conv.weight"], zeros], 1)}
    filled = base | {"conv.weight": torch.cat([base["conv.weight"], zeros + 0.1], 1)}
    texts = related(tmp_path, base=base, wide=wide, filled=filled)
    assert texts[0] == (
        "wide is base with conv.weight widened from 8x4x3x3 to 8x9x3x3; "
        "the new elements are zero, the norms are the same"
    )
    assert "base and filled hold the same weights, but for 1 of 5 keys: conv.weight" in texts


def test_a_lora_of_which_only_alpha_differs(tmp_path: Path) -> None:
    (text,) = related(tmp_path, a=lora(1, 8), b=lora(1, 4))
    assert text == "a and b are the same adapter with another alpha: 8 → 4 in 3 keys"


def test_two_loras_with_one_alpha_are_no_kin(tmp_path: Path) -> None:
    assert related(tmp_path, a=lora(1, 8), b=lora(2, 8)) == []


def one_unit_off(state: StateDict, key: str) -> StateDict:
    """Return a copy with one value of a key moved by one unit in the last place."""
    moved = copied(state)
    bits = torch.int32 if moved[key].dtype == torch.float32 else torch.int16
    moved[key].view(bits).view(-1)[5] += 1
    return moved


@pytest.mark.parametrize("key", ["blocks.1.mlp.fc1.weight", "blocks.0.norm1.weight", "pos_embed"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_one_value_off_by_one_unit_is_no_cast(tmp_path: Path, key: str, dtype: torch.dtype) -> None:
    """Both files are of one dtype: no cast explains that they are equal once rounded."""
    one = cast(transformer(1), dtype)
    (text,) = related(tmp_path, one=one, two=one_unit_off(one, key))
    assert text.startswith(f"one and two hold the same weights, but for 1 of 19 keys: {key}")


def test_a_cast_with_one_value_off_is_not_called_a_cast_to_what_it_is_not(tmp_path: Path) -> None:
    full = transformer(1)
    half = one_unit_off(cast(full, torch.float16), "blocks.2.attn.proj.weight")
    (text,) = related(tmp_path, full=full, half=half)
    assert text.startswith("half is full cast to float16, but for 1 of 19 keys: blocks.2.attn.proj")


def test_many_rounded_keys_are_a_rounded_model(tmp_path: Path) -> None:
    full = transformer(1)
    (text,) = related(tmp_path, a=full, b=cast(cast(full, torch.float16), torch.float32))
    assert text == "a and b hold the same weights, once rounded to fp16"


def test_a_small_tensor_that_differs_beside_equal_small_ones(tmp_path: Path) -> None:
    """Most tensors of a block of a CNN are too small to tell models apart."""
    base = convolutional(1, 5)
    other = copied(base)
    other["features.1.conv.weight"] += 0.01 * noise(9, 8, 4, 3, 3)
    (text,) = related(tmp_path, a=base, b=other)
    assert text == "a and b hold the same weights, but for 1 of 15 keys: features.1.conv.weight"


def test_widened_and_cast_and_with_lost_keys(tmp_path: Path) -> None:
    base = random_model(3) | {"conv.weight": noise(4, 8, 1, 3, 3, 3), "time.weight": noise(5, 9, 9)}
    wide = base | {"conv.weight": torch.cat([base["conv.weight"], torch.zeros(8, 3, 3, 3, 3)], 1)}
    start = "wide is base with conv.weight widened from 8x1x3x3x3 to 8x4x3x3x3"
    (both,) = related(tmp_path / "cast", base=base, wide=cast(wide, torch.bfloat16))
    assert both == (
        f"{start}, wide cast to bfloat16; the new elements are zero, the norms are the same but "
        "for rounding"
    )
    lost = {key: value for key, value in wide.items() if key != "time.weight"}
    (fewer,) = related(tmp_path / "lost", base=base, wide=lost)
    assert fewer == (
        f"{start}; the new elements are zero, the norms are the same; base alone holds its time"
    )


def test_one_key_moved_and_a_component_lost_is_no_training(tmp_path: Path) -> None:
    base = transformer(1)
    moved = copied(base)
    moved["blocks.0.mlp.fc2.weight"] += 1
    del moved["head.weight"]
    (text,) = related(tmp_path, base=base, moved=moved)
    assert text == (
        "base and moved hold the same weights, but for 1 of 18 keys: blocks.0.mlp.fc2.weight; "
        "base alone holds its head"
    )


def test_a_trained_head_as_large_as_the_embedding(tmp_path: Path) -> None:
    """It repeats the embedding in one file, whose tensors then all stand in the other."""
    body = {"wte.weight": noise(1, 50, 16), "h.0.w": noise(2, 16, 16), "h.1.w": noise(3, 16, 16)}
    tied = body | {"lm_head.weight": body["wte.weight"].clone()}
    trained = body | {"lm_head.weight": body["wte.weight"] + noise(4, 50, 16)}
    (text,) = related(tmp_path, tied=tied, trained=trained)
    assert text == "tied and trained hold the same weights, but for 1 of 4 keys: lm_head.weight"


def test_a_key_that_is_not_decoded_is_named_with_its_dtype(tmp_path: Path) -> None:
    body = language_model(1)
    codes = {
        name: torch.full((8, 8), fill, dtype=torch.uint8).view(torch.float4_e2m1fn_x2)
        for name, fill in (("a", 17), ("b", 34))
    }
    (tmp_path / "files").mkdir()
    paths = []
    for name, value in codes.items():
        paths.append(tmp_path / "files" / f"{name}.pt")
        torch.save(body | {"packed.codes": value}, paths[-1])
    (text,) = related_files(tmp_path, *paths)
    assert text == (
        "a and b hold the same weights, but for 1 of 17 keys: packed.codes (float4_e2m1fn_x2)"
    )


def test_an_adapter_with_another_alpha_that_was_cast_and_lost_a_layer(tmp_path: Path) -> None:
    one, two = lora(1, 8), cast(lora(1, 4), torch.float16)
    for key in [key for key in two if "mid_block" in key]:
        del two[key]
    (text,) = related(tmp_path, one=one, two=two)
    assert text.startswith(
        "one and two are the same adapter with another alpha: 8 → 4 in 2 keys, once rounded to "
        "fp16; one alone holds 3 keys"
    )
