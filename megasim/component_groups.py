"""Which models hold the same component: which VAE, which text encoder is this?"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from megasim import identity
from megasim.anatomy import component_members, component_title
from megasim.errors import printable
from megasim.findings import NEVER_USED, Finding, Teller, component_order
from megasim.pair_sentences import VERDICT_WORDS
from megasim.store import Pair, Store

_VAE_PARTS = component_members("vae")[1:]


@dataclass(frozen=True, slots=True)
class ComponentGroup:
    """Models that hold the same component.

    Attributes:
        component: "vae" for all parts of a VAE together.
        models: their names, in the order they came.
        verdict: the weakest tier that holds among them.
        identical: the names by equal bytes; one set when the verdict is "identical".
        known: names of those among `models` that are known from a fingerprint file.
        keys, parameters: of the first model; None for published models.
    """

    component: str
    models: tuple[str, ...]
    verdict: str
    identical: tuple[tuple[str, ...], ...]
    known: tuple[str, ...]
    keys: int | None
    parameters: int | None

    @property
    def title(self) -> str:
        """What people call the component."""
        return component_title(self.component)

    def sentence(self, limit: int = 12) -> str:
        """Say who holds it, naming at most `limit` models."""
        text = f"{self.title}: the same in {len(self.models)} models"
        if self.verdict != identity.IDENTICAL:
            text += f" ({VERDICT_WORDS[self.verdict]})"
        text += ": " + listed(self.models, limit)
        known = [name for name in self.known if name in self.models]
        return text + (f"; known by fingerprint: {listed(known, limit)}" if known else "")

    def to_json(self) -> dict[str, Any]:
        """Return plain lists and numbers."""
        return {
            "component": self.component,
            "models": list(self.models),
            "verdict": self.verdict,
            "identical": [list(names) for names in self.identical],
            "known": list(self.known),
            "keys": self.keys,
            "parameters": self.parameters,
        }


def listed(names: Sequence[str], limit: int) -> str:
    """Return names safe to print, at most `limit` of them.

    >>> listed(["a", "b", "c", "d"], 3)
    'a, b and 2 more'
    """
    shown = names if len(names) <= limit else names[: limit - 1]
    text = ", ".join(printable(name, 80) for name in shown)
    return text + (f" and {len(names) - len(shown)} more" if len(shown) < len(names) else "")


class _Classes:
    """Classes of equal things, grown by saying which two are equal (union-find)."""

    def __init__(self) -> None:
        self._parent: dict[int, int] = {}

    def of(self, item: int) -> int:
        """Return the least member of the class of an item."""
        root = item
        while (parent := self._parent.get(root, root)) != root:
            root = parent
        self._parent[item] = root
        return root

    def join(self, a: int, b: int) -> None:
        low, high = sorted((self.of(a), self.of(b)))
        self._parent[high] = low


class Equalities:
    """Which models hold equal components, by signature, and by findings where there are none.

    Trivial components, all of whose tensors are constant or tiny, equal nothing.
    """

    def __init__(self, teller: Teller) -> None:
        self.teller = teller
        self.held: dict[int, set[str]] = defaultdict(set)
        self._exact: dict[str, _Classes] = defaultdict(_Classes)
        self._rounded: dict[str, _Classes] = defaultdict(_Classes)
        self._verdicts: dict[tuple[str, int, int], str] = {}
        self._add_signatures()
        pairs: list[Pair] = [(a, b) for a, b in teller.store.rows("pairs_beside_signatures")]
        ids = {model.name: model.id for model in teller.models.values()}
        for finding in teller.findings(pairs, details=False):
            self._add_finding(finding, ids)

    def _add_signatures(self) -> None:
        first: dict[tuple[str, str, str], int] = {}
        for (model_id, component), fact in self.teller.facts.items():
            self.held[model_id].add(component)
            if component in NEVER_USED or not fact.telling:
                continue
            signatures = {"same_bytes": fact.same_bytes, "same_values": fact.same_values}
            signatures |= {"fp16": fact.same_at_fp16, "bf16": fact.same_at_bf16}
            signatures |= {
                name: value
                for name, value in (
                    ("used", fact.used_values),
                    ("used_fp16", fact.used_at_fp16),
                    ("used_bf16", fact.used_at_bf16),
                )
                if value is not None
            }
            for kind, signature in signatures.items():
                other = first.setdefault((component, kind, signature), model_id)
                self._rounded[component].join(model_id, other)
                if kind == "same_bytes":
                    self._exact[component].join(model_id, other)

    def _add_finding(self, finding: Finding, ids: Mapping[str, int]) -> None:
        a, b, component = ids[finding.model_a], ids[finding.model_b], finding.component
        if finding.verdict == identity.ABSENT or component in NEVER_USED:
            return
        if finding.verdict != identity.ABSENT_A:
            self.held[a].add(component)
        if finding.verdict != identity.ABSENT_B:
            self.held[b].add(component)
        proven = finding.source != "imported" or finding.keys_compared is not None
        if finding.equal and proven and self._is_telling(a, b, component):
            self._rounded[component].join(a, b)
            if finding.verdict == identity.IDENTICAL:
                self._exact[component].join(a, b)
            else:
                self._verdicts[component, min(a, b), max(a, b)] = finding.verdict

    def _is_telling(self, a: int, b: int, component: str) -> bool:
        facts = [self.teller.facts.get((m, component)) for m in (a, b)]
        return all(fact is None or fact.telling > 0 for fact in facts)

    def class_of(self, model_id: int, component: str) -> int:
        """Return what stands for the class of equal components: its first model."""
        return self._rounded[component].of(model_id)

    def bytes_of(self, model_id: int, component: str) -> int:
        """Return what stands for the class of components of equal bytes: its first model."""
        return self._exact[component].of(model_id)

    def used(self, model_id: int) -> frozenset[str]:
        """Return the components of a model that its family uses."""
        return used_components(self.held[model_id])

    def verdict(self, models: Sequence[int], component: str) -> str:
        """Return the weakest tier that holds among models of one class."""
        first, *others = models
        return identity.weakest(
            [identity.IDENTICAL, *(self._tier(first, other, component) for other in others)]
        )

    def _tier(self, a: int, b: int, component: str) -> str:
        if self.bytes_of(a, component) == self.bytes_of(b, component):
            return identity.IDENTICAL
        one, other = (self.teller.facts.get((m, component)) for m in (a, b))
        if one is None or other is None:
            key = (component, min(a, b), max(a, b))
            return self._verdicts.get(key, identity.SAME_WHERE_USED)
        for tier in identity.TIERS[1:]:
            if getattr(one, tier) == getattr(other, tier):
                return tier
        return self._verdicts.get((component, min(a, b), max(a, b)), identity.SAME_WHERE_USED)


def used_components(components: Iterable[str]) -> frozenset[str]:
    """Return those that make images, or, in other models, all but what training left behind.

    >>> sorted(used_components(["unet", "ema", "other"])), sorted(used_components(["other"]))
    (['unet'], ['other'])
    """
    used = frozenset(components) - frozenset(NEVER_USED)
    known = used & component_order().keys() - {"other"}
    return known or used


def shared_components(store: Store, equalities: Equalities | None = None) -> list[ComponentGroup]:
    """Return the groups of two or more models that hold the same component, largest first.

    A VAE that is the same as a whole comes as "vae"; its parts come by themselves only where other
    models share them. Components that are never used are left out.
    """
    equal = Equalities(Teller(store)) if equalities is None else equalities
    members: dict[tuple[str, tuple[int, ...]], list[int]] = defaultdict(list)
    for model_id in sorted(equal.held):
        used = equal.used(model_id)
        for component in used:
            members[component, (equal.class_of(model_id, component),)].append(model_id)
        parts = [part for part in _VAE_PARTS if part in used]
        if len(parts) > 1:
            classes = tuple(equal.class_of(model_id, part) for part in parts)
            members["vae", classes].append(model_id)
    whole = {tuple(ids) for (component, _), ids in members.items() if component == "vae"}
    groups = [
        _group(equal, component, ids)
        for (component, _), ids in members.items()
        if len(ids) > 1 and not (component in _VAE_PARTS and tuple(ids) in whole)
    ]
    order = component_order()
    return sorted(
        groups,
        key=lambda g: (-len(g.models), order.get(g.component, -1), g.component, g.models),
    )


def _group(equal: Equalities, component: str, ids: Sequence[int]) -> ComponentGroup:
    models = equal.teller.models
    parts = [part for part in _VAE_PARTS if part in equal.held[ids[0]]]
    parts = parts if component == "vae" and parts else [component]
    facts = [equal.teller.facts.get((ids[0], part)) for part in parts]
    known = [fact for fact in facts if fact is not None]
    same_bytes: dict[tuple[int, ...], list[str]] = defaultdict(list)
    for model_id in ids:
        classes = tuple(equal.bytes_of(model_id, part) for part in parts)
        same_bytes[classes].append(models[model_id].name)
    return ComponentGroup(
        component=component,
        models=tuple(models[i].name for i in ids),
        verdict=identity.weakest(equal.verdict(ids, part) for part in parts),
        identical=tuple(tuple(names) for names in same_bytes.values()),
        known=tuple(models[i].name for i in ids if models[i].source == "fingerprints"),
        keys=sum(fact.keys for fact in known) if known else None,
        parameters=sum(fact.parameters for fact in known) if known else None,
    )
