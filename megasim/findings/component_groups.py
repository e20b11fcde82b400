"""Which models hold the same component: which VAE, which text encoder is this?"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from megasim.anatomy.classification import component_members, component_title
from megasim.findings.known_components import Fingerprints, load_known, names_of, short
from megasim.findings.pair_sentences import VERDICT_WORDS, component_list
from megasim.findings.verdicts import NEVER_USED, Finding, FindingsReader, component_order
from megasim.store.rows import Pair, Store
from megasim.wording.html import html_lines
from megasim.wording.sentences import counted, joined, listed
from megasim.words import ModelSource, Source, Verdict, weakest

ModelComponent = tuple[int, str]
"""The id of a model and one of its components, as that model calls it."""

_VAE_PARTS = component_members("vae")[1:]
# So many names need no count before them.
_MANY_OTHERS = 3
# Components of a model of an unknown family that get figures of their own, the largest first.
_MOST_GENERIC = 4
_SIGNATURES = (
    (Verdict.IDENTICAL, "same_bytes"),
    (Verdict.SAME_VALUES, "same_values"),
    (Verdict.SAME_AT_FP16, "same_at_fp16"),
    (Verdict.SAME_AT_BF16, "same_at_bf16"),
    (Verdict.SAME_WHERE_USED, "used_values"),
    (Verdict.SAME_WHERE_USED, "used_at_fp16"),
    (Verdict.SAME_WHERE_USED, "used_at_bf16"),
)


@dataclass(frozen=True, slots=True)
class ComponentGroup:
    """Models that hold the same component.

    Attributes:
        component: "vae" for all parts of a VAE together.
        models: their names, in the order they came.
        verdict: the weakest tier that holds among them.
        identical: the names by equal bytes; one set when the verdict is "identical".
        known: names of those among `models` that are known from a fingerprint file.
        known_as: the names that the user gave to the component. See `known_components`.
        fingerprints: of the component in these models, that of most of them first; more than one
            where they are equal under other keys, or at bf16 alone; none where not all was read.
        keys, parameters: of the first model; None for published models.
    """

    component: str
    models: tuple[str, ...]
    verdict: Verdict
    identical: tuple[tuple[str, ...], ...]
    known: tuple[str, ...]
    keys: int | None
    parameters: int | None
    known_as: tuple[str, ...] = ()
    fingerprints: tuple[str, ...] = ()

    @property
    def title(self) -> str:
        """What people call the component."""
        return component_title(self.component)

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
            "known_as": list(self.known_as),
            "fingerprints": list(self.fingerprints),
        }


class ComponentGroups(list[ComponentGroup]):
    """Groups that show themselves in a notebook as sentences."""

    def __repr__(self) -> str:
        return f"<{counted(len(self), 'group')} of models with the same component>"

    def _repr_html_(self) -> str:
        return html_lines(group_sentences(self, fingerprints=True), "Shared components")


def of_files(models: Collection[str]) -> str:
    """Say of how many files some models are, where several are parts of one file.

    >>> of_files(["train", "train#ema", "released"]), of_files(["train", "released"])
    (' of 2 files', '')
    """
    files = {name.partition("#")[0] for name in models}
    return f" of {counted(len(files), 'file')}" if len(files) < len(models) else ""


def group_sentences(
    groups: Iterable[ComponentGroup], limit: int | None = 12, *, fingerprints: bool = False
) -> list[str]:
    """Say who holds which component; what the same models share is said at once.

    Args:
        limit: the most models to name; all when None.
        fingerprints: whether to tell those of the components, too.
    """
    sentences = []
    for titles, models, how, known, alike in _by_models(groups):
        count = f"the same in {len(models)} models{of_files(models)}{how}: "
        text = f"{titles}: {count if len(models) > 1 else 'only in '}{listed(models, limit)}{known}"
        sentences.append(text + (_fingerprint_text(alike) if fingerprints else ""))
    return sentences


def _fingerprint_text(alike: Sequence[ComponentGroup]) -> str:
    """Return the fingerprints of groups of the same models, as the end of a sentence."""
    parts = []
    for group in alike:
        several = f" and {len(group.fingerprints) - 1} more" if len(group.fingerprints) > 1 else ""
        what = f"{group.title} " if len(alike) > 1 else ""
        parts += [f"{what}{short(f)}{several}" for f in group.fingerprints[:1]]
    return f"; fingerprint {', '.join(parts)}" if parts else ""


def other_holders(
    groups: Iterable[ComponentGroup], among: Collection[str], limit: int | None = 12
) -> list[str]:
    """Say which other models hold what some models do.

    Args:
        among: the names of those models.
        limit: the most models to name; all when None.
    """
    sentences = []
    whole: set[tuple[str, ...]] = set()
    for titles, models, how, known, _ in _by_models(sorted(groups, key=_is_part_of_vae)):
        inside = tuple(name for name in models if name in among)
        others = [name for name in models if name not in among]
        if inside and not others and known:
            holders = "both" if len(inside) == len(among) == 2 else listed(inside, limit)
            sentences.append(f"{titles} of {holders}: {known.removeprefix('; ')}")
        # That still others share a part of a VAE says less than who shares all of it.
        if not inside or not others or (titles.startswith("VAE ") and inside in whole):
            continue
        whole |= {inside} if titles.endswith("VAE") else set()
        holders = "both" if len(inside) == len(among) == 2 else listed(inside, limit)
        count = f"{len(others):,} others: " if len(others) > _MANY_OTHERS else ""
        sentences.append(
            f"{titles} of {holders}: also in {count}{listed(others, limit)}{how}{known}"
        )
    return sentences


def _is_part_of_vae(group: ComponentGroup) -> bool:
    return group.component in _VAE_PARTS


def _by_models(
    groups: Iterable[ComponentGroup],
) -> Iterator[tuple[str, tuple[str, ...], str, str, list[ComponentGroup]]]:
    """Yield (titles, models, tier unless they are identical, as what it is known, the groups)."""
    groups_of: dict[tuple[tuple[str, ...], Verdict], list[ComponentGroup]] = defaultdict(list)
    for group in groups:
        groups_of[group.models, group.verdict].append(group)
    for (models, verdict), alike in groups_of.items():
        how = "" if verdict == Verdict.IDENTICAL else f" ({VERDICT_WORDS[verdict]})"
        known = listed(alike[0].known, len(alike[0].known))
        known = f"; known by fingerprint: {known}" if known else ""
        titles = component_list([group.component for group in alike])
        yield titles, models, how, _known_as(alike) + known, alike


def _known_as(alike: Sequence[ComponentGroup]) -> str:
    """Return the names of groups of the same models, as the end of a sentence."""
    names = [
        (f"{group.title} " if len(alike) > 1 else "") + listed(group.known_as, len(group.known_as))
        for group in alike
        if group.known_as
    ]
    return f"; known as {joined(names)}" if names else ""


class _Classes:
    """Classes of equal parts, grown by saying which two are equal (union-find)."""

    def __init__(self) -> None:
        self._parent: dict[ModelComponent, ModelComponent] = {}

    def of(self, part: ModelComponent) -> ModelComponent:
        """Return the least member of the class of a part."""
        root = part
        while (parent := self._parent.get(root, root)) != root:
            root = parent
        self._parent[part] = root
        return root

    def join(self, a: ModelComponent, b: ModelComponent) -> None:
        low, high = sorted((self.of(a), self.of(b)))
        self._parent[high] = low


class Equalities:
    """Which models hold equal components, by signature, and by findings where there are none.

    Trivial components, all of whose tensors are constant or tiny, equal nothing. What one family
    calls its text encoder may be the first of two in another.

    Attributes:
        components_of: the components of each model, by its id.
    """

    def __init__(self, reader: FindingsReader) -> None:
        self.reader = reader
        self.fingerprints = Fingerprints(reader.facts, reader.unread)
        self.known = load_known(reader.store)
        self.components_of: dict[int, set[str]] = defaultdict(set)
        # Those of a tier hold what is equal in it or in a stronger one.
        self._classes = {tier: _Classes() for tier in Verdict if tier.is_equal}
        self._add_signatures()
        pairs: list[Pair] = [(a, b) for a, b in reader.store.rows("pairs_beside_signatures")]
        ids = {model.name: model.id for model in reader.models.values()}
        for finding in reader.findings(pairs, details=False):
            self._add_finding(finding, ids[finding.model_a], ids[finding.model_b])

    def _add_signatures(self) -> None:
        for model_id in self.reader.models:
            unread_keys = self.reader.unread.of(model_id).values()
            self.components_of[model_id].update(key.component for key in unread_keys)
        first: dict[Hashable, ModelComponent] = {}
        for (model_id, component), fact in self.reader.facts.items():
            self.components_of[model_id].add(component)
            unread = self.reader.unread.signature(model_id, (component,))
            if component in NEVER_USED or not fact.telling or unread is None:
                continue
            for tier, name in _SIGNATURES:
                signature = getattr(fact, name)
                if signature is not None:
                    part = (model_id, component)
                    place = (component, name, signature, unread)
                    self._join(tier, part, first.setdefault(place, part))

    def _add_finding(self, finding: Finding, a: int, b: int) -> None:
        if finding.verdict == Verdict.ABSENT or finding.component in NEVER_USED:
            return
        names = self.reader.rows.names_of(a, b, finding.component)
        parts = ((a, names[0][0]), (b, names[1][0]))
        if finding.verdict != Verdict.ABSENT_A:
            self.components_of[a].add(parts[0][1])
        if finding.verdict != Verdict.ABSENT_B:
            self.components_of[b].add(parts[1][1])
        proven = finding.source != Source.IMPORTED or finding.keys_compared is not None
        if (
            finding.equal
            and proven
            and all(map(self._is_telling, parts))
            and not self.reader.rows.is_regrouped(a, b, finding.component)
        ):
            self._join(finding.verdict, *parts)

    def _join(self, tier: Verdict, a: ModelComponent, b: ModelComponent) -> None:
        for verdict, classes in self._classes.items():
            if verdict.rank >= tier.rank:
                classes.join(a, b)

    def _is_telling(self, part: ModelComponent) -> bool:
        fact = self.reader.facts.get(part)
        return fact is None or fact.telling > 0

    def class_of(self, model_id: int, component: str) -> ModelComponent:
        """Return what stands for the class of equal components: its first member."""
        return self._classes[Verdict.SAME_WHERE_USED].of((model_id, component))

    def bytes_of(self, model_id: int, component: str) -> ModelComponent:
        """Return what stands for the class of components of equal bytes: its first member."""
        return self._classes[Verdict.IDENTICAL].of((model_id, component))

    def used(self, model_id: int) -> frozenset[str]:
        """Return the components of a model that its family uses."""
        return used_components(self.components_of[model_id])

    def verdict(self, parts: Iterable[ModelComponent]) -> Verdict:
        """Return the strongest tier that ties all of some equal components together."""
        members = list(parts)
        for tier, classes in self._classes.items():
            if len(set(map(classes.of, members))) == 1:
                return tier
        raise ValueError("the components are not equal")


def used_components(components: Iterable[str]) -> frozenset[str]:
    """Return those that make images, or, in other models, all but what training left behind.

    >>> sorted(used_components(["unet", "ema", "other"])), sorted(used_components(["other"]))
    (['unet'], ['other'])
    """
    used = frozenset(components) - frozenset(NEVER_USED)
    known = used & component_order().keys() - {"other"}
    return known or used


def main_components(held: Sequence[str]) -> tuple[str, ...]:
    """Return the components that make images, or else the first of a generic model.

    >>> main_components(["vae_decoder", "ema", "text_encoder", "unet", "vae_encoder"])
    ('unet', 'text_encoder', 'vae')
    """
    vae = component_members("vae")
    named = {"vae" if name in vae else name for name in held if name not in NEVER_USED}
    known = [name for name in component_order() if name in named and name != "other"]
    generic = [name for name in held if name in named and name not in component_order()]
    return (*known, *generic[:_MOST_GENERIC])


def shared_components(store: Store, equalities: Equalities | None = None) -> ComponentGroups:
    """Return the groups of models that hold the same component, largest first.

    Two models or more; one alone where its component has a name. See `known_components`.

    A VAE that is the same as a whole comes as "vae"; its parts come by themselves only where other
    models share them. Components that are never used are left out.
    """
    equal = Equalities(FindingsReader(store)) if equalities is None else equalities
    members: dict[tuple[ModelComponent, ...], list[ModelComponent]] = defaultdict(list)
    wholes: dict[tuple[ModelComponent, ...], list[list[ModelComponent]]] = defaultdict(list)
    for model_id in sorted(equal.components_of):
        used = equal.used(model_id)
        for component in sorted(used):
            members[(equal.class_of(model_id, component),)].append((model_id, component))
        vae = [(model_id, part) for part in _VAE_PARTS if part in used]
        if len(vae) > 1:
            wholes[tuple(equal.class_of(*part) for part in vae)].append(vae)
    named = {known.component for known in equal.known}
    groups = [
        _group(equal, "vae", vaes) for vaes in wholes.values() if len(vaes) > 1 or "vae" in named
    ]
    whole_vaes = {group.models for group in groups}
    for parts in map(_one_of_each_model, members.values()):
        if len(parts) > 1 or parts[0][1] in named:
            group = _group(equal, parts[0][1], [[part] for part in parts])
            if group.component not in _VAE_PARTS or group.models not in whole_vaes:
                groups.append(group)
    groups = [group for group in groups if len(group.models) > 1 or group.known_as]
    order = component_order()
    return ComponentGroups(
        sorted(
            groups,
            key=lambda g: (-len(g.models), order.get(g.component, -1), g.component, g.models),
        )
    )


def _one_of_each_model(parts: Sequence[ModelComponent]) -> list[ModelComponent]:
    """Return the first component of each model: one that holds the same twice is one model.

    >>> _one_of_each_model([(1, "dec"), (1, "ema"), (2, "dec")])
    [(1, 'dec'), (2, 'dec')]
    """
    first: dict[int, ModelComponent] = {}
    for part in parts:
        first.setdefault(part[0], part)
    return list(first.values())


def _group(
    equal: Equalities, component: str, members: Sequence[Sequence[ModelComponent]]
) -> ComponentGroup:
    """Return the group of some models, of each of which the same parts are given."""
    models = equal.reader.models
    facts = [fact for part in members[0] if (fact := equal.reader.facts.get(part)) is not None]
    same_bytes: dict[tuple[ModelComponent, ...], list[str]] = defaultdict(list)
    for parts in members:
        classes = tuple(equal.bytes_of(*part) for part in parts)
        same_bytes[classes].append(models[parts[0][0]].name)
    ids = [parts[0][0] for parts in members]
    found = Counter(f for parts in members if (f := equal.fingerprints.of(parts)) is not None)
    fingerprints = tuple(fingerprint for fingerprint, _ in found.most_common())
    return ComponentGroup(
        component=component,
        models=tuple(models[i].name for i in ids),
        verdict=weakest(map(equal.verdict, zip(*members, strict=True))),
        identical=tuple(tuple(names) for names in same_bytes.values()),
        known=tuple(models[i].name for i in ids if models[i].source == ModelSource.FINGERPRINTS),
        keys=sum(fact.keys for fact in facts) if facts else None,
        parameters=sum(fact.parameters for fact in facts) if facts else None,
        known_as=names_of(equal.known, component, fingerprints),
        fingerprints=fingerprints,
    )
