"""What the store knows of models and pairs, as the lineage takes it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping

from megasim.claims import Claim
from megasim.evidence import ModelFacts, PairFacts
from megasim.matrix_loading import member_names
from megasim.store import Store

_TIERS = (
    *("identical", "same_values", "same_at_fp16", "same_at_bf16", "changed"),
    *("missing_a", "missing_b", "shape_mismatch", "non_finite"),
)


def load_model_facts(store: Store, component: str) -> list[ModelFacts]:
    """Return what is known of each model; `dtype` is that of `component`, or of its members."""
    members = set(member_names(store, component))
    norms: dict[str, dict[str, float]] = defaultdict(dict)
    kurtosis: dict[str, dict[str, float]] = defaultdict(dict)
    dtypes: dict[str, str] = {}
    keys: dict[str, int] = defaultdict(int)
    for name, part, norm, mean_kurtosis, dtype, count in store.rows("model_facts"):
        keys[name] += count
        if norm is not None:
            norms[name][part] = norm
        if mean_kurtosis is not None:
            kurtosis[name][part] = mean_kurtosis
        if part in members:
            dtypes.setdefault(name, dtype)
    facts = []
    for model in store.models():
        held = norms[model.name]
        if component not in held and members & held.keys():
            held[component] = sum(held[p] ** 2 for p in sorted(members & held.keys())) ** 0.5
        facts.append(
            ModelFacts(
                name=model.name,
                keys=keys[model.name],
                dtype=dtypes.get(model.name, ""),
                bytes=model.bytes or 0,
                epoch=_whole(model.metadata.get("epoch")),
                global_step=_whole(model.metadata.get("global_step")),
                norms=held,
                kurtosis=kurtosis[model.name],
                metadata=model.metadata,
            )
        )
    return facts


def load_pair_facts(store: Store) -> list[PairFacts]:
    """Return the identity tiers of each pair that the store knows, component by component."""
    tiers: dict[tuple[str, str], dict[str, Mapping[str, int]]] = defaultdict(dict)
    for a, b, component, *counts in store.rows("pair_facts"):
        tiers[a, b][component] = {t: c or 0 for t, c in zip(_TIERS, counts, strict=True)}
    return [PairFacts(a, b, found) for (a, b), found in tiers.items()]


def stated_parents(claims: list[Claim], models: list[str]) -> dict[tuple[str, str], str]:
    """Return (parent, child) → where it is written that the one was made from the other."""
    from megasim.claims import resolve_name

    stated = {}
    for claim in claims:
        for written in claim.parents:
            parent = resolve_name(written, models)
            if parent is not None and parent != claim.model:
                stated[parent, claim.model] = claim.origin
    return stated


def _whole(value: object) -> int | None:
    try:
        return int(str(value))
    except ValueError:
        return None
