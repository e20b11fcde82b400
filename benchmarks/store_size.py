"""Stores of many models by simulation: their size, and how long answers and pictures take."""

from __future__ import annotations

import time
from pathlib import Path

from benchmarks.measure import Row, megasim, run
from megasim.zoo.architectures import sd1_shapes, sdxl_shapes
from tests.simulated_store import model_names, simulate_store

# One pair, the ten most changed layers of one model, and the pairs of a component.
_QUERIES = {
    "layers of a pair": "select * from layer_distances where model_a = '{a}' and model_b = '{b}'",
    "top 10 layers of a model": "select model_b, canonical_key, l2 from layer_distances "
    "where model_a = '{a}' order by l2 desc limit 10",
    "component distances": "select * from component_distances where component = 'unet'",
}


def measure_store(folder: Path, models: int) -> list[Row]:
    """Return rows for a store of models that share nothing, and for what is asked of it."""
    db = folder / "simulated.duckdb"
    db.unlink(missing_ok=True)
    names = model_names(models)
    start = time.perf_counter()
    simulate_store(db, names, sdxl_shapes(), shared={}, sketch_size=256)
    rows: list[Row] = [
        {
            "what": "store",
            "models": models,
            "pairs": models * (models - 1) // 2,
            "layer distances": models * (models - 1) // 2 * len(sdxl_shapes()),
            "MB": db.stat().st_size / 1e6,
            "seconds to make": time.perf_counter() - start,
        }
    ]
    commands: dict[str, list[str]] = {
        "models": ["models", "--json"],
        "matrix": ["matrix", "-c", "unet", "-o", str(folder / "m.npz")],
        "findings A B": ["findings", names[0], names[5], "--json"],
        **{
            name: ["sql", text.format(a=names[0], b=names[5]), "--csv"]
            for name, text in _QUERIES.items()
        },
    }
    for name, command in commands.items():
        took = megasim(db, *command)
        rows.append(
            {
                "what": "answer",
                "models": models,
                "asked": name,
                "seconds": took.seconds,
                "MiB": took.anonymous / 2**20,
            }
        )
    db.unlink()
    return rows


def measure_report(folder: Path, models: int) -> list[Row]:
    """Return how long the report takes of models with all keys of SD1 that share nothing."""
    db = folder / "simulated.duckdb"
    db.unlink(missing_ok=True)
    simulate_store(db, model_names(models), sd1_shapes(), shared={}, sketch_size=256)
    took = megasim(db, "report", "-o", str(folder / "report"))
    files = [path for path in (folder / "report").rglob("*") if path.is_file()]
    db.unlink()
    return [
        {
            "what": "report",
            "models": models,
            "layer distances": models * (models - 1) // 2 * len(sd1_shapes()),
            "seconds": took.seconds,
            "MiB": took.anonymous / 2**20,
            "MB written": sum(path.stat().st_size for path in files) / 1e6,
        }
    ]


def measure_map(folder: Path, models: int, *, layers: bool) -> list[Row]:
    """Return how long a map and its picture take; without `layers` the store has only their sums,
    which is all that a map of so many models looks into."""
    db = folder / "simulated.duckdb"
    db.unlink(missing_ok=True)
    simulate_store(db, model_names(models), sd1_shapes(), shared={}, layers=layers)
    took = megasim(db, "map", "-c", "unet", "-o", str(folder / "map.png"))
    db.unlink()
    seconds, mib = took.seconds, took.anonymous / 2**20
    return [{"what": "map", "models": models, "seconds": seconds, "MiB": mib}]


def measure_start(python: str) -> list[Row]:
    """Return how long `megasim --help` takes, against Python by itself."""
    bare = min(run([python, "-c", "pass"]).seconds for _ in range(5))
    helped = min(run([python, "-m", "megasim.cli", "--help"]).seconds for _ in range(5))
    return [{"what": "start", "python": bare, "megasim --help": helped}]
