"""What of the true history of forests was found, and how often a confidence was right."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from scipy.stats import binomtest

from benchmarks.forests import Forest

TENTHS = 10


@dataclass(frozen=True)
class Drawn:
    """An edge of an answer."""

    parent: str
    child: str
    kind: str
    decided: bool = True
    confidence: float = 1.0
    edge_confidence: float | None = None


@dataclass
class Score:
    """What of true histories was found.

    Attributes:
        confusion: (true kind, what it was drawn as) → count: a kind, with " reversed" or
            " undecided" after it, or "not drawn"; edges drawn that are not true count under "none".
        between: edges drawn between unrelated models.
        told: tenth of confidence → (directions told, of them right), merges aside.
        drawn: tenth of the confidence of an edge itself → (edges drawn, of them right), merges
            aside.
    """

    forests: int = 0
    families: int = 0
    families_right: int = 0
    between: int = 0
    confusion: Counter[tuple[str, str]] = field(default_factory=Counter)
    told: dict[int, tuple[int, int]] = field(default_factory=lambda: defaultdict(lambda: (0, 0)))
    drawn: dict[int, tuple[int, int]] = field(default_factory=lambda: defaultdict(lambda: (0, 0)))

    def add(self, forest: Forest, families: Sequence[set[str]], drawn: Sequence[Drawn]) -> None:
        """Count what was found of a forest."""
        truth: dict[int, set[str]] = {}
        for model, family in forest.family.items():
            truth.setdefault(family, set()).add(model)
        self.forests += 1
        self.families += len(truth)
        self.families_right += sum(t in families for t in truth.values())
        self.between += sum(forest.family[d.parent] != forest.family[d.child] for d in drawn)
        true = {frozenset(pair) for pair in forest.edges}
        for d in drawn:
            if d.edge_confidence is not None:
                _count(self.drawn, d.edge_confidence, frozenset((d.parent, d.child)) in true)
        by_pair = {frozenset((d.parent, d.child)): d for d in drawn}
        for (parent, child), kind in forest.edges.items():
            found = by_pair.pop(frozenset((parent, child)), None)
            if found is None:
                self.confusion[kind, "not drawn"] += 1
                continue
            wrong = "" if found.parent == parent else " reversed"
            self.confusion[kind, found.kind + (wrong if found.decided else " undecided")] += 1
            if kind != "merge":
                _count(self.told, found.confidence, not wrong)
        for left in by_pair.values():
            self.confusion["none", left.kind] += 1

    def _total(self, keep: Callable[[str, str], bool]) -> int:
        return sum(n for (truth, drawn), n in self.confusion.items() if keep(truth, drawn))

    def figures(self) -> dict[str, float]:
        """Return the shares, 0 to 1, that the documentation reports."""
        true = self._total(lambda t, d: t != "none")
        drawn = self._total(lambda t, d: d != "not drawn")
        both = self._total(lambda t, d: t != "none" and d != "not drawn")
        undecided = self._total(lambda t, d: t != "none" and d.endswith("undecided"))
        wrong = self._total(lambda t, d: d.endswith("reversed"))
        decided = max(both - undecided, 1)
        return {
            "families": self.families_right / self.families,
            "edges found": both / true,
            "edges right": both / max(drawn, 1),
            "directions decided": (both - undecided) / max(both, 1),
            "directions right": 1 - wrong / decided,
        }


def _count(tenths: dict[int, tuple[int, int]], confidence: float, right: bool) -> None:
    tenth = min(int(confidence * TENTHS), TENTHS - 1)
    count, of_them = tenths[tenth]
    tenths[tenth] = count + 1, of_them + right


def figures_table(scores: Mapping[str, Score]) -> str:
    """Return the figures of each, as a Markdown table."""
    columns = list(next(iter(scores.values())).figures())
    lines = ["| | forests | " + " | ".join(columns) + " | between unrelated |"]
    lines.append("|---" * (len(columns) + 3) + "|")
    for name, score in scores.items():
        cells = [f"{100 * v:.1f} %" for v in score.figures().values()]
        lines.append(f"| {name} | {score.forests} | {' | '.join(cells)} | {score.between} |")
    return "\n".join(lines)


def calibration_table(scores: Mapping[str, Score]) -> str:
    """Return by tenth of confidence how many directions were told, and how many were right."""
    return _tenths_table({name: score.told for name, score in scores.items()}, TENTHS // 2)


def edge_calibration_table(scores: Mapping[str, Score]) -> str:
    """Return by tenth of their own confidence how many edges were drawn, and how many are true."""
    return _tenths_table({name: score.drawn for name, score in scores.items()}, 1)


def _tenths_table(counts: Mapping[str, Mapping[int, tuple[int, int]]], first: int) -> str:
    tenths = range(first, TENTHS)
    heads = [f"{t / TENTHS:.1f} to {(t + 1) / TENTHS:.1f}" for t in tenths]
    lines = ["| confidence | " + " | ".join(heads) + " |", "|---" * (len(heads) + 1) + "|"]
    for name, told in {**counts, **_sum_of(counts)}.items():
        cells = []
        for tenth in tenths:
            count, right = told.get(tenth, (0, 0))
            cells.append(_share(right, count))
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _share(right: int, count: int) -> str:
    """Return a share in words, with the interval that holds the true one in 19 of 20 cases."""
    if not count:
        return "–"
    ends = binomtest(right, count).proportion_ci(method="wilson")
    share, low, high = (round(100 * x) for x in (right / count, ends.low, ends.high))
    return f"{share} % of {count} ({low} to {high})"


def _sum_of(
    counts: Mapping[str, Mapping[int, tuple[int, int]]],
) -> dict[str, dict[int, tuple[int, int]]]:
    """Return the sums over all, where there is more than one."""
    if len(counts) < 2:
        return {}
    total: dict[int, tuple[int, int]] = {}
    for told in counts.values():
        for tenth, (count, right) in told.items():
            before = total.get(tenth, (0, 0))
            total[tenth] = before[0] + count, before[1] + right
    return {"all": total}


def confusion_table(score: Score) -> str:
    """Return what edges of each kind were drawn as, as a Markdown table."""
    kinds = sorted({t for t, _ in score.confusion}, key=lambda k: (k == "none", k))
    drawn = sorted({d for _, d in score.confusion}, key=lambda k: (k == "not drawn", k))
    lines = ["| true kind | " + " | ".join(drawn) + " |", "|---" * (len(drawn) + 1) + "|"]
    for kind in kinds:
        cells = [str(score.confusion[kind, d] or "") for d in drawn]
        lines.append(f"| {kind} | " + " | ".join(cells) + " |")
    return "\n".join(lines)
