"""What holds for every classified model."""

from __future__ import annotations

from collections.abc import Mapping

from megasim.anatomy.classification import ModelAnatomy

Shapes = dict[str, tuple[int, ...]]


def assert_nothing_lost(shapes: Mapping[str, object], anatomy: ModelAnatomy) -> None:
    sources = [key for part in anatomy.parts for key in dict.fromkeys(part.sources)]
    canonical = [part.canonical_key for part in anatomy.parts]
    assert sorted(sources) == sorted(shapes)
    assert len(set(canonical)) == len(canonical)
    assert canonical == sorted(canonical)
