"""The test of kinship on networks that were really trained, related and not.

Four kinds of small networks (a plain one, convolutional ones with batch and with group
normalisation, a transformer) learn scikit-learn's digits, each model from a seed of its own: all
pairs of these are unrelated, and their p-values should be uniform. Then each of some bases is
trained further: shortly on a part of the classes, ten times as long on others, and once more from
its initialisation on other data.

Run `python -m benchmarks.kinship` for the figures of `docs/lineage.md` (some ten minutes).
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from sklearn.datasets import load_digits
from torch.nn import functional

import megasim
from benchmarks.networks import KINDS, Weights
from megasim.estimate.kinship import ERROR_RATE, KinshipTest, kinship_test, shared_units

STEPS = 150
HISTORIES = ("short", "long", "same initialisation")


def train(
    kind: str, seed: int, *, start: Weights | None = None, steps: int = STEPS, **how: object
) -> Weights:
    """Return the weights of a network after so many steps of AdamW, from `start` or the seed.

    Args:
        how: `rate` of learning, and `digits` that are learned.
    """
    torch.manual_seed(seed)
    model = KINDS[kind]()
    if start is not None:
        model.load_state_dict(start)
    images, labels = (torch.tensor(x) for x in load_digits(return_X_y=True))
    kept = torch.isin(labels, torch.tensor(how.get("digits", range(10))))
    images, labels = images[kept].float() / 16, labels[kept]
    optimizer = torch.optim.AdamW(model.parameters(), lr=float(str(how.get("rate", 2e-3))))
    for _ in range(steps):
        batch = torch.randint(len(images), (64,))
        loss = functional.cross_entropy(model(images[batch]), labels[batch])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return {key: value.detach().clone() for key, value in model.state_dict().items()}


def initial(kind: str, seed: int) -> Weights:
    """Return what a network of this seed was before it was trained."""
    return train(kind, seed, steps=0)


def permuted(weights: Weights, seed: int) -> Weights:
    """Return the same network with the hidden units of each set in another order."""
    from megasim.anatomy.hidden_units import hidden_units

    rng = np.random.default_rng(seed)
    moved = dict(weights)
    for count, axes in hidden_units({key: tuple(value.shape) for key, value in moved.items()}):
        order = torch.tensor(rng.permutation(count))
        for key, axis, start in axes:
            dim = 0 if axis == "rows" else 1
            part = moved[key].narrow(dim, start, count)
            turned = moved[key].clone()
            turned.narrow(dim, start, count).copy_(part.index_select(dim, order))
            moved[key] = turned
    return moved


def tested(models: dict[str, Weights], folder: Path) -> tuple[KinshipTest, megasim.Workspace]:
    """Return the test of all pairs, through files and a store."""
    folder.mkdir()
    for name, weights in models.items():
        save_file({k: v.contiguous() for k, v in weights.items()}, folder / f"{name}.safetensors")
    workspace = megasim.open_store(folder / "store.duckdb")
    workspace.ingest(folder)
    return kinship_test(workspace.store, "all"), workspace


def descendants(kind: str, seed: int) -> Iterator[tuple[str, Weights]]:
    """Yield the histories of a base that the test must see through."""
    base = train(kind, seed)
    yield "base", base
    yield "short", train(kind, seed + 1, start=base, digits=(1, 2, 3))
    yield "long", train(kind, seed + 2, start=base, steps=10 * STEPS, rate=5e-3, digits=(4, 5, 6))
    yield "same initialisation", train(kind, seed + 3, start=initial(kind, seed), digits=(7, 8, 9))
    yield "permuted", permuted(base, seed)


def main() -> None:
    """Print a table of unrelated pairs and one of related ones."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--models", type=int, default=72, help="unrelated models of each kind")
    parser.add_argument("--bases", type=int, default=10, help="bases with descendants")
    given = parser.parse_args()
    torch.set_num_threads(1)
    print("| unrelated | pairs | p < 0.5 | p < 0.05 | p < 0.01 | p < 0.001 | smallest | false |")
    print("|---|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for kind in KINDS:
            models = {f"m{i}": train(kind, i) for i in range(given.models)}
            test, workspace = tested(models, Path(folder, kind))
            above = np.triu_indices(len(models), 1)
            p = np.exp(test.log_p[above])
            shares = " | ".join(f"{(p < level).mean():.4f}" for level in (0.5, 0.05, 0.01, 0.001))
            false = int(test.related(ERROR_RATE)[above].sum())
            print(f"| {kind} | {len(p)} | {shares} | {p.min():.1g} | {false} |", flush=True)
            workspace.close()
        print("\n| related | pair | found | median log10 p | correlation |\n|---|---|---|---|---|")
        for kind in KINDS:
            found: dict[str, list[tuple[bool, float, float]]] = {name: [] for name in HISTORIES}
            copies = 0
            for seed in range(1000, 1000 + 10 * given.bases, 10):
                test, workspace = tested(
                    dict(descendants(kind, seed)), Path(folder, f"{kind}{seed}")
                )
                first = test.models.index("base")
                related = test.related(ERROR_RATE)
                for name in HISTORIES:
                    i = test.models.index(name)
                    numbers = float(test.log_p[first, i]), float(test.correlation[first, i])
                    found[name].append((bool(related[first, i]), *numbers))
                units, again = shared_units(workspace.store, "base", "permuted", "all")
                copies += units == again
                workspace.close()
            for name, rows in found.items():
                hits, log_p, correlation = np.array(rows).T
                print(
                    f"| {kind} | {name} | {int(hits.sum())} of {len(rows)} "
                    f"| {np.median(log_p) / np.log(10):.0f} | {correlation.min():.2f} to "
                    f"{correlation.max():.2f} |",
                    flush=True,
                )
            print(f"| {kind} | permuted | {copies} of {given.bases} | – | – |", flush=True)


if __name__ == "__main__":
    main()
