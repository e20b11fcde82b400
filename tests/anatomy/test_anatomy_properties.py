"""Anatomy: what holds for any keys, of any file."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from megasim.anatomy.classification import canonical_shape, classify_keys
from megasim.zoo import architectures as zoo
from tests.anatomy.classified import Shapes, assert_nothing_lost

_REAL = sorted(
    {
        **zoo.sd1_shapes(1 / 32),
        **zoo.sd2_shapes(1 / 32),
        **zoo.sdxl_shapes(1 / 32),
        **zoo.vae_shapes(1 / 32),
        **{k.replace("text_model.", ""): () for k in zoo.sd1_shapes(1 / 32) if "text_model" in k},
        **{
            f"text_encoder/text_model.encoder.layers.{i}.self_attn.{p}_proj.{kind}": ()
            for i in (0, 22)
            for p in "qkv"
            for kind in ("weight", "bias")
        },
        "text_encoder/text_projection.weight": (),
        "text_projection": (),
        "vae/decoder.up_blocks.7.resnets.0.conv1.weight": (),
    }
)
_NAMES = st.text(alphabet="ab./0é\n\x1b{*", max_size=12)
_REAL_KEYS = st.integers(0, len(_REAL) - 1).map(lambda i: _REAL[i])
_KEYS = st.one_of(
    _REAL_KEYS,
    st.builds(str.__add__, st.sampled_from(["module.", "model.", "unet/", ""]), _REAL_KEYS),
    _NAMES,
    st.text(max_size=30),
)
_SHAPES = st.lists(st.integers(0, 4), max_size=4).map(tuple)


@settings(max_examples=150, deadline=None)
@given(st.dictionaries(_KEYS, _SHAPES, max_size=40))
def test_every_tensor_is_a_source_of_one_part(shapes: Shapes) -> None:
    anatomy = classify_keys(shapes)
    assert_nothing_lost(shapes, anatomy)
    again = classify_keys(dict(reversed(shapes.items())))
    assert again == anatomy
    for part in anatomy.parts:
        assert not part.transposed or len(shapes[part.sources[0]]) == 2
        rests = {shapes[key][1:] for key in part.sources}
        assert len(rests) == 1
        assert len(part.sources) == 1 or all(shapes[key] for key in part.sources)


def test_enormous_keys_cost_nothing() -> None:
    keys = [
        "model." + "a." * 100_000,
        "encoder." + "9" * 100_000,
        "layers." + "9" * 400 + ".weight",
    ]
    anatomy = classify_keys(dict.fromkeys(keys, (1,)))
    assert_nothing_lost(dict.fromkeys(keys), anatomy)


@given(st.lists(st.integers(1, 3), max_size=5))
def test_canonical_shape_keeps_the_elements_and_two_dimensions(shape: list[int]) -> None:
    short = canonical_shape(shape)
    assert short == tuple(shape[: len(short)])
    assert set(shape[len(short) :]) <= {1}
    assert len(short) == min(len(shape), 2) or short[-1] != 1
