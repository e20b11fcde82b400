"""What the merges of the zoo are made of, tool by tool: what answers are held against."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Merge:
    """A merge of known making.

    Attributes:
        method: what it is called in the answer; "" for none.
        weights: of the parents, base included where it has a share; empty where the method has
            no single weight for each.
        parents: all models that it is made of.
        numbers: other parameters that the answer names.
        by_layer: weight of B in the first layer and in the last, if it differs by layer.
        config: of mergekit, or an expression of sd-mecha in which A, B, … are the parents.
    """

    name: str
    method: str
    config: Mapping[str, Any] | str
    parents: tuple[str, ...]
    weights: Mapping[str, float] = field(default_factory=dict)
    numbers: Mapping[str, float] = field(default_factory=dict)
    by_layer: tuple[float, float] | None = None


def _models(folder: Path, shares: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    return [{"model": str(folder / name), "parameters": dict(p)} for name, p in shares.items()]


def mergekit_merges(folder: Path, dtype: str) -> list[Merge]:
    """Return the merges that mergekit writes of the models in a folder."""

    def sparse(
        method: str, weights: Mapping[str, float], parameters: Mapping[str, Any], **own: Any
    ) -> dict[str, Any]:
        shares: dict[str, Mapping[str, Any]] = {"base": {}}
        shares |= {name: {"weight": w, **parameters} for name, w in weights.items()}
        return {
            "models": _models(folder, shares),
            "merge_method": method,
            "base_model": str(folder / "base"),
            "parameters": own,
            "dtype": dtype,
        }

    def linear(weights: Mapping[str, float], **own: Any) -> dict[str, Any]:
        shares = {name: {"weight": w} for name, w in weights.items()}
        models = _models(folder, shares)
        return {"models": models, "merge_method": "linear", "parameters": own, "dtype": dtype}

    def slerp(t: Any) -> dict[str, Any]:
        return {
            "models": _models(folder, {"A": {}, "B": {}}),
            "merge_method": "slerp",
            "base_model": str(folder / "A"),
            "parameters": {"t": t},
            "dtype": dtype,
        }

    def task(weights: Mapping[str, float]) -> dict[str, float]:
        return {**weights, "base": 1 - sum(weights.values())}

    def stack(*slices: tuple[str, int, int]) -> dict[str, Any]:
        sources = [{"model": str(folder / m), "layer_range": [a, b]} for m, a, b in slices]
        return {
            "slices": [{"sources": [source]} for source in sources],
            "merge_method": "passthrough",
            "dtype": dtype,
        }

    ab, abc = {"A": 0.5, "B": 0.5}, {"A": 0.5, "B": 0.3, "C": 0.2}
    found = [
        Merge("linear", "weighted sum", linear({"A": 0.3, "B": 0.7}), ("A", "B"),
              {"A": 0.3, "B": 0.7}),
        Merge("linear-normalised", "weighted sum", linear({"A": 0.1, "B": 1.0}), ("A", "B"),
              {"A": 0.1 / 1.1, "B": 1 / 1.1}),
        Merge("linear-three", "weighted sum", linear(abc), ("A", "B", "C"), abc),
        Merge("slerp", "slerp", slerp(0.4), ("A", "B"), numbers={"t": 0.4}),
        Merge("slerp-by-role", "slerp",
              slerp([{"filter": "self_attn", "value": 0.2}, {"filter": "mlp", "value": 0.7},
                     {"value": 0.5}]), ("A", "B")),
        Merge("slerp-by-layer", "slerp", slerp([0.1, 0.5, 0.9]), ("A", "B")),
        Merge("task-arithmetic", "weighted sum",
              sparse("task_arithmetic", {"A": 0.6, "B": 0.3}, {}), ("base", "A", "B"),
              task({"A": 0.6, "B": 0.3})),
        Merge("negative-task", "add-difference",
              sparse("task_arithmetic", {"A": 1.0, "B": -0.5}, {}), ("base", "A", "B"),
              task({"A": 1.0, "B": -0.5})),
        Merge("add-difference", "add-difference",
              sparse("task_arithmetic", {"A": 1.0, "B": 1.0}, {}), ("base", "A", "B"),
              task({"A": 1.0, "B": 1.0})),
        Merge("ties", "TIES", sparse("ties", ab, {"density": 0.5}), ("base", "A", "B"),
              ab, {"density": 0.5}),
        Merge("ties-uneven", "TIES", sparse("ties", abc, {"density": 0.3}),
              ("base", "A", "B", "C"), abc, {"density": 0.3}),
        Merge("ties-unnormalised", "TIES",
              sparse("ties", {"A": 0.6, "B": 0.4}, {"density": 0.4}, normalize=False),
              ("base", "A", "B"), {"A": 0.6, "B": 0.4}, {"density": 0.4}),
        Merge("dare-linear", "DARE", sparse("dare_linear", ab, {"density": 0.5}),
              ("base", "A", "B"), ab, {"density": 0.5}),
        Merge("dare-sparse", "DARE",
              sparse("dare_linear", {"A": 0.4, "B": 0.3, "C": 0.3}, {"density": 0.2}),
              ("base", "A", "B", "C"), {"A": 0.4, "B": 0.3, "C": 0.3}, {"density": 0.2}),
        Merge("dare-ties", "DARE TIES", sparse("dare_ties", {"A": 0.6, "B": 0.4},
              {"density": 0.5}), ("base", "A", "B"), {"A": 0.6, "B": 0.4}, {"density": 0.5}),
        Merge("breadcrumbs", "breadcrumbs",
              sparse("breadcrumbs", ab, {"density": 0.6, "gamma": 0.05}), ("base", "A", "B"),
              ab, {"density": 0.6}),
        Merge("breadcrumbs-ties", "breadcrumbs TIES",
              sparse("breadcrumbs_ties", ab, {"density": 0.6, "gamma": 0.05}),
              ("base", "A", "B"), ab, {"density": 0.6}),
        Merge("della-linear", "DELLA",
              sparse("della_linear", ab, {"density": 0.5, "epsilon": 0.2}), ("base", "A", "B"),
              ab, {"density": 0.5}),
        Merge("della", "DELLA TIES",
              sparse("della", ab, {"density": 0.5, "epsilon": 0.2}), ("base", "A", "B"),
              ab, {"density": 0.5}),
        Merge("model-stock", "model stock",
              {"models": _models(folder, {n: {} for n in ("base", "A", "B", "C")}),
               "merge_method": "model_stock", "base_model": str(folder / "base"),
               "dtype": dtype}, ("base", "A", "B", "C")),
        Merge("stack", "stack", stack(("A", 0, 4), ("B", 2, 6)), ("A", "B")),
    ]  # fmt: skip
    return found


def sd_mecha_merges() -> list[Merge]:
    """Return the merges that sd-mecha writes.

    It computes in float32 whatever it reads and writes. Its ties are scaled by a stock of the angle
    in each row unless `apply_stock` is set. `changes` are those from the base, `add_change` is its
    add-difference without the wrapper, which takes no such changes.
    """
    ab, base_ab = ("A", "B"), ("base", "A", "B")
    half = {"A": 0.5, "B": 0.5}
    third = dict.fromkeys("ABC", 1 / 3)
    no_stock, soup = "apply_stock=True", "vote_sgn=True, apply_stock=True"
    return [
        Merge("weighted-sum", "weighted sum", "weighted_sum(A, B, alpha=0.3)", ab,
              {"A": 0.7, "B": 0.3}),
        Merge("weighted-sum-twice", "weighted sum",
              "weighted_sum(weighted_sum(A, B, alpha=0.5), C, alpha=0.2)", ("A", "B", "C"),
              {"A": 0.4, "B": 0.4, "C": 0.2}),
        Merge("n-average", "weighted sum", "n_average(A, B, C)", ("A", "B", "C"), third),
        Merge("by-layer", "weighted sum", "weighted_sum(A, B, alpha=by_layer(0.2, 0.8))", ab,
              by_layer=(0.2, 0.8)),
        Merge("slerp", "slerp", "slerp(A, B, alpha=0.4)", ab, numbers={"t": 0.4}),
        Merge("add-difference-half", "add-difference", "add_difference(A, B, base, alpha=0.5)",
              base_ab, {"A": 1.0, "B": 0.5, "base": -0.5}),
        Merge("add-difference", "add-difference", "add_difference(A, B, base, alpha=1.0)",
              base_ab, {"A": 1.0, "B": 1.0, "base": -1.0}),
        Merge("add-perpendicular", "add-difference", "add_perpendicular(A, B, base, alpha=1.0)",
              base_ab),
        Merge("ties", "TIES", "add_change(base, ties_sum(*changes(A, B), k=0.5))", base_ab, half,
              {"density": 0.5}),
        Merge("ties-three", "TIES", "add_change(base, ties_sum(*changes(A, B, C), k=0.3))",
              ("base", "A", "B", "C"), third, {"density": 0.3}),
        Merge("ties-soup", "TIES",
              f"add_change(base, ties_sum_extended(*changes(A, B), k=0.5, {soup}))",
              base_ab, half, {"density": 0.5}),
        Merge("dropout", "DARE", "dropout(base, A, B, probability=0.5, alpha=1.0, seed=1)",
              base_ab, half, {"density": 0.5}),
        Merge("dropout-one", "DARE", "dropout(base, A, probability=0.8, alpha=1.0, seed=1)",
              ("base", "A"), {"A": 1.0}, {"density": 0.2}),
        Merge("ties-with-dare", "DARE TIES",
              f"add_ties_with_dare(base, A, B, probability=0.5, seed=1, {no_stock})", base_ab,
              half, {"density": 0.5}),
        Merge("ties-with-della", "DELLA TIES",
              f"add_ties_with_dare(base, A, B, probability=0.5, della_eps=0.4, seed=1, {no_stock})",
              base_ab, numbers={"density": 0.5}),  # scaled by the density, not to the same L1
        Merge("tensor-sum", "whole elements", "tensor_sum(A, B, width=0.3)", ab,
              {"A": 0.7, "B": 0.3}),
        Merge("train-difference", "train-difference",
              "add_change(A, subtract(B, base), alpha=train_difference_mask(A, B, base))", base_ab,
              {"A": 1.0, "B": 1.0}),
        Merge("add-opposite", "add-opposite",
              "add_change(A, subtract(B, base), alpha=add_opposite_mask(A, B, base))", base_ab,
              {"A": 1.0, "B": 1.0}),
        Merge("clamped", "clamped add-difference",
              "add_difference(A, B, base, alpha=1.0, clamp_to_ab=True)", base_ab,
              {"A": 1.0, "B": 1.0}),
        Merge("multiply-quotient", "multiply-quotient", "multiply_quotient(A, B, base)", base_ab,
              {"A": 1.0, "B": 1.0}),
        Merge("geometric-sum", "geometric sum", "geometric_sum(A, B, alpha=0.5)", ab, half),
        Merge("geometric-median", "weighted sum", "geometric_median(A, B, C)", ("A", "B", "C")),
        Merge("cosine-a", "weighted sum", "add_cosine_a(A, B, alpha=0.5)", ab),
        Merge("ties-stock", "", "add_change(base, ties_sum_extended(*changes(A, B), k=0.5))", ()),
        Merge("model-stock", "", "n_model_stock(base, A, B, C)", ()),
        Merge("crossover", "", "crossover(A, B, alpha=0.4)", ()),
        Merge("top-k", "", "copy_region(A, B, width=0.5, top_k=True)", ()),
    ]  # fmt: skip
