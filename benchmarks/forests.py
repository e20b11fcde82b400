"""Families of really trained networks whose history is known.

Unrelated bases of one architecture, from other seeds, learn scikit-learn's digits. Each is
fine-tuned on variants of the task, fully or by a low-rank update, by AdamW or SGD; some of those
are fine-tuned again, one run leaves its epochs behind, and two models are merged. Names tell
nothing, and nothing but the weights is kept.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache

import numpy as np
import numpy.typing as npt
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional

from benchmarks.networks import Transformer, Weights, convolutional, plain

FOREST_KINDS: dict[str, Callable[[], nn.Module]] = {
    "MLP": plain,
    "CNN": lambda: convolutional(nn.BatchNorm2d, 24),
    "transformer": Transformer,
}
FAMILIES = 3
MODELS_PER_FAMILY = 10
_BATCH = 32
_BASE_STEPS, _BASE_RATE = 800, 2e-3
# Rates of learning of fine-tunes, as powers of ten.
_RATES = {"adamw": (-3.5, -2.5), "sgd": (-2.3, -1.3)}

Task = tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]


@dataclass
class Forest:
    """Models, and the edges of their true history: (parent, child) → kind."""

    weights: dict[str, Weights] = field(default_factory=dict)
    family: dict[str, int] = field(default_factory=dict)
    edges: dict[tuple[str, str], str] = field(default_factory=dict)

    def add(self, name: str, family: int, weights: Weights, parents: dict[str, str]) -> None:
        """Add a model, and an edge of a kind from each of its parents."""
        self.weights[name] = weights
        self.family[name] = family
        for parent, kind in parents.items():
            self.edges[parent, name] = kind


@dataclass(frozen=True)
class Training:
    """How a model is trained.

    Attributes:
        steps: of 32 images, at a rate that falls along a half cosine.
        optimizer: adamw or sgd (momentum 0.9).
        rank: of the update to each matrix that is learnt alone, as with LoRA; 0: all is.
    """

    steps: int
    rate: float
    optimizer: str = "adamw"
    decay: float = 0.0
    rank: int = 0


def grow_forest(kind: str, seed: int) -> Forest:
    """Return 30 models of one architecture in 3 families, the same for the same seed."""
    forest = Forest()
    for family in range(FAMILIES):
        _grow_family(forest, kind, family, np.random.default_rng([seed, family]))
    return forest


def _grow_family(forest: Forest, kind: str, family: int, rng: np.random.Generator) -> None:
    """Add a base, fine-tunes of it and of those, the epochs of one run, and a merge."""
    names = iter(rng.permutation(MODELS_PER_FAMILY))

    def name() -> str:
        return f"family{family}-{next(names)}"

    how = Training(_BASE_STEPS, _BASE_RATE, decay=float(rng.choice([0.0, 0.01])))
    base = name()
    forest.add(base, family, train(kind, None, digits(), how, rng)[-1], {})
    tuned: list[str] = []

    def tune(parent: str, rank: int) -> None:
        child = name()
        weights = fine_tune(kind, forest.weights[parent], rng, rank=rank)[-1]
        if rng.random() < 0.3:
            weights = as_half(weights)
        of_kind = "low-rank" if rank else "fine-tune"
        forest.add(child, family, weights, {parent: of_kind})
        tuned.append(child)

    for rank in (0, 0, 2):
        tune(base, rank)
    for rank in (0, int(rng.choice([0, 2]))):
        tune(str(rng.choice(tuned)), rank)

    last = str(rng.choice([base, *tuned[:2]]))
    for i, weights in enumerate(fine_tune(kind, forest.weights[last], rng, saved=3)):
        step = name()
        forest.add(step, family, weights, {last: "epoch step" if i else "fine-tune"})
        last = step
    tuned.append(last)

    a, b = (str(n) for n in rng.choice(tuned, size=2, replace=False))
    share = float(rng.uniform(0.25, 0.75))
    merged = mix(forest.weights[a], forest.weights[b], share)
    forest.add(name(), family, as_half(merged), {a: "merge", b: "merge"})


def fine_tune(
    kind: str, start: Weights, rng: np.random.Generator, *, rank: int = 0, saved: int = 1
) -> list[Weights]:
    """Return checkpoints of one fine-tune for a task and with settings drawn from `rng`."""
    variants = task_variants()
    task = variants[str(rng.choice(sorted(variants)))](rng)
    optimizer = str(rng.choice(sorted(_RATES)))
    how = Training(
        steps=int(rng.integers(40, 120)),
        rate=float(10 ** rng.uniform(*_RATES[optimizer])) * (3 if rank else 1),
        optimizer=optimizer,
        decay=float(rng.choice([0.0, 0.01])),
        rank=rank,
    )
    return train(kind, start, task, how, rng, saved=saved)


def train(
    kind: str,
    start: Weights | None,
    task: Task,
    how: Training,
    rng: np.random.Generator,
    *,
    saved: int = 1,
) -> list[Weights]:
    """Return checkpoints of one training at equal intervals, the last at its end.

    With a rank, updates are baked in, as when a LoRA is merged into its model.

    Args:
        start: the model that is trained; a new one when None.
    """
    torch.manual_seed(int(rng.integers(2**31)))
    network = FOREST_KINDS[kind]()
    held = {k: v.float() if v.is_floating_point() else v for k, v in (start or {}).items()}
    network.load_state_dict(held or network.state_dict())
    buffers = {k: v.clone() for k, v in network.named_buffers()}
    first = {k: v.detach().clone() for k, v in network.named_parameters()}
    factors = _factors(first, how.rank) if how.rank else {}
    learnt = [x for pair in factors.values() for x in pair]
    if not how.rank:
        first = {k: v.requires_grad_() for k, v in first.items()}
        learnt = list(first.values())
    if how.optimizer == "sgd":
        optimizer: torch.optim.Optimizer = torch.optim.SGD(
            learnt, lr=how.rate, momentum=0.9, weight_decay=how.decay
        )
    else:
        optimizer = torch.optim.AdamW(learnt, lr=how.rate, weight_decay=how.decay)
    falling = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, how.steps + 1)
    images, labels = (torch.from_numpy(part) for part in task)
    network.train()
    kept: list[Weights] = []
    for step in range(1, how.steps + 1):
        at = torch.randint(len(images), (_BATCH,))
        parameters = _updated(first, factors)
        logits = functional_call(network, {**parameters, **buffers}, (images[at],))
        optimizer.zero_grad()
        functional.cross_entropy(logits, labels[at]).backward()
        # a step that explodes would leave NaN, which nobody keeps
        nn.utils.clip_grad_norm_(learnt, 1.0)
        optimizer.step()
        falling.step()
        if step * saved // how.steps > len(kept):
            weights = {**_updated(first, factors), **buffers}
            kept.append({k: weights[k].detach().clone() for k in network.state_dict()})
    return kept


def _factors(weights: Weights, rank: int) -> dict[str, tuple[Tensor, Tensor]]:
    """Return (up, down) of an update to each matrix, which is 0 at first."""
    found = {}
    for key, value in weights.items():
        if value.ndim > 1:
            rows, columns = value.flatten(1).shape
            down = torch.randn(rank, columns) / columns**0.5
            found[key] = torch.zeros(rows, rank, requires_grad=True), down.requires_grad_()
    return found


def _updated(weights: Weights, factors: dict[str, tuple[Tensor, Tensor]]) -> Weights:
    updates = {k: (up @ down).view_as(weights[k]) for k, (up, down) in factors.items()}
    return {k: v + updates[k] if k in updates else v for k, v in weights.items()}


def mix(a: Weights, b: Weights, share: float) -> Weights:
    """Return the weighted sum of two models; what are no weights is of the first."""
    return {
        k: share * v.float() + (1 - share) * b[k].float() if v.is_floating_point() else v
        for k, v in a.items()
    }


def as_half(weights: Weights) -> Weights:
    """Return the weights in half precision."""
    return {k: v.half() if v.is_floating_point() else v for k, v in weights.items()}


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
