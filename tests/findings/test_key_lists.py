"""Lists of keys are brief, name exactly what they should, and do not depend on order."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from megasim.findings.key_lists import brief_items, cover, describe_keys

NAMES = st.sampled_from(["a", "b", "attn", "0", "1", "2", "10", "weight", "bias"])
PATHS = st.sets(st.lists(NAMES, min_size=1, max_size=4).map(tuple), min_size=1, max_size=40)


def leaves(tree: set[tuple[str, ...]]) -> set[tuple[str, ...]]:
    """Return the paths that are no prefix of another, as the keys of a model are."""
    return {p for p in tree if not any(q != p and q[: len(p)] == p for q in tree)}


@given(PATHS, st.data())
def test_a_cover_covers_what_it_should_and_nothing_else(tree, data) -> None:
    among = leaves(tree)
    wanted = data.draw(st.sets(st.sampled_from(sorted(among))))
    nodes = cover(wanted, among)
    under = [p for node in nodes for p in among if p[: len(node)] == node]
    assert sorted(under) == sorted(wanted)  # also: no path stands under two nodes


@given(PATHS, st.data(), st.randoms())
def test_the_order_of_keys_does_not_matter(tree, data, shuffler: random.Random) -> None:
    among = [".".join(p) for p in sorted(leaves(tree))]
    keys = data.draw(st.lists(st.sampled_from(among), unique=True, min_size=1))
    text = describe_keys(keys, among)
    shuffler.shuffle(keys)
    shuffler.shuffle(among)
    assert describe_keys(keys, among) == text


@given(PATHS, st.data(), st.integers(2, 8))
def test_no_more_items_than_asked_for(tree, data, limit: int) -> None:
    among = [".".join(p) for p in leaves(tree)]
    keys = data.draw(st.lists(st.sampled_from(among), unique=True, min_size=1))
    shown = describe_keys(keys, among, limit=limit).split(", ")
    items = brief_items(keys, among)
    assert len(shown) == min(len(items), limit)


CLIP = [
    *("cond.model.logit_scale", "cond.model.text_projection", "cond.model.ln_final.weight"),
    *(f"cond.model.transformer.resblocks.{i}.ln_1.weight" for i in range(24)),
    *(f"cond.model.transformer.resblocks.{i}.ln_1.bias" for i in range(24)),
    *(f"cond.model.transformer.resblocks.{i}.mlp.c_fc.weight" for i in range(24)),
]


def test_a_whole_block_is_named_once_and_tensors_come_by_size() -> None:
    unused = [k for k in CLIP if "resblocks.23." in k] + CLIP[:2]
    sizes = {"cond.model.logit_scale": 3.6, "cond.model.text_projection": 1024.0}
    text = describe_keys(unused, CLIP, sizes=sizes)
    assert text == "resblocks.23, text_projection, logit_scale"


def test_neighbouring_blocks_become_a_range() -> None:
    trained = [k for k in CLIP if any(f"resblocks.{i}." in k for i in (3, 8, 9, 10))]
    assert describe_keys(trained, CLIP) == "resblocks.3, resblocks.8–10"


def test_what_stands_in_many_places_is_counted() -> None:
    assert describe_keys([k for k in CLIP if "c_fc" in k], CLIP) == "c_fc.weight at 24 places"


def test_the_units_of_block_merging_bear_their_names() -> None:
    keys = {
        f"model.diffusion_model.input_blocks.{i}.1.{name}.weight": f"IN{i:02}"
        for i in (1, 2, 4)
        for name in ("norm", "proj_in", "proj_out")
    }
    changed = [key for key, block in keys.items() if block != "IN04"]
    assert describe_keys(changed, list(keys), blocks=keys) == "IN01–02"


def test_a_tensor_that_is_not_the_only_one_of_its_name_is_named_in_full() -> None:
    keys = [f"unet.blocks.{i}.attn.{n}.weight" for i in range(3) for n in ("to_q", "to_k", "to_v")]
    assert describe_keys([keys[4]], keys) == "blocks.1.attn.to_k.weight"
