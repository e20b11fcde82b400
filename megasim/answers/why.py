"""Two models in five sentences: what is the same, what changed, who came from whom, how sure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from shlex import quote
from typing import Any

import networkx as nx

from megasim.anatomy.classification import component_title
from megasim.answers.changes import Changes, load_changes
from megasim.errors import NoAnswerError, printable
from megasim.findings.pair_sentences import VERDICT_WORDS, component_list
from megasim.findings.relations import model_relations
from megasim.findings.verdicts import NEVER_USED, Finding, pair_findings
from megasim.lineage.from_store import load_lineage
from megasim.lineage.result import Edge, Lineage
from megasim.progress import NO_PROGRESS, Progress
from megasim.store.matrices import main_component, member_names
from megasim.store.rows import Store
from megasim.wording.html import html_lines
from megasim.wording.sentences import counted, four_digits, joined
from megasim.words import EdgeKind, Source, Verdict

_MOST_GROUPS = 3  # blocks that are named


@dataclass(frozen=True)
class Why:
    """Two models in five sentences.

    Attributes:
        same, changed: what is the same, and what changed most.
        descent: who came from whom.
        certainty: how sure that is, and what it was taken over.
        next: what to ask next.
    """

    model_a: str
    model_b: str
    same: str
    changed: str
    descent: str
    certainty: str
    next: str

    @property
    def sentences(self) -> tuple[str, ...]:
        """The five of them."""
        return self.same, self.changed, self.descent, self.certainty, self.next

    def __repr__(self) -> str:
        return f"<why, {printable(self.model_a, 60)} and {printable(self.model_b, 60)}>"

    def _repr_html_(self) -> str:
        return html_lines(self.sentences)

    def to_json(self) -> dict[str, Any]:
        """Return plain strings."""
        return dict(vars(self))


def load_why(store: Store, a: str, b: str, *, progress: Progress = NO_PROGRESS) -> Why:
    """Return what can be said of two models in five sentences.

    Raises:
        UsageError: an unknown model, or twice the same.
        NoAnswerError: nothing is known of the pair.
    """
    findings = pair_findings(store, [(a, b)])
    try:
        changes = load_changes(store, a, b)
    except NoAnswerError:  # estimates, and published sums, know no layers
        changes = None
    steps, lineage = _steps(store, a, b, findings, progress)
    relations = [relation.text for relation in model_relations(store, [(a, b)])]
    return Why(
        a,
        b,
        _same(findings),
        _changed(findings, changes),
        _descent(a, b, steps, lineage, relations),
        _certainty(findings, steps),
        _next_command(store, a, b, findings, steps, changes),
    )


def _same_in_samples(findings: Sequence[Finding]) -> list[str]:
    """Return the components of which samples show no difference."""
    verdict = Verdict.SAME_IN_SAMPLE
    return [component_title(f.component) for f in findings if f.verdict == verdict]


def _same(findings: Sequence[Finding]) -> str:
    """Return which components are the same, and how far."""
    by_verdict: dict[str, list[str]] = {}
    for finding in findings:
        if finding.equal and finding.component not in NEVER_USED:
            by_verdict.setdefault(VERDICT_WORDS[finding.verdict], []).append(finding.component)
    if not by_verdict and (sampled := _same_in_samples(findings)):
        return f"Same: {joined(sampled)} in all elements that were read; not all were."
    if not by_verdict:
        return "Same: no component of theirs is the same."
    told = [f"{component_list(parts)} ({words})" for words, parts in by_verdict.items()]
    return f"Same: {joined(told)}."


def _changed(findings: Sequence[Finding], changes: Changes | None) -> str:
    """Return what changed most, and where in it."""
    apart = [f for f in findings if not f.equal and f.l2 and f.component not in NEVER_USED]
    absent = [
        f.component for f in findings if f.verdict.is_absent and f.component not in NEVER_USED
    ]
    beside = f"; only one of them has the {component_list(absent)}" if absent else ""
    if not apart:
        return f"Changed: nothing that both have and that was compared{beside}."
    most = max(apart, key=lambda f: f.l2 or 0.0)
    keys = f", {most.keys_changed:,} of {counted(most.keys_compared or 0, 'key')}"
    text = f"Changed most: {component_title(most.component)}, L2 {four_digits(most.l2 or 0.0)}"
    text += keys if most.keys_changed is not None else ""
    if changes is not None:
        rows = changes.to_frame()
        blocks = (rows["component"] == most.component).sum()
        rows = rows[(rows["component"] == most.component) & (rows["share"] > 0)]
        if blocks > 1 and len(rows):
            top = rows.sort_values("share", ascending=False, kind="stable").head(_MOST_GROUPS)
            told = zip(top["block"], top["share"], strict=True)
            text += f", most in {joined([f'{printable(b)} ({100 * s:.0f} %)' for b, s in told])}"
    return text + beside + "."


def _steps(
    store: Store, a: str, b: str, findings: Sequence[Finding], progress: Progress
) -> tuple[list[Edge], Lineage | None]:
    """Return the steps of the tree from one of the two to the other; none where there are none."""
    component = main_component(store)
    held = {f.component for f in findings if not f.verdict.is_absent}
    if not held & set(member_names(store, component)):
        return [], None
    try:
        lineage, _ = load_lineage(store, component, progress=progress)
    except NoAnswerError:
        return [], None
    graph = lineage.to_graph()
    edges = {(edge.parent, edge.child): edge for edge in lineage.edges}
    for start, end in ((a, b), (b, a)):
        if start in graph and end in graph and nx.has_path(graph, start, end):
            path = nx.shortest_path(graph, start, end)
            return [edges[step] for step in pairwise(path)], lineage
    return [], lineage


def _descent(
    a: str, b: str, steps: Sequence[Edge], lineage: Lineage | None, relations: Sequence[str]
) -> str:
    """Return who came from whom, or how they are related otherwise."""
    if steps:
        start, end = printable(steps[0].parent, 60), printable(steps[-1].child, 60)
        kinds = joined(list(dict.fromkeys(str(step.kind) for step in steps)))
        between = [printable(step.child, 60) for step in steps[:-1]]
        way = f" by way of {', '.join(between)}" if between else ""
        share = f", {steps[0].weight:.4g} of it" if len(steps) == 1 and steps[0].weight > 0 else ""
        if all(step.decided for step in steps):
            return f"Descent: {end} came from {start}{way} ({kinds}{share})."
        return (
            f"Descent: {start} and {end} are of one line{way} ({kinds}), the direction undecided."
        )
    family = [f for f in lineage.families if {a, b} <= set(f.models)] if lineage else []
    kin = f"both are of the family of {printable(family[0].root, 60)}" if family else ""
    if relations:
        known = f"; {kin}, and no line of the tree leads from one to the other" if kin else ""
        return f"Descent: {relations[0]}{known or '; which came first is not known'}."
    if kin:
        return f"Descent: no line of the tree leads from one to the other; {kin}."
    if lineage and {a, b} <= {m for f in lineage.families for m in f.models}:
        return f"Descent: they are not related over the {component_title(lineage.component)}."
    return "Descent: nothing tells."


def _certainty(findings: Sequence[Finding], steps: Sequence[Edge]) -> str:
    """Return how sure it is, and what it was taken over."""
    compared = sum(f.keys_compared or 0 for f in findings)
    unread = sum(f.keys_unread or 0 for f in findings)
    sources = {f.source for f in findings}
    how = "estimates from sketches or samples" if Source.ESTIMATED in sources else "exact distances"
    how = "published distances" if Source.IMPORTED in sources else how
    over = f"{how} over {counted(compared, 'key')}" if compared else "no key was compared"
    text = f"How sure: {over}"
    text += f", {counted(unread, 'key')} not read" if unread else ""
    told = []
    directions = [s.confidence for s in steps if s.kind != EdgeKind.MERGE]
    merges = [s.confidence for s in steps if s.kind == EdgeKind.MERGE]
    if directions:
        least = min(directions)
        shown = "more than 0.99" if least > 0.99 else f"{least:.2f}"
        told.append(f"the direction has a probability of {shown}")
    if merges:
        least = 100 * min(merges)
        shown = "more than 99.9" if least > 99.9 else f"{least:.1f}"
        told.append(f"the merge explains {shown} % of the squared distance")
    return f"{text}; {joined(told)}." if told else f"{text}."


def _next_command(
    store: Store,
    a: str,
    b: str,
    findings: Sequence[Finding],
    steps: Sequence[Edge],
    changes: Changes | None,
) -> str:
    """Return the command that says more; of what was not read in full, the one that reads it."""
    partly = [m for m in store.models() if m.name in (a, b) and not m.is_full]
    if partly:
        paths = " ".join(quote(printable(m.path, 400)) for m in partly)
        return f"Ask next: `megasim ingest {paths}` reads all; then `megasim compare`."
    return _next(a, b, findings, steps, changes)


def _next(
    a: str, b: str, findings: Sequence[Finding], steps: Sequence[Edge], changes: Changes | None
) -> str:
    """Return the command that says more."""
    names = f"{quote(printable(a))} {quote(printable(b))}"
    if any(f.source == Source.ESTIMATED for f in findings):
        pair = quote(printable(f"{a},{b}"))
        return f"Ask next: `megasim compare --models {pair}` for exact distances."
    merge = next((step.child for step in steps if step.kind == EdgeKind.MERGE), None)
    if merge is not None:
        return (
            f"Ask next: `megasim recipe {quote(printable(merge))}` for all its parents, by block."
        )
    if changes is not None and any(not f.equal and f.l2 for f in findings):
        return f"Ask next: `megasim findings {names} --by block` for where it changed."
    return f"Ask next: `megasim findings {names}` for each component, and who else holds the same."
