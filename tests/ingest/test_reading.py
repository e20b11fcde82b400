"""Which tensors of a file are put together, and which stand for themselves."""

from __future__ import annotations

from megasim.anatomy.classification import classify_keys
from megasim.checkpoint.opening import TensorRef
from megasim.ingest.reading import _split, assemble_ref
from tests.diffusers_shapes import clip


def test_projections_of_several_dtypes_are_not_joined() -> None:
    """OpenCLIP keeps q, k and v as one tensor, which has one dtype; v may be left in float32."""
    shapes = clip("text_encoder", 23, 1024, projection=False, vocabulary=49408)
    parts = classify_keys(shapes).parts
    assert any(len(part.sources) == 3 for part in parts)

    def split(other: str) -> list[tuple[str, ...]]:
        tensors = {
            key: TensorRef(key, other if ".v_proj" in key else "float16", shape, "m", 0)
            for key, shape in shapes.items()
        }
        readable, unread = _split(parts, tensors, {})
        for part in readable:  # each can be put together as it says
            assemble_ref(tensors, part.sources, part.transposed)
        assert unread == []
        assert sorted(key for part in readable for key in part.sources) == sorted(shapes)
        return [part.sources for part in readable]

    assert split("float16") == [part.sources for part in parts]
    assert all(len(sources) == 1 for sources in split("float32"))
