"""A hundred trained models of which none is a merge: what is called one all the same.

A small transformer is trained on scikit-learn's digits, and 99 models from it or from each other,
by 10 to 40 steps on a part of the classes. They are stored in float16, so the files may be read.

Run `python -m benchmarks.no_merges` (some two minutes).
"""

from __future__ import annotations

import random
import tempfile
from pathlib import Path

import torch
from safetensors.torch import save_file

import megasim
from benchmarks.kinship import train
from benchmarks.networks import Weights

MODELS, OF_BASE = 100, 60


def grown() -> dict[str, Weights]:
    """Return the models: a base, models trained from it, and models trained from those."""
    rng = random.Random(5)
    base = train("transformer", 1)
    models = {"base": base}
    for i in range(MODELS - 1):
        parent = base if i < OF_BASE else models[f"t{rng.randrange(i)}"]
        steps, rate = rng.choice((10, 25, 40)), rng.choice((5e-4, 1e-3, 2e-3))
        digits = tuple(rng.sample(range(10), rng.randint(2, 6)))
        models[f"t{i}"] = train(
            "transformer", 100 + i, start=parent, steps=steps, rate=rate, digits=digits
        )
    return models


def main() -> None:
    """Print what the lineage and the recipe of each fifth model claim."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        models = grown()
        for name, weights in models.items():
            half = {key: value.half().contiguous() for key, value in weights.items()}
            save_file(half, Path(folder, f"{name}.safetensors"))
        with megasim.open_store(Path(folder, "s.duckdb")) as store:
            store.ingest(folder)
            store.compare()
            drawn = [recipe.sentence() for recipe in store.lineage().recipes]
            asked = [store.recipe(name) for name in list(models)[::5]]
    claimed = [recipe.sentence() for recipe in asked if recipe.claimed]
    print(f"lineage: {len(drawn)} of {len(models)} models called merges", *drawn, sep="\n")
    print(f"recipe: {len(claimed)} of {len(asked)} models called merges", *claimed, sep="\n")


if __name__ == "__main__":
    main()
