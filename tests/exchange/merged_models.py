"""Small models and merges of them, made as merge tools make them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch

from megasim.anatomy.classification import classify_keys
from megasim.workspace import open_store
from tests.models import write_model
from tests.small_sd import TEXT, UNET, StateDict, cast, small_sd, trained

# The share of the second parent in each block of the small UNet, and in the text encoder.
SHARES = {"IN00": 0.2, "IN01": 0.75, "IN02": 0.4, "M00": 0.6, "OUT": 0.9, "": 0.35}


def merged(
    parents: Sequence[Mapping[str, torch.Tensor]], weights: Callable[[str], Sequence[float]]
) -> StateDict:
    """Return a weighted sum of state dicts, in float16; integers come from the first.

    Args:
        weights: for a key, one for each parent.
    """
    result = {}
    for key, first in parents[0].items():
        if not first.is_floating_point():
            result[key] = first
            continue
        parts = zip(parents, weights(key), strict=True)
        result[key] = sum(w * parent[key].float() for parent, w in parts).half()
    return result


def by_block(key: str) -> tuple[float, float]:
    """Return the weights of two parents in the block of a key of the small SD1."""
    (part,) = classify_keys({key: (8, 8, 1, 1)}).parts
    share = SHARES[(part.block or "") if key.startswith(UNET) else ""]
    return 1 - share, share


def sd_parents() -> list[StateDict]:
    """Return three fine-tunes of one small SD1, with its VAE, in float16."""
    base = small_sd()
    return [cast(trained(base, i, UNET, TEXT), torch.float16) for i in (1, 2)] + [
        cast(base, torch.float16)
    ]


def store_of(folder: Path, models: Mapping[str, Mapping[str, torch.Tensor]]) -> Path:
    """Write, ingest and compare models, and return their store."""
    paths = [write_model(folder / f"{name}.safetensors", m) for name, m in models.items()]
    with open_store(folder / "s.duckdb") as store:
        assert not store.ingest(*paths).failed
        assert not store.compare().failed
    return folder / "s.duckdb"


def sd_store(folder: Path) -> Path:
    """Return a store of parents, of a merge of two by block, and of a + 0.5 (b − c)."""
    a, b, base = sd_parents()
    return store_of(
        folder,
        {
            "a": a,
            "b": b,
            "base": base,
            "by-block": merged([a, b], by_block),
            "sum": merged([a, b, base], lambda _: (1.0, 0.5, -0.5)),
        },
    )
