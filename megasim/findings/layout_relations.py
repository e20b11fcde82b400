"""Relations of models whose matrices or layers stand elsewhere: other layouts, other numbers.

Both follow from the profiles in the store; no file is read.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence

from megasim.errors import NoAnswerError, printable
from megasim.estimate.layer_origins import layer_origins
from megasim.estimate.layouts import LayoutMatch, is_other_layout, matched_layouts
from megasim.estimate.profiles import MatrixProfile, model_profiles
from megasim.findings.kinship import ordered
from megasim.findings.pair_comparison import LEAST_COSINE, PairComparison, Relation
from megasim.wording.sentences import counted, joined
from megasim.words import Layout, RelationKind, Source, Verdict

# Squared norms that may be those of the same numbers in another order.
_ONE_NORM = 2e-4

_SAID = {
    Layout.SAME: "as they were",
    Layout.TRANSPOSED: "transposed",
    Layout.ROWS: "with rows in another order",
    Layout.FUSED: "fused with others",
    Layout.SPLIT: "split",
}


def other_layout(pair: PairComparison) -> Relation | None:
    """Return the relation when one model holds the matrices of the other in another layout."""
    if any(f.source != Source.EXACT for f in pair.altered) or not _may_be_laid_out_anew(pair):
        return None
    profiles = _profiles(pair)
    if profiles is None:
        return None
    of_a, of_b = profiles
    matches = matched_layouts(of_a, of_b)
    if not is_other_layout(of_a, of_b, matches):
        return None
    again = sum(len(match.keys) for match in matches)
    a, b = pair.name(pair.a), pair.name(pair.b)
    text = f"{b} holds matrices of {a} in another layout: {layouts_in_words(matches)}; "
    text += f"{again:,} of the {len(of_a):,} matrices of {a} are found again, "
    text += "by the norms of their rows and columns; the files were not read"
    return pair.relation(RelationKind.OTHER_LAYOUT, pair.b, pair.a, text, directed=False)


def layers_moved(pair: PairComparison) -> Relation | None:
    """Return the relation when layers of one are layers of the other under other numbers."""
    if not (pair.altered or pair.other_networks):
        return None
    cosine, lacks = pair.cosine(), _lacks(pair)
    if cosine is not None and cosine >= LEAST_COSINE and not any(lacks):
        return None
    profiles = _profiles(pair)
    if profiles is None:
        return None
    found = layer_origins(profiles[1], profiles[0], pair.model(pair.a).name)
    if found is None or not found.moved:
        return None
    text = f"{pair.name(pair.b)}: {joined([run.sentence() for run in found.runs])}"
    if found.equal:
        text += ", by the norms of their rows and columns"
    else:
        text += f", trained since; their hidden units correlate by {found.correlation:.2f} or more"
    alone = found.layers - found.found
    if alone:
        text += f"; {alone} of its {counted(found.layers, 'layer')} {_are(alone)} not found there"
    text += "; the files were not read"
    return pair.relation(RelationKind.LAYERS_MOVED, pair.b, pair.a, text, directed=False)


def _may_be_laid_out_anew(pair: PairComparison) -> bool:
    """Whether shapes or names differ on both sides, or nothing but the places of numbers."""
    other_shapes = any(f.counts is not None and f.counts.shape_mismatch for f in pair.findings)
    if other_shapes or all(_lacks(pair)) or pair.other_networks:
        return True
    norms = [pair.norms.get((*ordered(pair.a, pair.b), f.component)) for f in pair.altered]
    return bool(norms) and all(n is not None and math.isclose(*n, rel_tol=_ONE_NORM) for n in norms)


def _lacks(pair: PairComparison) -> tuple[bool, bool]:
    """Return whether either model lacks keys of the other."""
    counts = [f.counts for f in pair.findings if f.counts is not None]
    absent = {f.verdict for f in pair.findings}
    return (
        any(c.missing_a for c in counts) or Verdict.ABSENT_A in absent,
        any(c.missing_b for c in counts) or Verdict.ABSENT_B in absent,
    )


def layouts_in_words(matches: Sequence[LayoutMatch]) -> str:
    """Return how many matrices are laid out in which way, with an example of each."""
    counts = Counter((m.layout, m.head_size) for m in matches)
    example = {(m.layout, m.head_size): m for m in reversed(matches)}
    said = []
    for (layout, size), count in counts.items():
        what = _SAID.get(layout, f"with the rows of each head of {size} in another order")
        text = f"{count:,} {what}"
        match = example[layout, size]
        if layout != Layout.SAME:
            names = [joined([printable(key, 60) for key in keys]) for keys in match[1:3]]
            text += f" ({' → '.join(dict.fromkeys(names))})"
        said.append(text)
    return joined(said)


def _profiles(
    pair: PairComparison,
) -> tuple[Mapping[str, MatrixProfile], Mapping[str, MatrixProfile]] | None:
    """Return the profiles of both models; None where one has none."""
    store = pair.kinship.reader.store
    try:
        of_a, of_b = (model_profiles(store, pair.model(m).name) for m in (pair.a, pair.b))
    except NoAnswerError:
        return None
    return of_a, of_b


def _are(count: int) -> str:
    return "is" if count == 1 else "are"
