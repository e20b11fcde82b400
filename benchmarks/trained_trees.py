"""Families of really trained networks whose history is known, to measure the lineage against.

Four unrelated bases learn scikit-learn's digits; each is fine-tuned on variants of the task,
fully or by a low-rank update, some of those are fine-tuned again, one run leaves its epochs
behind, and some are merged. Only weights are kept: no metadata says who came from whom.

Run `python benchmarks/trained_trees.py --seeds 10` for the figures of `docs/lineage.md`.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from itertools import pairwise

import networkx as nx
import numpy as np
import numpy.typing as npt
from scipy.spatial.distance import pdist, squareform
from sklearn.datasets import load_digits
from threadpoolctl import threadpool_limits

from megasim.lineage.evidence import ModelFacts
from megasim.lineage.family_tree import build_lineage
from megasim.matrix.distance_matrix import DistanceMatrix, LayerMatrices

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
    for i, (n_in, n_out) in enumerate(pairwise(WIDTHS)):
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


def is_half(weights: Weights) -> bool:
    """Return whether all weights are numbers of half precision, as in a file of that dtype."""
    return all(np.array_equal(weights[k], half) for k, half in as_half(weights).items())


def grow_family(forest: Forest, family: int, rng: np.random.Generator) -> None:
    """Add a base, fine-tunes of it and of those, the epochs of one run, and a merge."""
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

    a, b = (str(n) for n in rng.choice(tuned, size=2, replace=False))
    share = float(rng.uniform(0.25, 0.75))
    merged = mix([(share, forest.weights[a]), (1 - share, forest.weights[b])])
    forest.add(name(), family, as_half(merged), {a: "merge", b: "merge"})


def grow_forest(seed: int) -> Forest:
    """Return 40 models in 4 families, the same for the same seed."""
    forest = Forest()
    for family in range(FAMILIES):
        grow_family(forest, family, np.random.default_rng([seed, family]))
    return forest


@dataclass
class Seen:
    """What megasim sees of a forest: L2, by layer too, L1 by layer, elements changed, and facts.

    The facts are norms and kurtosis, and the dtype that the weights fit in.
    """

    matrix: DistanceMatrix
    layers: LayerMatrices
    layers_l1: LayerMatrices
    changed: DistanceMatrix
    facts: list[ModelFacts]


def see(forest: Forest) -> Seen:
    """Return the distances of a forest over all weights and by layer, and the norms."""
    names = tuple(forest.weights)
    keys = tuple(forest.weights[names[0]])
    stacks = {
        key: np.stack([forest.weights[n][key].ravel().astype(np.float64) for n in names])
        for key in keys
    }
    values = np.stack([squareform(pdist(stack)) for stack in stacks.values()])
    layers = LayerMatrices(
        models=names,
        component="network",
        metric="l2",
        keys=keys,
        blocks=tuple(key.rsplit(".", 1)[0] for key in keys),
        roles=("",) * len(keys),
        numels=np.array([stack.shape[1] for stack in stacks.values()], dtype=np.int64),
        values=values,
    )
    l1 = np.stack([squareform(pdist(stack, "cityblock")) for stack in stacks.values()])
    facts = []
    for i, name in enumerate(names):
        rows = [stack[i] for stack in stacks.values()]
        sizes = [len(row) for row in rows]
        facts.append(
            ModelFacts(
                name,
                dtype="float16" if is_half(forest.weights[name]) else "float32",
                norms={"network": float(np.linalg.norm(np.concatenate(rows)))},
                kurtosis={
                    "network": float(np.average([moment_4(row) for row in rows], weights=sizes))
                },
            )
        )
    differ = sum(pdist(stack, "hamming") * stack.shape[1] for stack in stacks.values())
    changed = squareform(np.round(differ))
    return Seen(
        DistanceMatrix.from_values(names, layers.total(), component="network"),
        layers,
        replace(layers, metric="l1", values=l1),
        DistanceMatrix.from_values(names, changed, component="network", metric="l0"),
        facts,
    )


def moment_4(values: npt.NDArray[np.float64]) -> float:
    """Return the kurtosis, 3 for a normal distribution."""
    centred = values - values.mean()
    variance = np.square(centred).mean()
    return float((centred**4).mean() / variance**2) if variance > 0 else 3.0


@dataclass
class Score:
    """What of a true history was found.

    `confusion` counts true kind → what it was drawn as: a kind, with " reversed" or
    " undecided" after it, or "not drawn"; edges drawn that are not true count under "none".
    """

    families_right: int = 0
    families: int = 0
    confusion: Counter[tuple[str, str]] = field(default_factory=Counter)

    def add(self, forest: Forest, families: list[set[str]], drawn: list[Drawn]) -> None:
        truth: dict[int, set[str]] = {}
        for model, family in forest.family.items():
            truth.setdefault(family, set()).add(model)
        self.families += len(truth)
        self.families_right += sum(t in families for t in truth.values())
        by_pair = {frozenset((d.parent, d.child)): d for d in drawn}
        for (parent, child), kind in forest.edges.items():
            found = by_pair.pop(frozenset((parent, child)), None)
            if found is None:
                self.confusion[kind, "not drawn"] += 1
            elif not found.decided:
                self.confusion[kind, f"{found.kind} undecided"] += 1
            else:
                wrong = "" if found.parent == parent else " reversed"
                self.confusion[kind, found.kind + wrong] += 1
        for left in by_pair.values():
            self.confusion["none", left.kind] += 1

    def total(self, keep: Callable[[str, str], bool]) -> int:
        return sum(n for (truth, drawn), n in self.confusion.items() if keep(truth, drawn))

    def figures(self) -> dict[str, float]:
        """Return the shares, 0 to 1, that the documentation reports."""
        true = self.total(lambda t, d: t != "none")
        drawn = self.total(lambda t, d: d != "not drawn")
        both = self.total(lambda t, d: t != "none" and d != "not drawn")
        undecided = self.total(lambda t, d: t != "none" and d.endswith("undecided"))
        wrong = self.total(lambda t, d: d.endswith("reversed"))
        decided = max(both - undecided, 1)
        return {
            "families": self.families_right / self.families,
            "edges found": both / true,
            "edges right": both / drawn,
            "directions decided": (both - undecided) / both,
            "directions right": 1 - wrong / decided,
        }


@dataclass(frozen=True)
class Drawn:
    parent: str
    child: str
    kind: str
    decided: bool = True


def by_megasim(forest: Forest) -> tuple[list[set[str]], list[Drawn]]:
    """Return the families and edges that `build_lineage` finds, without any metadata."""
    seen = see(forest)
    lineage = build_lineage(
        seen.matrix,
        layers=seen.layers,
        layers_l1=seen.layers_l1,
        changed=seen.changed,
        facts=seen.facts,
    )
    return [set(f.models) for f in lineage.families], [
        Drawn(e.parent, e.child, e.kind, e.decided) for e in lineage.edges
    ]


def by_rivals(forest: Forest, seed: int) -> dict[str, list[Drawn]]:
    """Return the edges of two simple ways, both told the families.

    One draws the minimum spanning tree and tosses a coin for each direction. The other is the
    minimum spanning arborescence whose edges all lead to a larger kurtosis.
    """
    seen = see(forest)
    matrix, facts = seen.matrix, seen.facts
    rng = np.random.default_rng(seed)
    tossed: list[Drawn] = []
    drifted: list[Drawn] = []
    for family in range(FAMILIES):
        rows = [i for i, n in enumerate(matrix.models) if forest.family[n] == family]
        graph = nx.Graph()
        for x, i in enumerate(rows):
            for j in rows[x + 1 :]:
                graph.add_edge(i, j, weight=float(matrix.values[i, j]))
        for i, j in nx.minimum_spanning_tree(graph).edges:
            a, b = (i, j) if rng.random() < 0.5 else (j, i)
            tossed.append(Drawn(matrix.models[a], matrix.models[b], "fine-tune"))
        kurtosis = {i: facts[i].kurtosis["network"] for i in rows}
        for j in sorted(rows, key=lambda i: kurtosis[i])[1:]:
            smaller = [i for i in rows if kurtosis[i] < kurtosis[j]]
            nearest = min(smaller, key=lambda i: matrix.values[i, j])
            drifted.append(Drawn(matrix.models[nearest], matrix.models[j], "fine-tune"))
    return {"spanning tree, random direction": tossed, "arborescence by kurtosis": drifted}


def measure(seeds: Sequence[int]) -> dict[str, Score]:
    """Return the score of megasim and of the two rivals over the same forests."""
    scores: dict[str, Score] = {}
    for seed in seeds:
        # Threads gain nothing on matrices this small, and on a busy machine lose much.
        with threadpool_limits(1):
            forest = grow_forest(seed)
        families, drawn = by_megasim(forest)
        scores.setdefault("megasim", Score()).add(forest, families, drawn)
        told = [{m for m, f in forest.family.items() if f == k} for k in range(FAMILIES)]
        for name, edges in by_rivals(forest, seed).items():
            scores.setdefault(name, Score()).add(forest, told, edges)
    return scores


def report(scores: dict[str, Score]) -> str:
    """Return the figures and megasim's confusion by kind as Markdown tables."""
    columns = list(next(iter(scores.values())).figures())
    lines = ["| | " + " | ".join(columns) + " |", "|---" * (len(columns) + 1) + "|"]
    for name, score in scores.items():
        cells = [f"{100 * v:.1f} %" for v in score.figures().values()]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    confusion = scores["megasim"].confusion
    kinds = sorted({t for t, _ in confusion}, key=lambda k: (k == "none", k))
    drawn = sorted({d for _, d in confusion}, key=lambda k: (k == "not drawn", k))
    lines += ["", "| true kind | " + " | ".join(drawn) + " |", "|---" * (len(drawn) + 1) + "|"]
    for kind in kinds:
        cells = [str(confusion[kind, d] or "") for d in drawn]
        lines.append(f"| {kind} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=10, help="how many forests to grow")
    print(report(measure(range(parser.parse_args().seeds))))
