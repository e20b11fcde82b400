"""What is odd about single models: broken positions, NaN, empty layers, missing parts; and what
their metadata claims."""

from __future__ import annotations

import json
import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from megasim.anatomy.classification import DENOISERS, component_members, component_title
from megasim.errors import printable
from megasim.findings.key_lists import describe_keys
from megasim.store.batches import table_of
from megasim.store.rows import Model, Store
from megasim.wording.sentences import counted, listed

BROKEN_POSITIONS = "broken_positions"
NON_FINITE = "non_finite"
ZERO_LAYERS = "zero_layers"
MIXED_DTYPES = "mixed_dtypes"
MISSING_PARTS = "missing_parts"

# The gravest first.
KINDS = (NON_FINITE, BROKEN_POSITIONS, ZERO_LAYERS, MIXED_DTYPES, MISSING_PARTS)

# Where trainers and mergers write what a model is said to be.
_CLAIMS = ("modelspec.", "ss_", "sd_merge", "merge", "recipe", "epoch", "global_step")
_NO_CLAIMS = ("ss_tag_frequency", "ss_bucket_info", "ss_dataset_dirs", "ss_datasets")
_LONGEST_CLAIM = 240
_LONG_HASH = re.compile("[0-9a-f]{32,}")
_SHOWN_HASH = 10
_MOST_CLAIMS = 40
_SHOWN_POSITIONS = 5


@dataclass(frozen=True, slots=True)
class HealthNote:
    """One oddity of one model.

    Attributes:
        kind: one of `KINDS`.
        component: where; "" for the model as a whole.
        keys: how many keys it concerns.
        text: the oddity in one sentence, safe to print.
    """

    model: str
    kind: str
    component: str
    keys: int
    text: str

    @property
    def rank(self) -> int:
        """The place of its kind, the gravest first."""
        return KINDS.index(self.kind)

    def to_json(self) -> dict[str, Any]:
        """Return plain strings and numbers."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class MetadataClaim:
    """What the metadata of a model claims; a stranger's words, shortened and safe to print."""

    model: str
    key: str
    value: str

    def to_json(self) -> dict[str, str]:
        """Return plain strings."""
        return asdict(self)


def model_health(store: Store, models: Iterable[str] | None = None) -> list[HealthNote]:
    """Return what is odd about all models, or about some, the gravest of each model first.

    Models known from published distances have no tensors here, and no notes.

    Raises:
        UsageError: an unknown model.
    """
    known = {model.id: model for model in _chosen(store, models)}
    notes = [
        *_odd_keys(store, known),
        *_positions(store, known),
        *_mixed_dtypes(store, known),
        *_missing_parts(store, known),
    ]
    order = {model.name: place for place, model in enumerate(known.values())}
    return sorted(notes, key=lambda n: (order[n.model], n.rank, n.component, n.text))


def metadata_claims(store: Store, models: Iterable[str] | None = None) -> list[MetadataClaim]:
    """Return what the metadata of all models, or of some, says of their origin and training.

    Raises:
        UsageError: an unknown model.
    """
    claims = []
    for model in _chosen(store, models):
        said = [(key, value) for key, value in sorted(model.metadata.items()) if _is_claim(key)]
        claims += [
            MetadataClaim(model.name, printable(key, 80), printable(_brief(value), _LONGEST_CLAIM))
            for key, value in said[:_MOST_CLAIMS]
            if value not in (None, "", "None", "null")
        ]
    return claims


def _chosen(store: Store, models: Iterable[str] | None) -> list[Model]:
    return store.models(ids=set(store.model_ids(models).values()))


def _is_claim(key: str) -> bool:
    name = key.removeprefix("__metadata__.")
    return name.startswith(_CLAIMS) and name not in _NO_CLAIMS


def _brief(value: Any, depth: int = 3) -> Any:
    """Return JSON that a program wrote into a claim as a person would: what it says, no more.

    >>> _brief('{"type": "webui", "multiplier": 0.3, "custom_name": null, "calc": {"a": [1, 2]}}')
    'type webui, multiplier 0.3, calc (a 1, 2)'
    """
    if isinstance(value, str) and value[:1] in ("{", "["):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            return value
    if isinstance(value, str) and _LONG_HASH.fullmatch(value):
        return value[:_SHOWN_HASH]
    if not isinstance(value, dict | list):
        return value
    if not depth:
        return "…"
    pairs = value.items() if isinstance(value, dict) else (("", item) for item in value)
    said = [(_brief(key), _brief(item, depth - 1), item) for key, item in pairs if item]
    return ", ".join(
        f"{key} ({text})" if key and isinstance(item, dict) else f"{key} {text}".lstrip()
        for key, text, item in said
    )


