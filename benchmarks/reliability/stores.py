"""Small models, the stores made of them, and what must be the same whatever happened to a store."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from safetensors.torch import save_file

from megasim.doctor.diagnosis import examine
from megasim.store.rows import Store

_VIEWS = ("layers", "layer_distances", "component_distances")


@dataclass
class PhaseReport:
    """What a phase did: how often, what went wrong, and figures worth telling.

    A SIGTERM ends all phases early; what was done until then is told.
    """

    asked_to_stop: ClassVar[bool] = False

    phase: str
    done: int = 0
    wrong: list[str] = field(default_factory=list)
    figures: dict[str, object] = field(default_factory=dict)

    def to_json(self) -> dict[str, object]:
        """Return the row of the table."""
        return {"phase": self.phase, "done": self.done, "wrong": self.wrong, **self.figures}

    def tell(self, what: str) -> None:
        """Print a fault at once, and keep it."""
        self.wrong.append(what)
        print(f"  WRONG in {self.phase}: {what}", flush=True)


def write_models(folder: Path, count: int, rows: int = 128, first: int = 0) -> list[Path]:
    """Write models that differ in some layers and share others, as .safetensors and .ckpt."""
    folder.mkdir(parents=True, exist_ok=True)
    base = _tensors(0, rows)
    paths = []
    for i in range(first, first + count):
        other = _tensors(i + 1, rows)
        model = {
            k: v if j % 3 == i % 3 else v + 0.01 * other[k] for j, (k, v) in enumerate(base.items())
        }
        path = folder / f"m{i:02}.{'safetensors' if i % 2 else 'ckpt'}"
        if i % 2:
            save_file(model, path)
        else:
            torch.save({"state_dict": model, "epoch": i}, path)
        paths.append(path)
    return paths


def _tensors(seed: int, rows: int) -> dict[str, torch.Tensor]:
    rng = np.random.default_rng(seed)
    shapes = {"weight": (rows, 96), "bias": (rows,)}
    return {
        f"{part}.{i}.{name}": torch.from_numpy(rng.standard_normal(shape, dtype=np.float32))
        for part in ("encoder", "decoder")
        for i in range(3)
        for name, shape in shapes.items()
    }


def command(db: Path, *arguments: object) -> list[str]:
    """Return the command line of megasim on a store."""
    return [sys.executable, "-m", "megasim.cli", "-q", "--db", str(db), *map(str, arguments)]


def matrices(db: Path) -> dict[str, list[tuple[Any, ...]]]:
    """Return the matrices of a store by names in order, and its contents, to the last bit."""
    from megasim.workspace import open_store

    with open_store(db, "read") as store:
        found = sorted(store.models()["name"])
        keys = "select model, key, content_hash from layers order by all"
        told = {"layers": [tuple(row) for row in store.sql(keys).itertuples(index=False)]}
        for metric in ("l0", "l1", "l2"):
            values = store.matrix("all", metric, models=found).values
            told[metric] = [(row.tobytes().hex(),) for row in values]
    return told


def answers(db: Path) -> dict[str, list[tuple[Any, ...]]]:
    """Return what the views say of contents and distances, to the last bit."""
    with Store(db, "read") as store:
        con = store.connection
        return {
            view: con.execute(f"select * from {view} order by all").fetchall() for view in _VIEWS
        }


def faults(db: Path) -> list[str]:
    """Return what the doctor finds in a store."""
    with Store(db, "read", all_rows=True) as store, ThreadPoolExecutor(1) as executor:
        found = examine(store, executor=executor)
    return [f"{fault.check}: {fault.found[0]}" for fault in found.faults]


def names(db: Path) -> set[str]:
    """Return the models of a store."""
    with Store(db, "read") as store:
        return {model.name for model in store.models()}


def copy_store(source: Path, target: Path) -> None:
    """Copy a store that nobody uses, and remove what lay beside the target."""
    remove_store(target)
    shutil.copyfile(source, target)


def remove_store(path: Path) -> None:
    """Remove a store with all that lies beside it under its name."""
    for beside in path.parent.glob(path.name + "*"):
        if beside.is_dir():
            shutil.rmtree(beside, ignore_errors=True)
        else:
            beside.unlink(missing_ok=True)


def same(found: dict[str, list[tuple[Any, ...]]], truth: dict[str, list[tuple[Any, ...]]]) -> str:
    """Return the first thing in which two answers differ, "" where they are the same.

    NaN does not occur: what is missing is NULL.
    """
    for view, rows in truth.items():
        if found[view] != rows:
            pairs = zip(found[view], rows, strict=False)
            first = next((f"{a} is not {b}" for a, b in pairs if a != b), "")
            return f"{view}: {len(found[view])} rows of {len(rows)}; {first}"[:400]
    return ""


def scratch(folder: Path, phase: str) -> Path:
    """Return an empty folder for a phase."""
    place = folder / phase
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True)
    return place


def spread(things: Sequence[Any], count: int) -> list[Any]:
    """Return so many of some things, evenly spread, again and again where there are fewer."""
    if len(things) >= count:
        return [things[i * len(things) // count] for i in range(count)]
    return [things[i % len(things)] for i in range(count)]
