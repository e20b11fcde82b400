"""How the models of a store are related, and which pairs to report when there are many."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace
from itertools import combinations, pairwise

from megasim.errors import printable
from megasim.findings.component_groups import Equalities
from megasim.findings.kinship import ComponentSet, KinshipFacts, ordered
from megasim.findings.pair_comparison import PairComparison, Relation
from megasim.findings.pair_relations import pair_relations
from megasim.findings.shard_names import shard_name
from megasim.findings.verdicts import MOST_DETAILED_PAIRS, Finding, FindingsReader, chosen_pairs
from megasim.store.roundings import whole_roundings
from megasim.store.rows import Pair, Store
from megasim.wording.sentences import listed
from megasim.words import RelationKind

# Of up to so many models of equal components every pair is looked at.
_MOST_IN_ALL_PAIRS = 48
_SHOWN_SAME = 12

__all__ = ["Relation", "model_relations", "relation_sentences"]


def model_relations(
    store: Store,
    pairs: Sequence[tuple[str, str]] | None = None,
    *,
    group: str | None = None,
    equalities: Equalities | None = None,
) -> list[Relation]:
    """Return the relations of pairs of models; unrelated models have none.

    Of named pairs, or of few, every relation is returned; of the other parts of the files of named
    models, what is equal. Of many pairs, those of models of equal weights, and for each such family
    the relation to its nearest model. Where more than `_MOST_IN_ALL_PAIRS` models are of equal
    weights but not of equal bytes, as few relations as tie them together.

    Raises:
        UsageError: an unknown model or group.
        NoAnswerError: a named pair of which nothing is known.
    """
    equal = Equalities(FindingsReader(store)) if equalities is None else equalities
    chosen = chosen_pairs(store, pairs, group)
    kinship = KinshipFacts(equal)
    if pairs is None and group is None and len(chosen) > MOST_DETAILED_PAIRS:
        known = set(chosen)
        ties = _ties(kinship, known)
        chosen = [*ties, *_nearest_pairs(kinship, known, ties)]
    if pairs is None:
        return _with_all_of_same_bytes(_relations(kinship, chosen))
    of_parts = _relations(kinship, _pairs_of_other_parts(store, kinship.reader, chosen))
    equal_parts = [r for r in of_parts if r.kind in (RelationKind.SAME_WEIGHTS, RelationKind.CAST)]
    found = [*_relations(kinship, chosen), *equal_parts]
    return sorted(found, key=lambda relation: relation.kind.rank)


def _pairs_of_other_parts(
    store: Store, reader: FindingsReader, chosen: Sequence[Pair]
) -> list[Pair]:
    """Return the compared pairs of the files of some pairs that are not among those pairs."""

    def file_of(model: int) -> int:
        return reader.models[model].file_model_id or model

    files = {ordered(file_of(a), file_of(b)) for a, b in chosen}
    known = {ordered(*pair) for pair in chosen}
    return [
        (a, b)
        for a, b in chosen_pairs(store)
        if file_of(a) != file_of(b)
        and ordered(file_of(a), file_of(b)) in files
        and ordered(a, b) not in known
    ]


def relation_sentences(
    relations: Sequence[Relation], *, whole: bool = False
) -> list[tuple[RelationKind, str]]:
    """Return kind and text of relations; models that are all the same are named together.

    What holds of one of them and another model is said once: it holds of all.

    Args:
        whole: whether to name all of these, or twelve at most.
    """
    most = None if whole else _SHOWN_SAME
    together = [names for names in _same_bytes(relations) if len(names) > 2]
    stands_for = {name: names[0] for names in together for name in names}
    sentences = [
        (RelationKind.SAME_WEIGHTS, f"{listed(names, most)} hold the same weights")
        for names in together
    ]
    said: set[tuple[RelationKind, frozenset[str]]] = set()
    for relation in relations:
        ends = frozenset(stands_for.get(n, n) for n in (relation.model, relation.other))
        again = ends & stands_for.keys() and (relation.kind, ends) in said
        if not again and not (len(ends) == 1 and relation.same_bytes):
            sentences.append((relation.kind, relation.text))
            said.add((relation.kind, ends))
    return sorted(sentences, key=lambda sentence: sentence[0].rank)


def _same_bytes(relations: Sequence[Relation]) -> list[list[str]]:
    """Return the sets of models that hold the same bytes."""
    if not any(r.same_bytes for r in relations):
        return []
    import networkx as nx  # takes a tenth of a second, and few questions come so far

    same: nx.Graph[str] = nx.Graph()
    same.add_edges_from((r.other, r.model) for r in relations if r.same_bytes)
    return [sorted(names) for names in nx.connected_components(same)]


def _with_all_of_same_bytes(relations: Sequence[Relation]) -> list[Relation]:
    """Add the pairs of models that hold the same bytes, as others of them tell."""
    known = {frozenset((r.model, r.other)) for r in relations}
    same = [r for r in relations if r.same_bytes]
    evidence = {name: r.evidence for r in same for name in (r.model, r.other)}
    added = [
        replace(
            same[0],
            model=b,
            other=a,
            text=f"{printable(a, 80)} and {printable(b, 80)} hold the same weights",
            evidence=evidence[b],
        )
        for names in _same_bytes(relations)
        for a, b in combinations(names, 2)
        if frozenset((a, b)) not in known
    ]
    return sorted([*relations, *added], key=lambda relation: relation.kind.rank)


def _relations(kinship: KinshipFacts, pairs: Sequence[Pair]) -> list[Relation]:
    """Return all relations of pairs of ids, each in the direction given."""
    reader = kinship.reader
    found: dict[tuple[str, str], list[Finding]] = defaultdict(list)
    for finding in reader.findings(pairs, details=len(pairs) <= MOST_DETAILED_PAIRS):
        found[finding.model_a, finding.model_b].append(finding)
    norms, equal_keys = kinship.norms(pairs), kinship.equal_keys(pairs)
    contents = kinship.contents(pairs)
    roundings = whole_roundings(reader.store, (ordered(a, b) for a, b in pairs))
    relations: list[Relation] = []
    for a, b in pairs:
        findings = found[reader.models[a].name, reader.models[b].name]
        evidence = equal_keys[ordered(a, b)]
        shared = contents.get(ordered(a, b))
        rounding = roundings.get(ordered(a, b))
        pair = PairComparison(kinship, a, b, findings, norms, evidence, shared, rounding)
        relations += pair_relations(pair)
    return sorted(relations, key=lambda relation: relation.kind.rank)


class _Families:
    """Models that are tied together."""

    def __init__(self, ids: Iterable[int]) -> None:
        self._of = {model_id: {model_id} for model_id in ids}

    def of(self, model_id: int) -> Collection[int]:
        return self._of[model_id]

    def tie(self, a: int, b: int) -> bool:
        """Tie two models, and return whether they were not tied before."""
        if self._of[a] is self._of[b]:
            return False
        self._of[a] |= self._of[b]
        for member in self._of[b]:
            self._of[member] = self._of[a]
        return True


def _ties(kinship: KinshipFacts, known: set[Pair]) -> list[Pair]:
    """Return few pairs that tie together the models whose components are all equal.

    Of each large set of them a spanning tree of the closest relations; then each model that is a
    part of another, each whose UNet is the EMA copy of another, and shards that follow each other.
    """
    sets: dict[ComponentSet, list[int]] = defaultdict(list)
    for model_id in sorted(kinship.equal.components_of):
        if components := kinship.component_set(model_id):
            sets[components].append(model_id)
    ties = [pair for ids in sets.values() for pair in _tied(kinship, ids, known)]
    for components, ids in sets.items():
        wholes = [whole for other, others in sets.items() if components < other for whole in others]
        ties += _nearest_whole(kinship, ids, wholes)
    ties += [ordered(*pair) for pair in kinship.ema_as_unet]
    ties += [
        ordered(copy, original)
        for copy in sorted(kinship.coded)
        for original in _fullest(kinship, copy, kinship.quantised_from(copy))
    ]
    ties += _neighbouring_shards(kinship)
    return [pair for pair in dict.fromkeys(ties) if pair in known]


def _nearest_whole(kinship: KinshipFacts, ids: Sequence[int], wholes: Sequence[int]) -> list[Pair]:
    """Return one pair of a model that is a part and one it is a part of, of equal bytes if any."""
    equal = kinship.equal

    def rank(pair: Pair) -> tuple[bool, int, Pair]:
        shared = sorted(equal.components_of[pair[0]] & equal.components_of[pair[1]])
        same = all(equal.bytes_of(pair[0], c) == equal.bytes_of(pair[1], c) for c in shared)
        return not same, kinship.unlike(pair), pair

    some = [ordered(a, b) for a in ids[:_MOST_IN_ALL_PAIRS] for b in wholes[:_MOST_IN_ALL_PAIRS]]
    return [min(some, key=rank)] if some else []


def _fullest(kinship: KinshipFacts, copy: int, originals: Collection[int]) -> list[int]:
    """Return the one of some originals that has most in common with a copy, and nothing else."""
    return sorted(originals, key=lambda one: (kinship.unlike(ordered(copy, one)), one))[:1]


def _neighbouring_shards(kinship: KinshipFacts) -> list[Pair]:
    """Return the pairs of shards that follow each other, as their names say."""
    shards = [
        (*shard, model.id)
        for model in kinship.reader.models.values()
        if (shard := shard_name(model.name)) is not None
    ]
    return [
        ordered(one[-1], other[-1])
        for one, other in pairwise(sorted(shards))
        if (one[0], one[2]) == (other[0], other[2])
    ]


def _tied(kinship: KinshipFacts, ids: Sequence[int], known: set[Pair]) -> list[Pair]:
    """Return all pairs of a few models of equal components; of many, a spanning tree."""
    if len(ids) <= _MOST_IN_ALL_PAIRS:
        return sorted(known & set(combinations(ids, 2)))
    return _spanning_tree(kinship, ids, known)


def _spanning_tree(kinship: KinshipFacts, ids: Sequence[int], known: set[Pair]) -> list[Pair]:
    """Return a spanning tree of models of equal components, by the closest relations."""

    def rank(pair: Pair) -> tuple[int, bool, Pair]:
        equal, (a, b) = kinship.equal, pair
        same_bytes = all(equal.bytes_of(a, c) == equal.bytes_of(b, c) for c in equal.used(a))
        return kinship.unlike(pair), not same_bytes, pair

    families = _Families(ids)
    candidates = sorted(known & set(combinations(ids, 2)), key=rank)
    return [pair for pair in candidates if families.tie(*pair)]


def _nearest_pairs(kinship: KinshipFacts, known: set[Pair], ties: Iterable[Pair]) -> list[Pair]:
    """Return for each family of tied models the pair that is nearest to any other."""
    families = _Families(kinship.equal.components_of)
    for pair in ties:
        families.tie(*pair)
    nearest: dict[int, tuple[bool, float, int, int, Pair]] = {}
    for pair, distance in kinship.distances.items():
        a, b = (min(families.of(model_id)) for model_id in pair)
        if a == b or pair not in known:
            continue
        without = kinship.without_distance[pair]
        candidate = (without > 0, distance, without, kinship.unlike(pair), pair)
        for family in (a, b):
            nearest[family] = min(nearest.get(family, candidate), candidate)
    return sorted({pair for *_, pair in nearest.values()})
