"""What the store knows of models and pairs, as the lineage takes it."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

import networkx as nx

from megasim.errors import printable
from megasim.lineage.claims import Claim, resolve_name
from megasim.lineage.evidence import ModelFacts, PairFacts
from megasim.lineage.settings import SETTINGS, LineageSettings
from megasim.store.batches import Table, pair_table
from megasim.store.matrices import member_names
from megasim.store.roundings import PairRounding, load_roundings
from megasim.store.rows import Store

_TIERS = (
    *("identical", "same_values", "same_at_fp16", "same_at_bf16", "changed"),
    *("missing_a", "missing_b", "shape_mismatch", "non_finite", "same_in_sample"),
)

# Counts, and what is written anew with each checkpoint of a run.
_VARY_IN_A_RUN = frozenset(
    (
        *("epoch", "global_step", "ss_steps", "ss_epoch", "time", "hash"),
        *("sshs_model_hash", "sshs_legacy_hash", "ss_training_finished_at", "modelspec.date"),
        *("modelspec.hash_sha256", "modelspec.title"),
    )
)


def load_model_facts(
    store: Store,
    component: str,
    settings: LineageSettings = SETTINGS,
    *,
    models: Sequence[str] | None = None,
) -> list[ModelFacts]:
    """Return what is known of models; `dtype` is that of `component`, or of its members.

    Args:
        models: names; all when None.
    """
    ids = store.model_ids(models)
    chosen = {"chosen": {"model_id": list(ids.values())}}
    members = set(member_names(store, component))
    norms: dict[str, dict[str, float]] = defaultdict(dict)
    own: dict[str, dict[str, float]] = defaultdict(dict)
    kurtosis: dict[str, dict[str, float]] = defaultdict(dict)
    dtypes: dict[str, str] = {}
    schemes: dict[str, str] = {}
    keys: dict[str, int] = defaultdict(int)
    non_finite: dict[str, set[str]] = defaultdict(set)
    rows = store.rows("model_facts", tables=chosen, same_scale=settings.same_scale)
    for name, part, norm, own_norm, mean_kurtosis, dtype, count, broken, scheme in rows:
        keys[name] += count
        if broken:
            non_finite[name] |= {part, component} if part in members else {part}
        if norm is not None:
            norms[name][part] = norm
            own[name][part] = own_norm
        if mean_kurtosis is not None:
            kurtosis[name][part] = mean_kurtosis
        if part in members:
            dtypes.setdefault(name, dtype)
            schemes[name] = schemes.get(name) or scheme
    counters: dict[str, dict[str, float]] = defaultdict(dict)
    for name, key, count in store.rows("counters", tables=chosen):
        counters[name][key] = count
    facts = []
    for model in (model for model in store.models() if model.name in ids):
        for known in (norms[model.name], own[model.name]):
            if component not in known and members & known.keys():
                known[component] = sum(known[p] ** 2 for p in sorted(members & known.keys())) ** 0.5
        facts.append(
            ModelFacts(
                name=model.name,
                keys=keys[model.name],
                dtype=dtypes.get(model.name, ""),
                scheme=schemes.get(model.name, ""),
                bytes=model.bytes or 0,
                counts=step_counts(model.metadata),
                counters=counters[model.name],
                run=run_label(model.metadata),
                norms=norms[model.name],
                own_norms=own[model.name],
                kurtosis=kurtosis[model.name],
                metadata=model.metadata,
                non_finite=frozenset(non_finite[model.name]),
            )
        )
    return facts


def step_counts(metadata: Mapping[str, object]) -> dict[tuple[str, str], int]:
    """Return how far a training had come, by its metadata; the surest to compare first.

    Steps that kohya's trainer counts (`ss_steps`) are compared within the run of one name and
    session. Lightning (`epoch`, `global_step`) names no run: see `megasim.lineage.runs`.

    >>> step_counts({"epoch": 13, "global_step": "470000"})
    {('step count', 'global step'): 470000, ('epoch count', 'epoch'): 13}
    """
    session = metadata.get("ss_session_id")
    run = f"run {printable(metadata.get('ss_output_name', ''), 60)}"
    run += ":" if session is None else f" (session {printable(session, 30)}):"
    read = {
        ("same run", f"{run} step"): metadata.get("ss_steps"),
        ("same run", f"{run} epoch"): metadata.get("ss_epoch"),
        ("step count", "global step"): metadata.get("global_step"),
        ("epoch count", "epoch"): metadata.get("epoch"),
    }
    whole = {unit: _whole(value) for unit, value in read.items()}
    return {unit: count for unit, count in whole.items() if count is not None}


def run_label(metadata: Mapping[str, object]) -> str:
    """Return what the metadata says apart from how far a training had come, and when.

    Checkpoints of one run agree in it; so may those of two runs, if they say little.

    >>> run_label({"epoch": 3, "lr": 0.1}) == run_label({"epoch": 9, "lr": 0.1})
    True
    >>> run_label({"epoch": 3, "lr": 0.1}) == run_label({"epoch": 9, "lr": 0.2})
    False
    """
    kept = {key: value for key, value in metadata.items() if key not in _VARY_IN_A_RUN}
    return json.dumps(kept, sort_keys=True, default=repr)


def load_weight_sets(
    store: Store, component: str, *, models: Sequence[str] | None = None
) -> dict[str, str]:
    """Return model → the first model, by name, with the same weights in a component.

    The same is what hashes say: every key equal, once rounded to half precision at most; or what
    the codes of a quantised model are proved to be made of.

    Args:
        models: names, and only these are sorted into sets; all when None.
    """
    members = member_names(store, component)
    sets: nx.utils.UnionFind[str] = nx.utils.UnionFind()
    first: dict[tuple[str, str], str] = {}
    ids = store.model_ids(models)
    tables: dict[str, Table] = {
        "batch": {"component": members},
        "chosen": {"model_id": list(ids.values())},
    }
    rows = store.rows("weight_signatures", tables=tables)
    for name, at_fp16, at_bf16 in rows:
        for signature in (("float16", at_fp16), ("bfloat16", at_bf16)):
            sets.union(first.setdefault(signature, name), name)
    names = {model_id: name for name, model_id in ids.items()}
    known = store.pairs()
    done = [
        (a, b)
        for a, b in zip(known["model_a"].tolist(), known["model_b"].tolist(), strict=True)
        if a in names and b in names
    ]
    roundings: dict[tuple[int, int], PairRounding] = defaultdict(PairRounding)
    for (a, b, part), rounding in load_roundings(store, done).items():
        if part in members:
            roundings[a, b] = roundings[a, b] + rounding
    for (a, b), rounding in sorted(roundings.items()):
        if rounding.explains_all:
            sets.union(names[a], names[b])
    return {name: min(group) for group in sets.to_sets() for name in group}


def load_statistics(store: Store) -> frozenset[str]:
    """Return the keys of running statistics, as of normalisation layers."""
    return frozenset(key for (key,) in store.rows("statistics"))


def load_layer_norms(
    store: Store, component: str, models: Sequence[str]
) -> dict[str, dict[str, float]]:
    """Return model → canonical key → L2 of its tensor in a component; without those with NaN."""
    found: dict[str, dict[str, float]] = {name: {} for name in models}
    tables: dict[str, dict[str, object]] = {
        "batch": {"component": member_names(store, component)},
        "chosen": {"model_id": list(store.model_ids(models).values())},
    }
    for name, key, l2 in store.rows("layer_norms", tables=tables):
        found[name][key] = l2
    return found


def load_ema_copies(store: Store) -> set[tuple[str, str]]:
    """Return (model with EMA copy, model) whose UNet is that copy, at fp16 at least."""
    names = {model_id: name for name, model_id in store.model_ids().items()}
    return {
        (names[full], names[small])
        for full, small, keys, _, same_at_fp16 in store.rows("ema_matches")
        if full != small and same_at_fp16 == keys
    }


def load_pair_facts(store: Store, pairs: Iterable[tuple[str, str]]) -> list[PairFacts]:
    """Return the identity tiers of some pairs, as far as the store knows, by component."""
    ids = store.model_ids()
    wanted = pair_table((min(ids[a], ids[b]), max(ids[a], ids[b])) for a, b in pairs)
    tiers: dict[tuple[str, str], dict[str, Mapping[str, int]]] = defaultdict(dict)
    for a, b, component, *counts in store.rows("pair_facts", tables={"batch": wanted}):
        tiers[a, b][component] = {t: c or 0 for t, c in zip(_TIERS, counts, strict=True)}
    return [PairFacts(a, b, found) for (a, b), found in tiers.items()]


def load_compared_models(store: Store, models: Sequence[str]) -> frozenset[str]:
    """Return those of some models of which keys were compared with those of another of them."""
    chosen = {"chosen": {"model_id": list(store.model_ids(models).values())}}
    return frozenset(name for (name,) in store.rows("compared_models", tables=chosen))


def stated_parents(claims: list[Claim], models: list[str]) -> dict[tuple[str, str], str]:
    """Return (parent, child) → where it is written that the one was made from the other."""
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
