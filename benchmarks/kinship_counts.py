"""How often kinship is told wrongly, and how often copies and stacks are missed, by the hundred.

- Unrelated pairs: 72 models of each of four architectures (`benchmarks/networks.py`), every one of
  a seed of its own, trained or not, initialised in three ways: 10,224 pairs, each asked with the
  2,555 others of its architecture at one stated error rate.
- Permuted copies: 50 models of each architecture with their hidden units in another order.
- Stacks: 100 models made of layers of six others, two of which are fine-tunes of two.

Run `python -m benchmarks.kinship_counts` (a quarter of an hour); `--models 12` is a quick form.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import nn

import megasim
from benchmarks.kinship import permuted, tested, train
from benchmarks.networks import KINDS, Weights
from megasim.estimate.kinship import ERROR_RATE
from megasim.lineage.evidence import norms_of
from megasim.lineage.facts import load_model_facts
from megasim.lineage.permuted import permuted_copies
from megasim.lineage.stacks import find_stack
from megasim.store.rows import Store

_LAYERS, _WIDTH = 8, 48
_INITIAL = (None, nn.init.xavier_normal_, nn.init.orthogonal_)


def unrelated(kind: str, seed: int) -> Weights:
    """Return a model of its own: one in three untrained, in one of three initialisations."""
    torch.manual_seed(seed)
    network = KINDS[kind]()
    fill = _INITIAL[seed % len(_INITIAL)]
    for value in network.parameters():
        if fill is not None and value.ndim > 1:
            fill(value.data)
    start = {key: value.clone() for key, value in network.state_dict().items()}
    return start if seed % 9 < 3 else train(kind, seed, start=start)


def count_pairs(kind: str, models: int, folder: Path) -> tuple[int, int, int, int]:
    """Return unrelated pairs, of them called related, permuted copies, and of them found."""
    found = {f"m{i}": unrelated(kind, i) for i in range(models)}
    test, workspace = tested(found, folder / "unrelated")
    pairs = models * (models - 1) // 2
    false = int(np.triu(test.related(ERROR_RATE), 1).sum())
    workspace.close()
    copied = list(found)[: max(1, models * 50 // 72)]
    copies = {f"{name}-copy": permuted(found[name], i) for i, name in enumerate(copied)}
    test, workspace = tested({**{n: found[n] for n in copied}, **copies}, folder / "copies")
    norms = norms_of(load_model_facts(workspace.store, "all"), "all")
    seen = permuted_copies(workspace.store, "all", test, norms)
    workspace.close()
    right = {frozenset((name, f"{name}-copy")) for name in copied}
    return pairs, false, len(copied), len(right & seen.keys())


def _parents() -> dict[str, Weights]:
    """Return six models of numbered layers: four of their own, two trained from two of them."""
    random = torch.Generator().manual_seed(0)

    def weights() -> Weights:
        shapes = {"up_proj": (2 * _WIDTH, _WIDTH), "down_proj": (_WIDTH, 2 * _WIDTH)}
        return {
            f"model.layers.{i}.mlp.{name}.weight": torch.randn(shape, generator=random)
            for i in range(_LAYERS)
            for name, shape in shapes.items()
        }

    found = {name: weights() for name in "abcd"}
    for name, start in (("e", "a"), ("f", "b")):
        found[name] = {k: v + 0.05 * w for (k, v), w in zip(
            found[start].items(), weights().values(), strict=True)}  # fmt: skip
    return found


def count_stacks(stacks: int, folder: Path) -> tuple[int, int]:
    """Return of how many stacks every layer's origin is told: each alone, and all in one store.

    Where one store holds them all, the layers of many a parent are all in stacks too.
    """
    parents = _parents()
    rng = np.random.default_rng(1)
    truth: dict[str, list[tuple[str, int]]] = {}
    models = dict(parents)
    while len(truth) < stacks:
        number, origins = len(truth), list[tuple[str, int]]()
        for name in rng.choice(sorted(parents), size=int(rng.integers(2, 4)), replace=False):
            start = int(rng.integers(0, _LAYERS - 2))
            stop = int(rng.integers(start + 2, _LAYERS + 1))
            origins += [(str(name), i) for i in range(start, stop)]
        if all(place == i for place, (_, i) in enumerate(origins)):
            continue  # no layer moved: that is a merge by blocks
        truth[f"stack{number}"] = origins
        models[f"stack{number}"] = {
            key.replace(f".{i}.", f".{place}.", 1): value
            for place, (name, i) in enumerate(origins)
            for key, value in parents[name].items()
            if f".layers.{i}." in key
        }
    folder.mkdir()
    for name, weights in models.items():
        save_file({k: v.contiguous() for k, v in weights.items()}, folder / f"{name}.safetensors")

    def is_told(store: Store, name: str) -> bool:
        found = find_stack(store, name)
        told = [
            (run.model, run.start + i) for run in found.runs for i in range(run.count)
        ] if found else []  # fmt: skip
        return told == truth[name]

    alone = 0
    with megasim.open_store(folder / "store.duckdb") as workspace:
        workspace.ingest(*(folder / f"{name}.safetensors" for name in parents))
        for name in truth:
            workspace.ingest(folder / f"{name}.safetensors")
            alone += is_told(workspace.store, name)
            workspace.forget(name)
        workspace.ingest(folder)
        together = sum(is_told(workspace.store, name) for name in truth)
    return alone, together


def main() -> None:
    """Print the three counts."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--models", type=int, default=72, help="unrelated models of each kind")
    parser.add_argument("--stacks", type=int, default=100)
    given = parser.parse_args()
    torch.set_num_threads(1)
    print("| architecture | unrelated pairs | called related | permuted copies | found |")
    print("|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for kind in KINDS:
            place = Path(folder, kind)
            place.mkdir()
            counts = count_pairs(kind, given.models, place)
            print(f"| {kind} | {' | '.join(f'{count:,}' for count in counts)} |", flush=True)
        alone, together = count_stacks(given.stacks, Path(folder, "stacks"))
    print(f"\nstated error rate of any false kinship in an architecture: {ERROR_RATE:.0%}")
    print(
        f"stacks with the origin of every layer told, of {given.stacks}: "
        f"{alone} each alone beside the parents, {together} all in one store"
    )


if __name__ == "__main__":
    main()
