"""Lineage against networks that were really trained, whose history is known."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

BENCHMARK = Path(__file__).parents[2] / "benchmarks" / "trained_trees.py"


def test_trained_trees_are_recovered_without_metadata() -> None:
    spec = importlib.util.spec_from_file_location("trained_trees", BENCHMARK)
    assert spec is not None
    assert spec.loader is not None
    trees = importlib.util.module_from_spec(spec)
    sys.modules["trained_trees"] = trees
    spec.loader.exec_module(trees)

    scores = trees.measure([0])
    figures = scores["megasim"].figures()
    assert figures["families"] == 1
    assert figures["edges found"] >= 0.85
    assert figures["directions decided"] >= 0.65
    assert figures["directions right"] >= 0.85
    confusion = scores["megasim"].confusion
    assert sum(n for (true, drawn), n in confusion.items() if true == drawn == "merge") == 8
    assert not any(drawn == "merge" and true != "merge" for true, drawn in confusion)
    for rival in ("spanning tree, random direction", "arborescence by kurtosis"):
        other = scores[rival].figures()
        assert figures["edges found"] > other["edges found"]
        assert figures["directions right"] > other["directions right"]
