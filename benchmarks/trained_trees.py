"""Families of really trained networks whose history is known, to measure the lineage against.

Four unrelated bases learn scikit-learn's digits; each is fine-tuned on variants of the task,
fully or by a low-rank update, some of those are fine-tuned again, one run leaves its epochs
behind, and some are merged. Only weights are kept: no metadata says who came from whom.

Run `python benchmarks/trained_trees.py --seeds 10` for the figures of `docs/lineage.md`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cache

import numpy as np
import numpy.typing as npt
from sklearn.datasets import load_digits

Array = npt.NDArray[np.float32]
Weights = dict[str, Array]
Task = tuple[Array, npt.NDArray[np.int64]]

WIDTHS = (64, 128, 128, 10)
FAMILIES = 4
MODELS_PER_FAMILY = 10


@dataclass
class Forest:
    """Models, and the edges of their true history: (parent, child) → kind."""

    weights: dict[str, Weights] = field(default_factory=dict)
    family: dict[str, int] = field(default_factory=dict)
    edges: dict[tuple[str, str], str] = field(default_factory=dict)

    def add(self, name: str, family: int, weights: Weights, parents: dict[str, str]) -> None:
        self.weights[name] = weights
        self.family[name] = family
        for parent, kind in parents.items():
            self.edges[parent, name] = kind


@cache
def digits() -> Task:
    """Return 1,797 images of 8x8 pixels in 0..1, and their labels."""
    images, labels = load_digits(return_X_y=True)
    return (images / 16).astype(np.float32), labels.astype(np.int64)


def task_variants() -> dict[str, Callable[[np.random.Generator], Task]]:
    """Return what people fine-tune for, in small: other subjects, styles, noise and labels."""
    x, y = digits()

    def subset(rng: np.random.Generator) -> Task:
        kept = np.isin(y, rng.choice(10, size=int(rng.integers(3, 7)), replace=False))
        return x[kept], y[kept]

    def noisy(rng: np.random.Generator) -> Task:
        kept = rng.choice(len(x), size=900, replace=False)
        return (x[kept] + rng.normal(0, 0.3, (900, 64))).astype(np.float32), y[kept]

    def permuted(rng: np.random.Generator) -> Task:
        moved = rng.choice(64, size=16, replace=False)
        order = np.arange(64)
        order[moved] = rng.permutation(moved)
        return x[:, order], y

    def masked(rng: np.random.Generator) -> Task:
        mask = np.ones(64, np.float32)
        mask[rng.choice(64, size=16, replace=False)] = 0
        return x * mask, y

    def restyled(rng: np.random.Generator) -> Task:
        return x + rng.normal(0, 0.4, 64).astype(np.float32), y

    def relabelled(rng: np.random.Generator) -> Task:
        cycle = rng.choice(10, size=3, replace=False)
        label = np.arange(10)
        label[cycle] = np.roll(cycle, 1)
        return x, label[y]

    variants = (subset, noisy, permuted, masked, restyled, relabelled)
    return {f.__name__: f for f in variants}


def initial_weights(rng: np.random.Generator) -> Weights:
    """Return He-initialised layers of `WIDTHS`, biases 0."""
    weights: Weights = {}
    for i, (n_in, n_out) in enumerate(zip(WIDTHS, WIDTHS[1:], strict=False)):
        scale = np.sqrt(2 / n_in)
        weights[f"layers.{i}.weight"] = rng.normal(0, scale, (n_out, n_in)).astype(np.float32)
        weights[f"layers.{i}.bias"] = np.zeros(n_out, np.float32)
    return weights


def gradients(weights: Weights, x: Array, y: npt.NDArray[np.int64]) -> Weights:
    """Return the gradient of the mean cross-entropy of a ReLU network."""
    depth = len(WIDTHS) - 1
    inputs = [x]
    for i in range(depth):
        z = inputs[-1] @ weights[f"layers.{i}.weight"].T + weights[f"layers.{i}.bias"]
        inputs.append(np.maximum(z, 0) if i < depth - 1 else z)
    logits = inputs.pop()
    delta = np.exp(logits - logits.max(axis=1, keepdims=True))
    delta /= delta.sum(axis=1, keepdims=True)
    delta[np.arange(len(y)), y] -= 1
    delta /= len(y)
    found: Weights = {}
    for i in reversed(range(depth)):
        found[f"layers.{i}.weight"] = delta.T @ inputs[i]
        found[f"layers.{i}.bias"] = delta.sum(axis=0)
        if i:
            delta = (delta @ weights[f"layers.{i}.weight"]) * (inputs[i] > 0)
    return found


def train(
    start: Weights,
    task: Task,
    rng: np.random.Generator,
    *,
    epochs: int,
    rate: float,
    decay: float = 0.0,
    rank: int = 0,
) -> Iterator[Weights]:
    """Yield the weights after each epoch of AdamW, its rate falling along a half cosine.

    With `rank`, only an update of that rank to each weight matrix is learnt, and the yielded
    weights have it baked in, as with LoRA.
    """
    weights = {k: v.copy() for k, v in start.items()}
    if rank:
        trained: Weights = {}
        for key, value in start.items():
            if value.ndim == 2:
                n_out, n_in = value.shape
                scale = 1 / np.sqrt(n_in)
                trained[key + ".down"] = rng.normal(0, scale, (rank, n_in)).astype(np.float32)
                trained[key + ".up"] = np.zeros((n_out, rank), np.float32)
    else:
        trained = weights
    first = {k: np.zeros_like(v) for k, v in trained.items()}
    second = {k: np.zeros_like(v) for k, v in trained.items()}
    x, y = task
    batch = 64
    steps_in_all = epochs * -(-len(x) // batch)
    step = 0
    for _ in range(epochs):
        order = rng.permutation(len(x))
        for at in range(0, len(x), batch):
            rows = order[at : at + batch]
            grads = gradients(weights, x[rows], y[rows])
            if rank:
                grads = {
                    f"{key}.{side}": grads[key] @ trained[key + ".down"].T
                    if side == "up"
                    else trained[key + ".up"].T @ grads[key]
                    for key in start
                    if start[key].ndim == 2
                    for side in ("up", "down")
                }
            step += 1
            now = rate * 0.5 * (1 + np.cos(np.pi * step / (steps_in_all + 1)))
            for key, grad in grads.items():
                first[key] += 0.1 * (grad - first[key])
                second[key] += 0.001 * (grad * grad - second[key])
                root = np.sqrt(second[key] / (1 - 0.999**step)) + 1e-8
                trained[key] -= (now / (1 - 0.9**step)) * (first[key] / root)
                if decay:
                    trained[key] *= np.float32(1 - now * decay)
            if rank:
                for key in start:
                    if start[key].ndim == 2:
                        weights[key] = start[key] + trained[key + ".up"] @ trained[key + ".down"]
        yield {k: v.copy() for k, v in weights.items()}


def fine_tune(start: Weights, rng: np.random.Generator, *, rank: int = 0) -> list[Weights]:
    """Return the epochs of one fine-tune for a task and with settings drawn from `rng`."""
    variants = task_variants()
    task = variants[str(rng.choice(sorted(variants)))](rng)
    return list(
        train(
            start,
            task,
            rng,
            epochs=int(rng.integers(3, 9)),
            rate=float(10 ** rng.uniform(-3.5, -2.5)) * (3 if rank else 1),
            decay=float(rng.choice([0.0, 0.01])),
            rank=rank,
        )
    )


def mix(parts: list[tuple[float, Weights]]) -> Weights:
    """Return the weighted sum of weights."""
    return {
        k: sum(np.float32(w) * p[k] for w, p in parts)  # type: ignore[misc]
        for k in parts[0][1]
    }


def as_half(weights: Weights) -> Weights:
    """Return the weights after one rounding to half precision."""
    return {k: v.astype(np.float16).astype(np.float32) for k, v in weights.items()}


def grow_family(forest: Forest, family: int, rng: np.random.Generator) -> None:
    """Add a base, fine-tunes of it and of those, the epochs of one run, and two merges."""
    names = iter(rng.permutation(MODELS_PER_FAMILY))

    def name() -> str:
        return f"family{family}-{next(names)}"

    *_, base_weights = train(
        initial_weights(rng),
        digits(),
        rng,
        epochs=25,
        rate=2e-3,
        decay=float(rng.choice([0, 0.01])),
    )
    base = name()
    forest.add(base, family, base_weights, {})
    tuned: list[str] = []

    def tune(parent: str, rank: int) -> None:
        child = name()
        kind = "low-rank" if rank else "fine-tune"
        weights = fine_tune(forest.weights[parent], rng, rank=rank)[-1]
        if rng.random() < 0.3:
            weights = as_half(weights)
        forest.add(child, family, weights, {parent: kind})
        tuned.append(child)

    for rank in (0, 0, 2):
        tune(base, rank)
    for rank in (0, int(rng.choice([0, 2]))):
        tune(str(rng.choice(tuned)), rank)

    last = str(rng.choice([base, *tuned[:2]]))
    run = fine_tune(forest.weights[last], rng)
    for i, epoch in enumerate(np.linspace(0, len(run) - 1, 3).round().astype(int)):
        step = name()
        forest.add(step, family, run[epoch], {last: "epoch step" if i else "fine-tune"})
        last = step
    tuned.append(last)

    a, b, c = (str(n) for n in rng.choice(tuned, size=3, replace=False))
    share = float(rng.uniform(0.25, 0.75))
    merged = mix([(share, forest.weights[a]), (1 - share, forest.weights[b])])
    forest.add(name(), family, as_half(merged), {a: "merge", b: "merge"})
    del c


def grow_forest(seed: int) -> Forest:
    """Return 40 models in 4 families, the same for the same seed."""
    forest = Forest()
    for family in range(FAMILIES):
        grow_family(forest, family, np.random.default_rng([seed, family]))
    return forest
