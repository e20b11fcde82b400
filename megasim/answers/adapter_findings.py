"""Findings between the adapters of a store: what they change, never what they are factored into."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from itertools import combinations

from megasim.answers.adapter_files import AdapterFile, open_adapter
from megasim.answers.adapter_pairs import AdapterPair, compare_adapters
from megasim.checkpoint.locations import located
from megasim.errors import CheckpointError, printable
from megasim.findings.overview import FindingsReport, PairReport
from megasim.store.matrices import adapter_names
from megasim.store.rows import Store
from megasim.wording.sentences import counted, joined, listed
from megasim.words import Verdict

# Of more adapters the pairs are not compared, and of more pairs only the telling ones are listed.
_MOST_ADAPTERS = 24
_MOST_LISTED = 6
_A_PAIR = 2
_COMPONENT = "adapter"


def with_adapters(store: Store, report: FindingsReport) -> FindingsReport:
    """Return a report in which adapters are compared as the changes that they make.

    Two of them are read and compared by the product of their factors; an adapter beside a model
    is said to be one.
    """
    known = set(adapter_names(store))
    adapters = [name for name in report.models if name in known]
    if not adapters:
        return report
    paths = {model.name: model.path for model in store.models(adapters)}
    is_one_pair = len(report.models) == _A_PAIR
    pairs = [(pair.model_a, pair.model_b) for pair in report.pairs if is_one_pair]
    pairs = [pair for pair in pairs if known.issuperset(pair)]
    if not is_one_pair and len(adapters) <= _MOST_ADAPTERS:
        pairs = list(combinations(adapters, 2))
    compared, unread = _compared(pairs, paths)
    lines = [] if is_one_pair else [_what_they_are(adapters)]
    lines += _listed(compared, whole=is_one_pair)
    lines += [f"{printable(name, 80)}: not compared ({why})" for name, why in unread.items()]
    if not is_one_pair and len(adapters) > _MOST_ADAPTERS:
        lines.append(
            f"{counted(len(adapters), 'adapter')}: more than are compared here; "
            "`megasim findings A B` compares two"
        )
    shown = [p for p in report.pairs if is_one_pair or known.isdisjoint((p.model_a, p.model_b))]
    return replace(
        report,
        pairs=tuple(_reworded(pair, known, compared) for pair in shown),
        verdicts=tuple(row for row in report.verdicts if row[0] != _COMPONENT),
        adapters=tuple(lines),
    )


def _what_they_are(adapters: list[str]) -> str:
    are, hold = (
        ("are adapters", "they hold") if len(adapters) > 1 else ("is an adapter", "it holds")
    )
    return (
        f"{listed(adapters, _MOST_LISTED)} {are}: {hold} changes, no weights; "
        "`megasim adapter NAME` says of what, and which models it is for"
    )


def _compared(
    pairs: list[tuple[str, str]], paths: Mapping[str, str | None]
) -> tuple[dict[tuple[str, str], AdapterPair], dict[str, str]]:
    """Return the pairs that could be read, and why an adapter could not."""
    opened: dict[str, AdapterFile] = {}
    unread: dict[str, str] = {}
    for name in dict.fromkeys(name for pair in pairs for name in pair):
        path = paths.get(name)
        if path is None or not located(path).exists():
            unread[name] = "its file is not here"
            continue
        try:
            opened[name] = open_adapter(located(path), name)
        except CheckpointError as error:
            unread[name] = str(error)
    compared: dict[tuple[str, str], AdapterPair] = {}
    for a, b in pairs:
        if a not in opened or b not in opened:
            continue
        try:
            compared[a, b] = compare_adapters(opened[a], opened[b])
        except CheckpointError as error:
            unread[f"{a} and {b}"] = str(error)
    return compared, unread


def _listed(compared: Mapping[tuple[str, str], AdapterPair], *, whole: bool) -> list[str]:
    """Return what is said of all pairs: each of a single pair.

    Of more, adapters that make one change are named together, and of the others one of each such
    group stands for it; only pairs that have a layer in common are told of, and where these are
    many those of one change at two strengths.
    """
    if whole:
        return [line for pair in compared.values() for line in pair.sentences()]
    groups = _groups(compared)
    lines = []
    for names in groups:
        if len(names) > 1:
            pairs = [p for (a, b), p in compared.items() if a in names and b in names]
            rounding = ", up to rounding" if any(pair.l2 for pair in pairs) else ""
            lines.append(
                f"{joined([printable(name, 80) for name in names])} make the same change of "
                f"{counted(pairs[0].layers, 'layer')}{rounding}"
            )
    first = {names[0] for names in groups}
    apart = [pair for pair_of, pair in compared.items() if first.issuperset(pair_of)]
    telling = [pair for pair in apart if pair.layers]
    if len(telling) > _MOST_LISTED:
        telling = [pair for pair in telling if pair.is_rescaled]
    lines += [line for pair in telling for line in pair.sentences()]
    unrelated = sum(not pair.layers for pair in apart)
    if rest := len(apart) - len(telling) - unrelated:
        lines.append(f"other changes: {counted(rest, 'pair')} of adapters")
    if unrelated:
        pairs_of = counted(unrelated, "pair")
        lines.append(f"no layer in common that can be compared: {pairs_of} of adapters")
    return lines


def _groups(compared: Mapping[tuple[str, str], AdapterPair]) -> list[list[str]]:
    """Return the adapters in groups that make one change, in the order in which they came."""
    groups: list[list[str]] = []
    for name in dict.fromkeys(name for names in compared for name in names):
        for group in groups:
            pair = compared.get((group[0], name)) or compared.get((name, group[0]))
            if pair is not None and pair.is_same:
                group.append(name)
                break
        else:
            groups.append([name])
    return groups


def _reworded(
    pair: PairReport, known: set[str], compared: Mapping[tuple[str, str], AdapterPair]
) -> PairReport:
    """Return what is said of a pair, where one or both are adapters."""
    adapters = [name for name in (pair.model_a, pair.model_b) if name in known]
    if not adapters:
        return pair
    # that other factors differ says nothing; that some of them are equal does
    others = tuple(
        finding
        for finding in pair.findings
        if finding.component != _COMPONENT
        or finding.equal
        or (finding.counts is not None and finding.counts.unchanged)
    )
    found = compared.get((pair.model_a, pair.model_b))
    if found is not None:
        verdict = Verdict.SAME_VALUES if found.is_same else Verdict.CHANGED
        return replace(pair, verdict=verdict, sentences=(), findings=others)
    if len(adapters) == 2:
        return replace(pair, sentences=("not compared",), findings=others)
    (name,) = adapters
    (model,) = {pair.model_a, pair.model_b} - {name}
    adapter, base = printable(name, 80), printable(model, 80)
    said = (
        f"{adapter} is an adapter: it holds changes, no weights; "
        f"`megasim adapter {adapter} --base {base}` says how they go together"
    )
    return replace(pair, sentences=(said,), findings=others)
