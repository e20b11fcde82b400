"""The shape of the weight that an adapter changes, out of the shapes of its factors."""

from __future__ import annotations

from collections.abc import Mapping

from megasim.checkpoint.adapter_keys import AdapterLayer

Shape = tuple[int, ...]


def changed_shape(layer: AdapterLayer, shapes: Mapping[str, Shape]) -> Shape:
    """Return the shape of the weight that is changed, as far as the shapes of the factors say.

    Of a rotation it is that of the rows alone.
    """
    of = {role: shapes[key] for role, key in layer.factors.items()}
    if "embedding_up" in of and len(of["embedding_up"]) == len(of["embedding_down"]) == 2:
        return (of["embedding_down"][1], of["embedding_up"][0])
    if "turned_up" in of and len(of["turned_up"]) == len(of["turned_down"]) == 2:
        return (of["turned_up"][1], of["turned_down"][0])
    if "up" in of and "down" in of and of["up"] and len(of["down"]) > 1:
        kernel = of["mid"][2:] if "mid" in of else of["down"][2:]
        return (of["up"][0], of["down"][1], *kernel)
    if "diff" in of:
        return of["diff"]
    if "w1_a" in of and len(of["w1_a"]) == 2 and len(of["w1_b"]) == 2:
        rows = of["w1_a"][1] if "t1" in of else of["w1_a"][0]
        return (rows, of["w1_b"][1], *of.get("t1", ())[2:])
    if "oft_blocks" in of and len(of["oft_blocks"]) > 2:
        return (of["oft_blocks"][-3] * of["oft_blocks"][-1],)
    left, right = (_kronecker_shape(of, i) for i in (1, 2))
    if len(left) == 2 and len(right) > 1:
        return (left[0] * right[0], left[1] * right[1], *right[2:])
    return ()


def _kronecker_shape(of: Mapping[str, Shape], i: int) -> Shape:
    """Return the shape of one side of a Kronecker product, whole or of two factors."""
    if (whole := of.get(f"lokr_w{i}")) is not None:
        return whole
    left, right = of.get(f"lokr_w{i}_a", ()), of.get(f"lokr_w{i}_b", ())
    if len(left) != 2 or len(right) < 2:
        return ()
    if (core := of.get(f"lokr_t{i}")) is not None:
        return (left[1], right[1], *core[2:])
    return (left[0], *right[1:])
