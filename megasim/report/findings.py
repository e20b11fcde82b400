"""The sections of a report about identity: findings, shared components, oddities, all models."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import replace

import pandas as pd

from megasim.anatomy.classification import component_title
from megasim.errors import printable
from megasim.findings.component_groups import (
    ComponentGroup,
    group_sentences,
    shared_components,
)
from megasim.findings.health import BROKEN_POSITIONS, NON_FINITE, HealthNote, model_health
from megasim.findings.overview import condensed_relations, shared_oddities
from megasim.findings.pair_sentences import VERDICT_WORDS, pair_sentences
from megasim.findings.relations import Relation, model_relations
from megasim.findings.tier_overview import tier_overview
from megasim.findings.verdicts import MOST_DETAILED_PAIRS, Finding, component_order
from megasim.plots.overview import (
    OWN,
    SharingGrid,
    group_letter,
    sharing_figure,
    sharing_grid,
    tier_figure,
)
from megasim.report.parts import (
    Block,
    DataTable,
    Details,
    Section,
    answer_file,
    bullets,
    frame_file,
    note,
    picture,
    say,
    table,
)
from megasim.report.source import ReportSource
from megasim.store.rows import Pair
from megasim.wording.sentences import counted, joined, listed
from megasim.words import ModelSource, RelationKind, Verdict

_MOST_GROUPS = 20
_MOST_NAMED = 8  # models of a group, at the top
_KIND_WORDS = {
    RelationKind.SAME_WEIGHTS: "hold the same weights as another",
    RelationKind.CAST: "are another cast to half precision",
    RelationKind.QUANTISED: "are another quantised",
    RelationKind.PERMUTED: "are another with hidden units in another order",
    RelationKind.SAME_WHERE_USED: "differ from another only in keys that are never used",
    RelationKind.SAME_AS_READ: "are the same as another as far as they were read",
    RelationKind.PRUNED: "are pruned copies of another",
    RelationKind.PART_OF: "are part of another",
    RelationKind.OVERLAP: "are equal to another where both have keys",
    RelationKind.SHARDS: "are shards of one model",
    RelationKind.RESCALED: "are another adapter with another alpha",
    RelationKind.OTHER_LAYOUT: "are another in another layout",
    RelationKind.WIDENED: "are another widened with zeros",
    RelationKind.ROWS_ADDED: "are another with rows added",
    RelationKind.ALL_BUT_FEW: "differ from another in a few keys",
    RelationKind.SCALES_LOST: "are another without its scales",
    RelationKind.SCALES_OF_ANOTHER: "are codes of another with the scales of a third",
    RelationKind.QUANTISED_AND_CHANGED: "are another quantised, and changed beyond rounding",
    RelationKind.LAYERS_MOVED: "hold layers of another under other numbers",
    RelationKind.VAE_REPLACED: "have another VAE put in",
    RelationKind.TEXT_ENCODER_REPLACED: "have another text encoder put in",
    RelationKind.UNET_FINE_TUNED: "were fine-tuned on an unchanged text encoder",
}


def findings_section(source: ReportSource) -> Section:
    """Return how the models are related, and what became of each component of each pair."""
    pairs = source.pairs
    if len(source.models) < 2:
        text = (
            "The store is empty." if not source.models else "One model has nothing to differ from."
        )
        return Section("findings", "Findings", (note(text),))
    if not pairs:
        text = "No pair of these models was compared: run `megasim compare`."
        return Section("findings", "Findings", (note(text),), (text,))
    relations = _relations(source, pairs)
    shown = condensed_relations(relations)
    blocks: list[Block] = [bullets(shown)] if shown else []
    if not relations:
        blocks.append(note("No relation between any two of these models was found."))
    if shown:
        blocks.append(say("What is alike is said once; relations.csv has it pair by pair."))
    if len(pairs) <= MOST_DETAILED_PAIRS:
        entries = _entries(source.equalities.reader.findings(pairs, details=True))
        blocks.append(Details(f"{counted(len(pairs), 'pair')}, component by component", entries))
    blocks.append(_verdict_table(source, relations))
    return Section("findings", "Findings", tuple(blocks), _findings_lead(source, relations))


def _relations(source: ReportSource, pairs: Sequence[Pair]) -> list[Relation]:
    if source.all_models or len(pairs) > MOST_DETAILED_PAIRS:
        found = model_relations(source.store, equalities=source.equalities)
        chosen = set(source.models)
        return [r for r in found if r.model in chosen and r.other in chosen]
    names = {i: model.name for i, model in source.equalities.reader.models.items()}
    named = [(names[a], names[b]) for a, b in pairs]
    return model_relations(source.store, named, equalities=source.equalities)


def _entries(findings: Iterable[Finding]) -> tuple[tuple[str, tuple[str, ...]], ...]:
    by_pair: dict[tuple[str, str], list[Finding]] = defaultdict(list)
    for finding in findings:
        by_pair[finding.model_a, finding.model_b].append(finding)
    return tuple(
        (f"{printable(a, 80)} → {printable(b, 80)}", tuple(pair_sentences(of_pair)))
        for (a, b), of_pair in by_pair.items()
    )


def _verdict_table(source: ReportSource, relations: Sequence[Relation]) -> DataTable:
    """Return how often each verdict occurs, component by component."""
    counts: Counter[tuple[str, Verdict]] = Counter()
    for (component, verdict), n in source.equalities.reader.verdict_counts(source.pairs).items():
        if verdict != Verdict.ABSENT:
            counts[component, Verdict.ABSENT_A if verdict == Verdict.ABSENT_B else verdict] += n
    place = component_order()
    components = sorted({c for c, _ in counts}, key=lambda c: (place.get(c, len(place)), c))
    used = [v for v in Verdict if any(verdict == v for _, verdict in counts)]
    frame = pd.DataFrame(
        [
            [component_title(c), *(counts[c, verdict] or None for verdict in used)]
            for c in components
        ],
        columns=["component", *(VERDICT_WORDS.get(v, "only in one") for v in used)],
        dtype=object,
    )
    kin = pd.DataFrame(
        [[r.kind, r.model, r.other, r.directed, r.text] for r in relations],
        columns=["kind", "model", "other", "directed", "text"],
    )
    return table(
        frame,
        [
            answer_file("components", source.ask("report_components")),
            frame_file("verdicts", frame, "the table"),
            frame_file("relations", kin, "the findings above"),
        ],
        caption=f"How many of {counted(len(source.pairs), 'pair')} have which verdict; "
        "components.csv has the counts behind each.",
    )


def _findings_lead(source: ReportSource, relations: Sequence[Relation]) -> tuple[str, ...]:
    made = {kind: len({r.model for r in relations if r.kind == kind}) for kind in RelationKind}
    parts = [
        f"{number} {words if number > 1 else _singular(words)}"
        for kind, words in _KIND_WORDS.items()
        if (number := made.get(kind, 0))
    ]
    if not parts:
        return ()
    return (f"Of {counted(len(source.models), 'model')}, {joined(parts[:4])}.",)


def _singular(words: str) -> str:
    first, _, rest = words.partition(" ")
    forms = {"hold": "holds", "are": "is", "differ": "differs", "have": "has", "were": "was"}
    return f"{forms[first]} {rest}".replace("pruned copies", "a pruned copy")


def shared_section(source: ReportSource) -> Section:
    """Return which models hold the same component, and what is unchanged in which pair."""
    groups = _groups(source)
    sentences = group_sentences(groups)
    blocks: list[Block] = []
    if groups:
        blocks.append(bullets(sentences[:_MOST_GROUPS]))
        if len(sentences) > _MOST_GROUPS:
            more = counted(len(sentences) - _MOST_GROUPS, "smaller group")
            blocks.append(say(f"{more} are in shared.csv."))
    elif source.models:
        blocks.append(note("No two models are known to hold the same component."))
    if source.models:
        blocks += _sharing_picture(source)
        blocks += _tier_picture(source)
    else:
        blocks.append(note("The store is empty."))
    return Section("shared", "Shared components", tuple(blocks), _shared_lead(source, groups))


def _shared_lead(source: ReportSource, groups: Sequence[ComponentGroup]) -> tuple[str, ...]:
    parts = []
    for group in _largest(groups)[:2]:
        rounded = "" if group.verdict == Verdict.IDENTICAL else ", once rounded,"
        parts.append(
            f"The same {group.title}{rounded} is in {len(group.models)} of "
            f"{len(source.models)} models: {listed(group.models, _MOST_NAMED)}."
        )
    return tuple(parts)


def _largest(groups: Sequence[ComponentGroup]) -> list[ComponentGroup]:
    """Return the largest group of each component that a lead may name; a VAE is named whole."""
    first: dict[str, ComponentGroup] = {}
    for group in groups:
        if not group.component.startswith("vae_"):
            first.setdefault(group.component, group)
    return list(first.values())


def _groups(source: ReportSource) -> list[ComponentGroup]:
    chosen = set(source.models)
    found = []
    for group in shared_components(source.store, source.equalities):
        names = tuple(name for name in group.models if name in chosen)
        if len(names) > 1:
            found.append(replace(group, models=names))
    return found


def _sharing_picture(source: ReportSource) -> list[Block]:
    grid = sharing_grid(source.equalities, source.models)
    if not (grid.groups > OWN).any():
        return []
    files = [frame_file("shared", _sharing_frame(grid), "the letters of the figure")]
    signatures = source.ask("report_signatures")
    if len(signatures.frame):
        files.append(answer_file("signatures", signatures))
    drawn = picture(
        sharing_figure(grid),
        "shared",
        alt=f"Which of {counted(len(grid.models), 'model')} hold the same components",
        caption="Who shares what: models with the same letter in a column hold the very same "
        "component, at least once rounded to half precision or where it is used. Groups are "
        "lettered by size. Equal signatures in signatures.csv are the evidence for models whose "
        "weights were read; published results count where they prove it.",
        files=files,
    )
    return [drawn]


def _sharing_frame(grid: SharingGrid) -> pd.DataFrame:
    words = {-1: "absent", 0: "own"}
    return pd.DataFrame(
        [
            (model, component, words.get(int(group), group_letter(int(group))), bool(other))
            for model, groups, rounded in zip(grid.models, grid.groups, grid.rounded, strict=True)
            for component, group, other in zip(grid.components, groups, rounded, strict=True)
        ],
        columns=["model", "component", "group", "other_bytes"],
    )


def _tier_picture(source: ReportSource) -> list[Block]:
    if not source.pairs:
        return []
    overview = tier_overview(source.equalities.reader, source.pairs, lambda: source.center)
    title, findings = overview.title, overview.findings
    if overview.against is None:
        answer = source.ask("report_components")
    else:
        answer = source.ask("report_components_of_one", model=overview.against)
    pairs = {(f.model_a, f.model_b) for f in findings}
    if {finding.verdict for finding in findings} <= {Verdict.CHANGED, Verdict.ABSENT}:
        return [note(f"Nothing is unchanged between these {counted(len(pairs), 'pair')}.")]
    drawn = picture(
        tier_figure(findings, title),
        "unchanged",
        alt=f"{title}: the verdict on each component of {counted(len(pairs), 'pair')}",
        caption=f"{title}: {counted(len(pairs), 'pair')}, those of one pattern side by side. "
        "Blue is unchanged, in the tiers of the legend; orange is changed.",
        files=[answer_file("unchanged", answer)],
    )
    return [drawn]


def health_section(source: ReportSource) -> Section:
    """Return what is odd about single models."""
    title = "Oddities"
    notes = model_health(source.store, source.models)
    answer = source.ask("report_broken_layers")
    if not notes:
        known = {m.id: m for m in source.equalities.reader.models.values()}
        read = [
            m
            for m in known.values()
            if m.source != ModelSource.IMPORTED and m.name in source.models
        ]
        text = "Nothing odd: no NaN or infinity, no empty layers, no broken positions."
        if not read:
            text = "No weights were read, so nothing is known of their health."
        return Section("health", title, (note(text),))
    frame = pd.DataFrame(
        [[n.model, n.kind.replace("_", " "), n.text] for n in notes],
        columns=["model", "oddity", "what"],
    )
    files = [frame_file("oddities", frame, "the oddities, model by model")]
    folded = pd.DataFrame(
        [
            [
                listed([n.model for n in alike], _MOST_NAMED),
                alike[0].kind.replace("_", " "),
                alike[0].text,
            ]
            for alike in shared_oddities(notes)
        ],
        columns=["models", "oddity", "what"],
    )
    if len(answer.frame):
        files.append(answer_file("broken_layers", answer))
    odd = len({n.model for n in notes})
    return Section(
        "health",
        title,
        (table(folded, files, caption=f"{odd} of {counted(len(source.models), 'model')}."),),
        _health_lead(notes),
    )


def _health_lead(notes: Sequence[HealthNote]) -> tuple[str, ...]:
    parts = []
    for kind, words in ((NON_FINITE, "NaN or infinity"), (BROKEN_POSITIONS, "broken position_ids")):
        names = list(dict.fromkeys(n.model for n in notes if n.kind == kind))
        if names:
            parts.append(f"{words} in {listed(names, 4)}")
    text = "; ".join(parts)
    return (f"{text[0].upper()}{text[1:]}.",) if text else ()


def models_section(source: ReportSource) -> Section:
    """Return the models, and which keys stand under other names."""
    answer = source.ask("report_models")
    if answer.frame.empty:
        return Section("models", "Models", (note("The store is empty: run `megasim ingest`."),))
    blocks: list[Block] = [
        table(
            answer.frame,
            [answer_file("models", answer)],
            caption=f"{counted(len(answer.frame), 'model')}; epoch and step as the files claim.",
            columns=[c for c in answer.frame.columns if answer.frame[c].notna().any()],
        )
    ]
    renames = source.ask("report_renames")
    if len(renames.frame):
        alike = renames.frame.groupby(["component", "renamed"], sort=False).size().reset_index()
        blocks.append(
            table(
                alike.rename(columns={"renamed": "keys_renamed", 0: "pairs"}),
                [answer_file("renames", renames)],
                caption="Keys that stand under another name in the other model of a pair: how "
                "many, and in how many pairs; renames.csv names them.",
            )
        )
    return Section("models", "Models", tuple(blocks))
