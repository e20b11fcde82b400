"""Files as mega_cmp wrote them, and what a store holds of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd

from megasim.store.rows import Store

PLAIN = "cond_stage_model.transformer.text_model."
NOVELAI = "cond_stage_model.transformer."


def write(folder: Path, name: str, value: object) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(value if isinstance(value, str) else json.dumps(value), encoding="utf-8")
    return path


def pair_file(folder: Path, name: str = "g_a_b.json", **parts: Any) -> Path:
    return write(folder, name, {"kv": {}, "da": [], "db": [], "err": [], **parts})


def layers_of(store: Store) -> list[tuple[Any, ...]]:
    return store.connection.sql(
        "select * from imported_layer order by model_a, model_b, canonical_key, status"
    ).fetchall()


def everything(store: Store) -> list[list[tuple[Any, ...]]]:
    tables = ("component_distance", "imported_layer", "pair_group", "model_pair")
    found = [store.connection.sql(f"from {t} order by all").fetchall() for t in tables]
    return [*found, [(m.id, m.name, m.source) for m in store.models()]]


def matrix_file(folder: Path, *, ml: list[str] | None = None, **dm: Any) -> Path:
    n = len(next(iter(dm.values()), [[], []]))
    return write(folder, "set.json", {"ml": ml or ["x", "y", "z", "u", "v"][:n], "dm": dm})


def values_of(store: Store, component: str) -> pd.DataFrame:
    return store.connection.execute(
        "select * from component_distances where component = $c", {"c": component}
    ).df()


def published(shared: Path, name: str) -> Path:
    return shared / "published" / "v2" / f"{name}.json"
