"""Findings, relations, shared components and oddities together, as people read them."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from megasim import identity
from megasim.component_groups import ComponentGroup, Equalities, listed, shared_components
from megasim.findings import MOST_DETAILED_PAIRS, Finding, Teller, chosen_pairs, component_order
from megasim.health import Claim, HealthNote, metadata_claims, model_health
from megasim.pair_sentences import model_verdict, pair_sentences
from megasim.relations import Relation, model_relations
from megasim.store import Store

_SHOWN_MODELS = 8
_SHOWN_CLAIMS = 10


@dataclass(frozen=True)
class PairReport:
    """One pair, told from a to b.

    Attributes:
        verdict: of the models as wholes, one of `identity.VERDICTS`.
        source: "exact", "imported" or "estimated": where its distances come from.
        sentences: one for each component.
    """

    model_a: str
    model_b: str
    verdict: str
    source: str
    sentences: tuple[str, ...]
    findings: tuple[Finding, ...]


@dataclass(frozen=True)
class FindingsReport:
    """What is found between some models.

    Attributes:
        models: names of the models it is about, in the order they came.
        pair_count: how many pairs of them are known.
        pairs: each of them, when they were named or are few; else empty.
        verdicts: (component, verdict, pairs) of all pairs; "absent" of one or both models is one.
        relations, groups, health, claims: of these models.
    """

    models: tuple[str, ...]
    pair_count: int
    pairs: tuple[PairReport, ...]
    verdicts: tuple[tuple[str, str, int], ...]
    relations: tuple[Relation, ...]
    groups: tuple[ComponentGroup, ...]
    health: tuple[HealthNote, ...]
    claims: tuple[Claim, ...]

    @property
    def findings(self) -> list[Finding]:
        """The findings of the pairs that are told one by one."""
        return [finding for pair in self.pairs for finding in pair.findings]

    def health_lines(self) -> list[str]:
        """Return the oddities, gravest first, those that models share said once."""
        models: dict[str, list[str]] = defaultdict(list)
        for note in sorted(self.health, key=lambda note: note.rank):
            models[note.text].append(note.model)
        return [f"{listed(names, _SHOWN_MODELS)}: {text}" for text, names in models.items()]

    def claim_lines(self) -> list[str]:
        """Return what the metadata claims, a line for each model that claims something."""
        said: dict[str, list[str]] = defaultdict(list)
        for claim in self.claims:
            said[claim.model].append(f"{claim.key} = {claim.value}")
        return [
            f"{listed([model], 1)}: "
            + "; ".join(claims[:_SHOWN_CLAIMS])
            + (f"; {len(claims) - _SHOWN_CLAIMS} more" if len(claims) > _SHOWN_CLAIMS else "")
            for model, claims in said.items()
        ]

    def to_text(self) -> str:
        """Return it as plain text for a terminal, without colour."""
        from megasim.findings_render import render_text

        return render_text(self)

    def to_markdown(self) -> str:
        """Return it as Markdown; names are escaped."""
        from megasim.findings_render import render_markdown

        return render_markdown(self)

    def to_html(self) -> str:
        """Return it as one page of HTML that needs nothing else; names are escaped."""
        from megasim.findings_render import render_html

        return render_html(self)

    def to_json(self) -> dict[str, Any]:
        """Return all of it as plain lists and numbers; `findings` is what `--json` promises."""
        return {
            "models": list(self.models),
            "pair_count": self.pair_count,
            "pairs": [
                {
                    "model_a": pair.model_a,
                    "model_b": pair.model_b,
                    "verdict": pair.verdict,
                    "source": pair.source,
                    "sentences": list(pair.sentences),
                }
                for pair in self.pairs
            ],
            "findings": [finding.to_json() for finding in self.findings],
            "verdicts": [
                {"component": component, "verdict": verdict, "pairs": count}
                for component, verdict, count in self.verdicts
            ],
            "relations": [relation.to_json() for relation in self.relations],
            "groups": [group.to_json() for group in self.groups],
            "health": [note.to_json() for note in self.health],
            "claims": [claim.to_json() for claim in self.claims],
        }


def findings_report(
    store: Store,
    pairs: Sequence[tuple[str, str]] | None = None,
    *,
    group: str | None = None,
) -> FindingsReport:
    """Return what is found between some pairs of models, or between all.

    Named pairs, and up to `MOST_DETAILED_PAIRS` others, are told one by one. Of more pairs the
    report says what the models share, how they are related and what is odd.

    Raises:
        UsageError: an unknown model or group.
        NoAnswerError: a named pair of which nothing is known.
    """
    chosen = chosen_pairs(store, pairs, group)
    teller = Teller(store)
    equalities = Equalities(teller)
    ids = sorted(teller.models) if pairs is None and group is None else sorted({*sum(chosen, ())})
    models = tuple(teller.models[i].name for i in ids)
    told: tuple[PairReport, ...] = ()
    if pairs is not None or len(chosen) <= MOST_DETAILED_PAIRS:
        told = tuple(_pair_reports(teller.findings(chosen, details=True)))
    wanted = frozenset(models)
    return FindingsReport(
        models=models,
        pair_count=len(chosen),
        pairs=told,
        verdicts=_verdict_table(teller.verdict_counts(chosen)),
        relations=tuple(model_relations(store, pairs, group=group, equalities=equalities)),
        groups=tuple(g for g in shared_components(store, equalities) if wanted & set(g.models)),
        health=tuple(model_health(store, models)),
        claims=tuple(metadata_claims(store, models)),
    )


def _pair_reports(findings: Iterable[Finding]) -> list[PairReport]:
    by_pair: dict[tuple[str, str], list[Finding]] = defaultdict(list)
    for finding in findings:
        by_pair[finding.model_a, finding.model_b].append(finding)
    return [
        PairReport(
            a, b, model_verdict(of_pair), of_pair[0].source, tuple(pair_sentences(of_pair)),
            tuple(of_pair),
        )
        for (a, b), of_pair in by_pair.items()
    ]  # fmt: skip


def _verdict_table(counts: Counter[tuple[str, str]]) -> tuple[tuple[str, str, int], ...]:
    """Return the counts in the order people list components and verdicts."""
    merged: Counter[tuple[str, str]] = Counter()
    for (component, verdict), count in counts.items():
        absent = verdict in (identity.ABSENT_A, identity.ABSENT_B)
        merged[component, identity.ABSENT if absent else verdict] += count
    order = component_order()

    def place(row: tuple[str, str, int]) -> tuple[int, str, int]:
        return order.get(row[0], -1), row[0], identity.VERDICTS.index(row[1])

    return tuple(sorted(((c, v, n) for (c, v), n in merged.items()), key=place))
