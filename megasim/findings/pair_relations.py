"""How two whole models are related: the smallest relation that is true of them."""

from __future__ import annotations

from megasim.findings.changed_models import replaced, tuned
from megasim.findings.containment import (
    relation_of_equals,
    shards_of_one_model,
    under_other_keys,
)
from megasim.findings.layout_relations import layers_moved, other_layout
from megasim.findings.pair_comparison import PairComparison, Relation
from megasim.findings.profile_relations import permuted, rows_added
from megasim.findings.quantised import (
    quantised,
    quantised_alike,
    quantised_and_changed,
    scales_lost,
    scales_of_another,
)
from megasim.findings.small_differences import all_but_few, damaged, kept_ema, rescaled, widened


def pair_relations(pair: PairComparison) -> list[Relation]:
    """Return the relations of a pair, from the closest on; none when the models are unrelated.

    Models that are equal in all that both hold are the same, a cast, or a part of each other. Else
    they may be equal but for one thing, or but for a few keys. Only then is it said that
    components were replaced or trained. Of a model that was not read in full nothing is said.
    """
    if not all(pair.model(model_id).is_full for model_id in (pair.a, pair.b)):
        return []  # a relation is of all that models hold
    if not any(f.counts is None or f.counts.common for f in pair.common) or not pair.complete:
        found = (
            other_layout(pair)
            or under_other_keys(pair)
            or shards_of_one_model(pair)
            or layers_moved(pair)
        )
        return [found] if found else []
    if not pair.altered and not pair.other_networks:
        if pair.unproven:
            return []
        found = other_layout(pair) or relation_of_equals(pair)
        return [found] if found else []
    small = (
        damaged,
        quantised,
        quantised_alike,
        kept_ema,
        rescaled,
        widened,
        rows_added,
        other_layout,
        permuted,
        layers_moved,
        all_but_few,
        under_other_keys,
    )
    for found_by in (*small, scales_lost, scales_of_another, quantised_and_changed):
        relation = found_by(pair)
        if relation is not None:
            return [relation]
    return [*replaced(pair), *tuned(pair)]
