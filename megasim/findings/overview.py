"""Findings, relations, shared components and oddities together, as people read them."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from megasim.anatomy.classification import component_title
from megasim.errors import printable
from megasim.findings.component_groups import (
    ComponentGroup,
    Equalities,
    group_sentences,
    of_files,
    other_holders,
    shared_components,
)
from megasim.findings.health import HealthNote, MetadataClaim, metadata_claims, model_health
from megasim.findings.missing_pairs import MissingPairs, load_missing_pairs
from megasim.findings.pair_sentences import (
    VERDICT_WORDS,
    model_verdict,
    pair_sentences,
    rename_sentences,
)
from megasim.findings.reading_tiers import tier_sentences
from megasim.findings.relations import Relation, model_relations, relation_sentences
from megasim.findings.rendering import (
    CountTable,
    FindingsPage,
    FindingsSection,
    render_html,
    render_markdown,
    render_text,
)
from megasim.findings.verdicts import (
    MOST_DETAILED_PAIRS,
    Finding,
    FindingsReader,
    chosen_pairs,
    component_order,
)
from megasim.store.rows import Pair, Store
from megasim.wording.html import html_lines
from megasim.wording.sentences import counted, listed
from megasim.words import RelationKind, Source, Verdict

_SHOWN_MODELS = 8
_SHOWN_CLAIMS = 10
_MOST_HOLDERS = 12
_MOST_GROUPS = 20
_MOST_CLAIMS = 30
_MOST_PAIRS = 8
_MOST_OF_A_KIND = 12
# Up to so many pairs come before what is said of all of them together.
_FIRST_PAIRS = 3
_SOURCES = {Source.IMPORTED: "published distances", Source.ESTIMATED: "estimated distances"}


@dataclass(frozen=True)
class PairReport:
    """One pair, from a to b.

    Attributes:
        families: what each of them is, e.g. "SD1 inpainting"; "" where that is not known.
        verdict: of the models as wholes.
        source: where its distances come from.
        sentences: one for each component, and for each rename found between their keys.
    """

    model_a: str
    model_b: str
    families: tuple[str, str]
    verdict: Verdict
    source: Source
    sentences: tuple[str, ...]
    findings: tuple[Finding, ...]


@dataclass(frozen=True)
class FindingsReport:
    """What is found between some models.

    Attributes:
        models: names of the models it is about, in the order they came.
        whole_store: whether these are all there are.
        pair_count: how many pairs of them are known.
        pairs: each of them, when they were named or are few; else empty.
        verdicts: (component, verdict, pairs) of all pairs; "absent" of one or both models is one.
        relations, groups, health, claims: of these models.
        missing: which pairs of all models were not compared; None where pairs were named.
        tiers: which models were not read in full, in sentences.
        adapters: how adapters stand to each other, as the changes that they make, a sentence each.
    """

    models: tuple[str, ...]
    whole_store: bool
    pair_count: int
    pairs: tuple[PairReport, ...]
    verdicts: tuple[tuple[str, Verdict, int], ...]
    relations: tuple[Relation, ...]
    groups: tuple[ComponentGroup, ...]
    health: tuple[HealthNote, ...]
    claims: tuple[MetadataClaim, ...]
    missing: MissingPairs | None = None
    adapters: tuple[str, ...] = ()
    tiers: tuple[str, ...] = ()

    def __repr__(self) -> str:
        return f"<findings, {self.page().headline}>"

    def _repr_html_(self) -> str:
        page = self.page(whole=False)
        return html_lines([page.headline]) + "".join(
            html_lines(section.lines, section.title) for section in page.sections
        )

    @property
    def findings(self) -> list[Finding]:
        """The findings of the pairs that are given one by one."""
        return [finding for pair in self.pairs for finding in pair.findings]

    def health_lines(self, *, whole: bool = False) -> list[str]:
        """Return the oddities, gravest first, those that models share said once."""
        most = None if whole else _SHOWN_MODELS
        return [
            f"{listed([note.model for note in alike], most)}: {alike[0].text}"
            for alike in shared_oddities(self.health)
        ]

    def claim_lines(self, *, whole: bool = False) -> list[str]:
        """Return what the metadata claims, a line for each model that claims something."""
        said: dict[str, list[str]] = defaultdict(list)
        for claim in self.claims:
            said[claim.model].append(f"{claim.key} = {claim.value}")
        return [
            f"{listed([model], 1)}: "
            + "; ".join(claims if whole else claims[:_SHOWN_CLAIMS])
            + (
                ""
                if whole or len(claims) <= _SHOWN_CLAIMS
                else f"; {len(claims) - _SHOWN_CLAIMS} more"
            )
            for model, claims in said.items()
        ]

    def page(self, *, whole: bool = True) -> FindingsPage:
        """Return what is said; what is shared and what is odd come first where pairs are many.

        Args:
            whole: whether long lists are whole; a terminal is shown their beginning.
        """
        models = f"{counted(len(self.models), 'model')}{of_files(self.models)}"
        return FindingsPage(
            f"{models}, {counted(self.pair_count, 'pair')}",
            tuple(section for section in self._sections(whole) if section.lines),
            None if self.pairs or not self.verdicts else _as_table(self.verdicts),
        )

    def _sections(self, whole: bool) -> list[FindingsSection]:
        title = "Shared components"
        groups = group_sentences(self.groups, None if whole else _MOST_HOLDERS)
        if not self.whole_store:
            title = "Who else holds the same"
            groups = other_holders(self.groups, self.models, None if whole else _MOST_HOLDERS)
        shared = [
            FindingsSection(title, _most(groups, None if whole else _MOST_GROUPS, "groups")),
            FindingsSection("What is odd", tuple(self.health_lines(whole=whole))),
        ]
        lines = [text for _, text in relation_sentences(self.relations, whole=whole)]
        if not self.pairs:
            lines = condensed_relations(self.relations, whole)
        related = FindingsSection("How they are related", tuple(lines))
        most = None if whole else _MOST_CLAIMS
        claims = _most(self.claim_lines(whole=whole), most, "models")
        claimed = FindingsSection("What their metadata claims", claims)
        changes = FindingsSection("Adapters, by the changes that they make", self.adapters)
        described = [_pair_section(pair) for pair in self.pairs]
        lacking = self.missing.sentence() if self.missing else ""
        described.append(FindingsSection("How much was read", self.tiers))
        described.append(FindingsSection("What was not compared", (lacking,) if lacking else ()))
        if self.pair_count > _FIRST_PAIRS:
            return [*shared, related, changes, *described, claimed]
        return [*described, changes, related, *shared, claimed]

    def to_text(self, *, whole: bool = False) -> str:
        """Return it as plain text without colour; `whole`, with all of long lists, for a file."""
        return render_text(self.page(whole=whole))

    def to_markdown(self) -> str:
        """Return it as Markdown; names are escaped."""
        return render_markdown(self.page())

    def to_html(self) -> str:
        """Return it as one page of HTML that needs nothing else; names are escaped."""
        return render_html(self.page())

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
            "adapters": list(self.adapters),
            "tiers": list(self.tiers),
            "not_compared": self.missing.to_json() if self.missing else None,
        }


def findings_report(
    store: Store,
    pairs: Sequence[tuple[str, str]] | None = None,
    *,
    group: str | None = None,
) -> FindingsReport:
    """Return what is found between some pairs of models, or between all.

    Named pairs, and up to `MOST_DETAILED_PAIRS` others, are described one by one. Of more pairs the
    report says what the models share, how they are related and what is odd.

    Raises:
        UsageError: an unknown model or group.
        NoAnswerError: a named pair of which nothing is known.
    """
    chosen = chosen_pairs(store, pairs, group)
    reader = FindingsReader(store, None if pairs is None else {*sum(chosen, ())})
    equalities = Equalities(reader)
    ids = sorted(reader.models) if pairs is None and group is None else sorted({*sum(chosen, ())})
    models = tuple(reader.models[i].name for i in ids)
    described: tuple[PairReport, ...] = ()
    if pairs is not None or len(chosen) <= MOST_DETAILED_PAIRS:
        described = tuple(_pair_reports(reader, chosen))
    wanted = frozenset(models)
    return FindingsReport(
        models=models,
        whole_store=len(models) == len(reader.models),
        pair_count=len(chosen),
        pairs=described,
        verdicts=_verdict_table(reader.verdict_counts(chosen)),
        relations=tuple(model_relations(store, pairs, group=group, equalities=equalities)),
        groups=tuple(g for g in shared_components(store, equalities) if wanted & set(g.models)),
        health=tuple(model_health(store, models)),
        claims=tuple(metadata_claims(store, models)),
        missing=load_missing_pairs(store) if pairs is None and group is None else None,
        tiers=tier_sentences(reader.models[i] for i in ids),
    )


def shared_oddities(notes: Iterable[HealthNote]) -> list[list[HealthNote]]:
    """Return the notes with those of one text together, the gravest first."""
    alike: dict[str, list[HealthNote]] = defaultdict(list)
    for note in sorted(notes, key=lambda note: note.rank):
        alike[note.text].append(note)
    return list(alike.values())


def _pair_reports(reader: FindingsReader, pairs: Sequence[Pair]) -> list[PairReport]:
    by_pair: dict[tuple[str, str], list[Finding]] = defaultdict(list)
    for finding in reader.findings(pairs, details=True):
        by_pair[finding.model_a, finding.model_b].append(finding)
    reports = []
    for a, b in pairs:
        names = reader.models[a].name, reader.models[b].name
        of_pair = by_pair[names]
        reports.append(
            PairReport(
                *names,
                families=(reader.rows.kind_of(a), reader.rows.kind_of(b)),
                verdict=model_verdict(of_pair),
                source=of_pair[0].source,
                sentences=(
                    *pair_sentences(of_pair),
                    *rename_sentences(reader.rows.renames(a, b)),
                ),
                findings=tuple(of_pair),
            )
        )
    return reports


def _verdict_table(counts: Counter[tuple[str, Verdict]]) -> tuple[tuple[str, Verdict, int], ...]:
    """Return the counts in the order people list components and verdicts."""
    merged: Counter[tuple[str, Verdict]] = Counter()
    for (component, verdict), count in counts.items():
        absent = verdict in (Verdict.ABSENT_A, Verdict.ABSENT_B)
        merged[component, Verdict.ABSENT if absent else verdict] += count
    order = component_order()

    def place(row: tuple[str, Verdict, int]) -> tuple[int, str, int]:
        return order.get(row[0], -1), row[0], row[1].rank

    return tuple(sorted(((c, v, n) for (c, v), n in merged.items()), key=place))


def _as_table(counts: tuple[tuple[str, Verdict, int], ...]) -> CountTable:
    """Return the counts with a row for each component and a column for each verdict."""
    cells = {(component, verdict): f"{count:,}" for component, verdict, count in counts}
    used = [v for v in Verdict if any(verdict == v for _, verdict in cells)]
    words = {**VERDICT_WORDS, Verdict.ABSENT: "not in both"}
    rows = tuple(
        (component_title(component), tuple(cells.get((component, v), "") for v in used))
        for component in dict.fromkeys(component for component, _ in cells)
    )
    return CountTable("Over all pairs", tuple(words[v] for v in used), rows)


def _pair_section(pair: PairReport) -> FindingsSection:
    names = [printable(name, 80) for name in (pair.model_a, pair.model_b)]
    if pair.families[0] != pair.families[1] and all(pair.families):
        names = [f"{name} ({what})" for name, what in zip(names, pair.families, strict=True)]
    title = " → ".join(names)
    if pair.source in _SOURCES:
        title += f" ({_SOURCES[pair.source]})"
    return FindingsSection(title, pair.sentences)


def condensed_relations(relations: Sequence[Relation], whole: bool = False) -> list[str]:
    """Return relations of many models: what changed between several pairs is said once.

    Args:
        whole: whether to name all pairs, however many.
    """
    texts_of: dict[RelationKind, list[str]] = defaultdict(list)
    pairs: dict[str, list[str]] = defaultdict(list)
    tuned = {frozenset((r.model, r.other)) for r in relations if r.what}
    for relation in relations:
        if relation.what:
            pairs[relation.what].append(f"{relation.other} – {relation.model}")
    # Which of two known parts a changed model holds is said among the shared ones.
    rest = [
        r
        for r in relations
        if not r.what and (r.directed or frozenset((r.model, r.other)) not in tuned)
    ]
    for kind, text in relation_sentences(rest, whole=whole):
        texts_of[kind].append(text)
    most = None if whole else _MOST_OF_A_KIND
    lines = [line for texts in texts_of.values() for line in _most(texts, most, "pairs")]
    most = None if whole else _MOST_PAIRS
    for what, between in pairs.items():
        lines.append(f"{what}, between nearest models: {listed(between, most, 200)}")
    return lines


def _most(lines: Iterable[str], limit: int | None, noun: str) -> tuple[str, ...]:
    every = tuple(lines)
    if limit is None or len(every) <= limit:
        return every
    return (*every[:limit], f"and {len(every) - limit:,} {noun} more")
