"""The section of a report on how far to trust it: what was not looked at, and error rates."""

from __future__ import annotations

import csv
from collections import Counter
from functools import cache

import numpy as np

from megasim.findings.reading_tiers import tier_sentences
from megasim.report.parts import Block, Section, bullets, note, say
from megasim.report.source import ReportSource
from megasim.resources import resource_path
from megasim.wording.sentences import counted, listed
from megasim.words import ModelSource

_NAMED = 8
_TITLE = "How far to trust it"
_WITHOUT_FILES = (
    "`megasim compare` takes them up where the files are still there. Without the files, "
    "`megasim matrix --estimate` and `megasim lineage --estimate` give their L2 out of the store, "
    "each with its error."
)

_PUBLISHED = "They are known by published distances alone, so nothing more can be had of them here."


def trust_section(source: ReportSource) -> Section:
    """Return what was not compared or read, how often answers err, and what they cannot tell."""
    if not source.models:
        return Section("trust", _TITLE, (note("The store is empty."),))
    compared = _compared(source)
    blocks: list[Block] = [bullets([*compared, *_not_read(source), *_estimated(source)])]
    blocks.append(bullets(_meaning()))
    blocks.append(
        say(
            "Weights cannot tell what a model was trained on, who made it or under which licence, "
            "nor when: an order without step counts or a decided direction is only the likelier "
            "one. Two merges with the same result look the same, and a parent that is not among "
            "these models is not found."
        )
    )
    n = len(source.models)
    some_missing = 0 < len(source.pairs) < n * (n - 1) // 2
    return Section("trust", _TITLE, tuple(blocks), tuple(compared) if some_missing else ())


def _compared(source: ReportSource) -> list[str]:
    """Say how many pairs were compared, and of whom some were not; nothing of a single model."""
    n = len(source.models)
    total = n * (n - 1) // 2
    known = Counter(i for pair in source.pairs for i in pair)
    missing = total - len(source.pairs)
    if not total:
        return []
    if not missing:
        return [f"All {counted(total, 'pair')} were compared or are known from published results."]
    ids = source.store.model_ids(source.models)
    lacking = {name: n - 1 - known[i] for name, i in ids.items() if known[i] < n - 1}
    most = sorted(lacking, key=lambda name: (-lacking[name], name))
    alone = [name for name in most if lacking[name] == n - 1]
    of = f"{counted(len(lacking), 'model')} lack some, most of all {listed(most, _NAMED)}"
    if alone:
        of = f"none of the pairs of {listed(alone, _NAMED)} was compared"
    published = {m.name for m in source.store.models() if m.source == ModelSource.IMPORTED}
    more = _PUBLISHED if published.issuperset(lacking) else _WITHOUT_FILES
    return [
        f"{missing:,} of {counted(total, 'pair')} were not compared, which does not say that they "
        f"are unrelated: {of}. {more}"
    ]


def _not_read(source: ReportSource) -> list[str]:
    chosen = [m for m in source.store.models() if m.name in set(source.models)]
    imported = [m.name for m in chosen if m.source == ModelSource.IMPORTED]
    unread = {name: count for name, count in source.unread.items() if name in source.models}
    said = []
    if unread:
        said.append(
            f"Values of {counted(sum(unread.values()), 'tensor')} could not be read, in "
            f"{listed(sorted(unread), _NAMED)}; equality is said of what was read alone."
        )
    elif len(imported) < len(chosen) and all(m.is_full for m in chosen):
        said.append("Every tensor of the files was read.")
    said += [f"{line}." for line in tier_sentences(chosen)]
    if imported:
        said.append(
            f"{counted(len(imported), 'model')} stand here by published distances alone, of which "
            "no weights were read; a published 0 may mean that a pair was not compared."
        )
    return said


def _estimated(source: ReportSource) -> list[str]:
    said = []
    for component in source.components[:3]:
        matrix = source.matrix(component)
        estimated = matrix.sources[np.triu_indices(len(matrix.models), 1)] == "estimated"
        if estimated.any():
            errors = matrix.errors[np.triu_indices(len(matrix.models), 1)][estimated]
            said.append(
                f"{counted(int(estimated.sum()), 'distance')} of {component} are estimated from "
                "sketches or samples, with a standard error of up to "
                f"{100 * float(np.nanmax(errors)):.2g} %."
            )
    return said


def _meaning() -> list[str]:
    rate = measured_rates()
    return [
        "Equal means equal: identity is decided from hashes of all that was read, or of the values "
        "once rounded, and no threshold is in it. Distances that are not estimated are exact to a "
        "millionth.",
        f"Descent: on 31 forests of 30 small networks of three kinds, really trained, "
        f"{_share(rate['edges_found'])} of the steps between models were found, and "
        f"{_share(rate['directions_right'])} of the directions were right where one was decided, "
        f"which was so for {_share(rate['directions_decided'])}. Other models may fare otherwise. "
        "The confidence of a step is how often such a direction was right there, not the step.",
        "Merges: weights have a standard error; the confidence of a merge is the share of its "
        "squared distance that the recipe explains, and what is left stands beside it.",
        "Maps: the verdict compares with steps in unrelated directions; a flat picture alone is no "
        "evidence.",
    ]


def _share(rate: tuple[float, float]) -> str:
    share, error = rate
    return f"{100 * share:.0f} %" + (f" (± {100 * error:.0f})" if error else "")


@cache
def measured_rates() -> dict[str, tuple[float, float]]:
    """Return name → (share, standard error or 0) of how often answers about descent are right.

    Measured by `benchmarks/trained_trees.py`; see docs/lineage.md.
    """
    with resource_path("data", "reliability.csv").open(encoding="utf-8", newline="") as rows:
        return {
            row["measure"]: (float(row["share"]), float(row["error"] or 0.0))
            for row in csv.DictReader(rows)
        }
