"""Lineage against networks that were really trained, whose history is known."""

from __future__ import annotations

from pathlib import Path

import pytest

from megasim.lineage.calibration import calibrated

torch = pytest.importorskip("torch", reason="needs torch to train networks")


def test_trained_trees_are_recovered_without_metadata(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(Path(__file__).parents[2])  # the benchmarks stand beside the tests
    from benchmarks.forest_scores import Score, calibration_table, figures_table
    from benchmarks.forests import grow_forest
    from benchmarks.trained_trees import by_megasim, by_rivals

    torch.set_num_threads(1)
    forest = grow_forest("MLP", 0)
    scores = {"megasim": Score()}
    scores["megasim"].add(forest, *by_megasim(forest, tmp_path))
    told = [{m for m, f in forest.family.items() if f == k} for k in set(forest.family.values())]
    for name, edges in by_rivals(forest, 0).items():
        scores.setdefault(name, Score()).add(forest, told, edges)

    figures = scores["megasim"].figures()
    assert figures["families"] == 1
    assert scores["megasim"].between == 0
    assert figures["edges found"] >= 0.85
    assert figures["directions decided"] >= 0.65
    assert figures["directions right"] >= 0.85
    confusion = scores["megasim"].confusion
    assert sum(n for (true, drawn), n in confusion.items() if true == drawn == "merge") == 6
    assert not any(drawn == "merge" and true != "merge" for true, drawn in confusion)
    for name in scores.keys() - {"megasim"}:
        other = scores[name].figures()
        assert figures["edges found"] > other["edges found"]
        assert figures["directions right"] > other["directions right"]
    assert figures_table(scores).count("\n") == 4
    assert "0.9 to 1.0" in calibration_table(scores)


def test_confidence_grows_with_the_evidence() -> None:
    told = [0.5, 0.6, 0.7, 0.8, 0.9, 0.99, 1.0]
    right = [calibrated(p) for p in told]
    assert right == sorted(right)
    assert right[0] == 0.5
    assert right[-1] <= 1