def _odd_keys(store: Store, models: Mapping[int, Model]) -> list[HealthNote]:
    odd: dict[tuple[int, str, str], list[tuple[str, str | None]]] = defaultdict(list)
    counts: Counter[tuple[int, str]] = Counter()
    infinite: Counter[tuple[int, str]] = Counter()
    for model_id, component, key, block, nans, infs, *_ in store.rows("odd_keys"):
        kind = NON_FINITE if nans + infs else ZERO_LAYERS
        odd[model_id, component, kind].append((key, block))
        counts[model_id, component] += nans
        infinite[model_id, component] += infs
    places = sorted({(model_id, component) for model_id, component, _ in odd})
    batch = table_of(["model_id", "component"], places)
    among: dict[tuple[int, str], list[str]] = defaultdict(list)
    for model_id, component, key in store.rows("keys_of_component", tables={"batch": batch}):
        among[model_id, component].append(key)
    notes = []
    for (model_id, component, kind), rows in odd.items():
        if model_id not in models:
            continue
        keys = dict(rows)
        named = describe_keys(list(keys), among[model_id, component], blocks=keys)
        title = component_title(component)
        if kind == NON_FINITE:
            numbers = ((counts, "NaN"), (infinite, "infinite"))
            said = [f"{n[model_id, component]:,} {w}" for n, w in numbers if n[model_id, component]]
            text = f"{title}: {' and '.join(said)} in {counted(len(keys), 'key')}: {named}"
        else:
            text = f"{title}: {counted(len(keys), 'key')} all zero: {named}"
        name = models[model_id].name
        notes.append(HealthNote(name, kind, component, len(keys), printable(text, 400)))
    return notes


def _positions(store: Store, models: Mapping[int, Model]) -> list[HealthNote]:
    notes = []
    for model_id, component, key, dtype, values in store.rows(
        "position_ids", tables={"batch": {"model_id": list(models)}}
    ):
        text = describe_positions(values)
        if model_id in models and text:
            text = f"{component_title(component)}: {text} ({printable(key, 120)}, {dtype})"
            notes.append(HealthNote(models[model_id].name, BROKEN_POSITIONS, component, 1, text))
    return notes


def describe_positions(values: Sequence[float]) -> str:
    """Say how positions differ from 0, 1, 2 …; "" when they do not.

    Programs cast them to int64, which cuts fractions off: the embedding of another position is
    taken then.

    >>> describe_positions([0, 1, 2, 3])
    ''
    >>> describe_positions([0, 0.9995, 2, 2.998])
    'position_ids broken: 0.9995 at 1, 2.998 at 3; as int64, 1 became 0, 3 became 2'
    """
    wrong = [(place, value) for place, value in enumerate(values) if value != place]
    if not wrong:
        return ""
    shown = [f"{value:.6g} at {place}" for place, value in wrong]
    text = f"position_ids broken: {listed(shown, _SHOWN_POSITIONS)}; "
    cast = {p: int(v) if math.isfinite(v) else None for p, v in wrong}
    moved = [f"{p} became {c}" for p, c in cast.items() if c is not None and c != p]
    lost = [f"{p} has no integer" for p, c in cast.items() if c is None]
    if not moved and not lost:
        return text + "as int64 they are whole again"
    return text + f"as int64, {listed([*moved, *lost], 3 * _SHOWN_POSITIONS)}"


def _mixed_dtypes(store: Store, models: Mapping[int, Model]) -> list[HealthNote]:
    notes = []
    for model_id, component, dtypes, keys in store.rows(
        "float_dtypes", tables={"batch": {"model_id": list(models)}}
    ):
        if model_id in models:
            said = " and ".join(
                f"{counted(n, 'key')} in {d}" for d, n in zip(dtypes, keys, strict=True)
            )
            text = f"{component_title(component)}: {said}"
            notes.append(
                HealthNote(models[model_id].name, MIXED_DTYPES, component, sum(keys[1:]), text)
            )
    return notes


def _missing_parts(store: Store, models: Mapping[int, Model]) -> list[HealthNote]:
    """Say what a model that has a UNet or transformer lacks to make images."""
    components_of: dict[int, set[str]] = defaultdict(set)
    for model_id, component in store.rows("held_components"):
        components_of[model_id].add(component)
    notes = []
    for model_id, components in components_of.items():
        if model_id not in models or components.isdisjoint(DENOISERS):
            continue
        lacking = [
            component_title(part)
            for part in ("text_encoder", "vae")
            if components.isdisjoint(component_members(part))
        ]
        lacking += [
            component_title(part)
            for part in ("vae_encoder", "vae_decoder")
            if not components.isdisjoint(component_members("vae")) and part not in components
        ]
        if lacking:
            ending = "load it from elsewhere" if len(lacking) == 1 else "load them from elsewhere"
            text = f"{', '.join(f'no {title}' for title in lacking)}: {ending}"
            notes.append(HealthNote(models[model_id].name, MISSING_PARTS, "", 0, text))
    return notes
