"""The rules of the anatomy: out of the tables of `data/` and a user's own, and asked by key.

`docs/anatomy.md` says what each table holds and how a user writes one.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache, partial
from pathlib import Path

from megasim.anatomy.patterns import Pattern, Template, split_key
from megasim.anatomy.tables import Row, read_table
from megasim.errors import printable
from megasim.resources import resource_path

# Networks that are no part of an image model. "generic" in a table stands for all of them.
OTHER_FAMILIES = (
    *("language model", "vision-language model", "CLIP", "SigLIP"),
    *("ViT", "Whisper", "T5", "YOLO", "YOLOv5"),
    "generic",
)
FAMILIES = (
    *("SD1", "SD2", "SDXL", "SDXL refiner", "SD3", "Flux"),
    *("Wan", "Qwen-Image", "LTX", "HunyuanVideo", "VAE"),
    *OTHER_FAMILIES,
)

# How much to remember of keys: several times what real models have, too little for a hostile file
# to fill the memory with.
_MOST_REMEMBERED = 20_000

Labels = tuple[str | None, ...]


@dataclass(frozen=True, slots=True)
class Rule:
    """Keys that fit `pattern` get `value`. No families means all of them.

    For a canonical key: the tensor is part `part` of `of` along dim 0, or is transposed, or has the
    halves of its rows the other way round; and the rule holds only for files with the key `needs`.
    """

    families: frozenset[str]
    pattern: Pattern
    value: Template
    part: int = 1
    of: int = 1
    transposed: bool = False
    swapped: bool = False
    needs: Template | None = None


# A number that is a name by itself, as of a layer; of so many digits as a wildcard takes.
_NUMBER = re.compile(r"(?<=[./])[0-9]{1,9}(?=[./])")
_DIGITS = re.compile(r"[0-9]+")
# What tells numbers apart that a pattern does not name: digits that a wildcard goes on with, as in
# `1*`, or that go on with one or with other digits.
_PART_OF_NUMBER = re.compile(r"(?<![A-Za-z_)0-9])[0-9]+[*{]|[*}][0-9]|\([^()]*[0-9./][^()]*\)[0-9]")


class Column:
    """The rules that decide one thing for one family, in order.

    Each rule is filed under the rarest names that its keys must have, so that a key meets few.
    """

    def __init__(self, rules: Iterable[Rule], family: str) -> None:
        self._rules = [rule for rule in rules if not rule.families or family in rule.families]
        common = Counter(n for r in self._rules for names in r.pattern.required for n in names)
        self._filed: dict[str, list[int]] = {}
        self._unfiled: list[int] = []
        for place, rule in enumerate(self._rules):
            if not rule.pattern.required:
                self._unfiled.append(place)
                continue
            rarest = min(rule.pattern.required, key=lambda names: max(common[n] for n in names))
            for name in rarest:
                self._filed.setdefault(name, []).append(place)
        self._names = frozenset(self._filed)
        self._met: dict[frozenset[str], tuple[Rule, ...]] = {}
        # Which rule fits keys that differ only in numbers that no rule names: see `_alike`.
        self._fitting: dict[str, Rule | None] = {}
        texts = [rule.pattern.text for rule in self._rules]
        self._numbers = frozenset(n for text in texts for n in _DIGITS.findall(text))
        self._other = str(1 + max(map(int, self._numbers), default=-1))
        self._tells_numbers = any(map(_PART_OF_NUMBER.search, texts)) or len(self._other) > 9

    def candidates(self, names: frozenset[str]) -> tuple[Rule, ...]:
        """Return the rules that a key of these names may fit, in order."""
        known = names & self._names
        met = self._met.get(known)
        if met is None:
            places = {place for name in known for place in self._filed[name]}
            met = tuple(self._rules[i] for i in sorted(places.union(self._unfiled)))
            if len(self._met) < _MOST_REMEMBERED:
                self._met[known] = met
        return met

    def decide(self, key: str) -> str | None:
        """Return what the first fitting rule gives; None when none fits."""
        alike = key if self._tells_numbers else _NUMBER.sub(self._alike, key)
        if alike in self._fitting:
            rule = self._fitting[alike]
        else:
            rule = self._first_fit(key)
            if len(self._fitting) < _MOST_REMEMBERED:
                self._fitting[alike] = rule
        if rule is None:
            return None
        if rule.value.literal is not None:
            return rule.value.literal
        found = rule.pattern.match(key)
        return None if found is None else rule.value.fill(found)

    def _alike(self, found: re.Match[str]) -> str:
        """Return a number of a key as it is where a rule names it, else one that none names."""
        number = found[0]
        return number if number in self._numbers else self._other

    def _first_fit(self, key: str) -> Rule | None:
        for rule in self.candidates(frozenset(split_key(key))):
            pattern = rule.pattern
            # As pattern.match would, without its call: this is the inner loop.
            if pattern.needle in key and pattern.regex.fullmatch(key) is not None:
                return rule
        return None


@dataclass(frozen=True, slots=True)
class FileLayout:
    """A way files name their tensors: `add` is put before keys whose first name is in `names`."""

    name: str
    prefix: str
    add: str
    names: frozenset[str]


@dataclass(frozen=True, slots=True)
class Signature:
    """A key, or the beginning of one, that shows a family or variant; None in a shape is any."""

    name: str
    key: str
    shape: tuple[int | None, ...] | None


@dataclass(frozen=True, slots=True)
class ComponentName:
    """A component: its title for people, its other names, and the whole it belongs to."""

    name: str
    title: str
    aliases: tuple[str, ...]
    part_of: str


@dataclass(frozen=True, slots=True)
class FamilyRules:
    """The columns of one family."""

    canonical: Column
    component: Column
    block: Column
    role: Column
    _labels: dict[str, Labels] = field(default_factory=dict, repr=False)

    def labels(self, key: str) -> Labels:
        """Return (component, block, role) of a canonical key; None where no rule fits.

        They are remembered: the models of a family have the same keys.
        """
        labels = self._labels.get(key)
        if labels is None:
            labels = tuple(c.decide(key) for c in (self.component, self.block, self.role))
            if len(self._labels) < _MOST_REMEMBERED:
                self._labels[key] = labels
        return labels


@dataclass(frozen=True, eq=False)
class Rules:
    """All rules, as read from the tables. `digest` changes with any of them.

    `renames` are the user's; they are applied before all else.
    """

    renames: tuple[Rule, ...]
    canonical: tuple[Rule, ...]
    component: tuple[Rule, ...]
    block: tuple[Rule, ...]
    role: tuple[Rule, ...]
    layouts: tuple[FileLayout, ...]
    families: tuple[Signature, ...]
    variants: tuple[Signature, ...]
    digest: str
    _compiled: dict[str, FamilyRules] = field(default_factory=dict, repr=False)

    @cached_property
    def renamed(self) -> Column:
        """The user's renames."""
        return Column(self.renames, "")

    def of_family(self, family: str) -> FamilyRules:
        """Return the columns that hold for a family."""
        if family not in self._compiled:
            canonical, component, block, role = (
                Column(rules, family)
                for rules in (self.canonical, self.component, self.block, self.role)
            )
            self._compiled[family] = FamilyRules(canonical, component, block, role)
        return self._compiled[family]


def _parse_families(text: str) -> frozenset[str]:
    families = frozenset(name.strip() for name in text.split("|")) if text else frozenset()
    if unknown := sorted(families - set(FAMILIES)):
        raise ValueError(f"no family {printable(unknown[0])!r}; there are {', '.join(FAMILIES)}")
    return families.union(OTHER_FAMILIES) if "generic" in families else families


def _families(row: Row) -> frozenset[str]:
    return row.read("family", _parse_families)


def _template(row: Row, column: str, pattern: Pattern) -> Template:
    return row.read(column, lambda text: Template.parse(text, pattern))


_LABELS = ("component", "block", "role")


def _label_rules(rows: Iterable[Row]) -> dict[str, list[Rule]]:
    rules: dict[str, list[Rule]] = {label: [] for label in _LABELS}
    for row in rows:
        pattern = row.read("pattern", Pattern.parse)
        families = _families(row)
        if row["component"] == "-":
            raise row.error("component", "every tensor has a component; use `other`")
        for label in _LABELS:
            if row[label]:
                rules[label].append(Rule(families, pattern, _template(row, label, pattern)))
    return rules


def _user_rules(path: Path) -> tuple[list[Rule], dict[str, list[Rule]]]:
    """Read a user's table: its renames, and its labels."""
    rows = read_table(path, ("family", "pattern", "canonical", *_LABELS), ("pattern",))
    renames, labelling = [], []
    for row in rows:
        if not any(row[column] for column in ("canonical", *_LABELS)):
            raise row.error("pattern", "the row says nothing about these keys")
        if not row["canonical"]:
            labelling.append(row)
            continue
        for column in ("family", *_LABELS):
            if row[column]:
                raise row.error(column, "a row with a canonical key is a rename and nothing else")
        pattern = row.read("pattern", Pattern.parse)
        renames.append(Rule(frozenset(), pattern, _template(row, "canonical", pattern)))
    return renames, _label_rules(labelling)


# How a tensor as a whole differs from the canonical one.
_HOW = ("transposed", "halves swapped")


def _parse_part(text: str) -> tuple[int, int]:
    found = re.fullmatch(r"([1-9])/([1-9])", text)
    if found is None or int(found[1]) > int(found[2]):
        raise ValueError(
            f"{printable(text)!r} is no part such as 1/3, nor one of {', '.join(_HOW)}"
        )
    return int(found[1]), int(found[2])


def _canonical_rules(places: Iterable[Row], names: Sequence[Row]) -> tuple[Rule, ...]:
    """Join where components stand with how the tensors inside them are named."""
    rules = []
    for place in places:
        families, prefix, canonical = _families(place), place["prefix"], place["canonical"]
        if not place["naming"]:
            pattern = Pattern.parse(prefix + "**")
            rules.append(Rule(families, pattern, Template.parse(canonical + "**", pattern)))
        for name in names if place["naming"] else ():
            if name["naming"] != place["naming"]:
                continue
            pattern = name.read("pattern", partial(_parse_behind, prefix))
            rules.append(_name_rule(name, families, pattern, prefix, canonical))
    return tuple(rules)


def _parse_behind(prefix: str, pattern: str) -> Pattern:
    return Pattern.parse(prefix + pattern)


def _name_rule(
    row: Row, families: frozenset[str], pattern: Pattern, prefix: str, canonical: str
) -> Rule:
    how = row["how"]
    part, of = row.read("how", _parse_part) if how and how not in _HOW else (1, 1)
    value = row.read("canonical", lambda text: Template.parse(canonical + text, pattern))
    needs = row.read("needs", lambda text: Template.parse(prefix + text, pattern))
    turned, swapped = (how == name for name in _HOW)
    needed = needs if row["needs"] else None
    return Rule(families, pattern, value, part, of, turned, swapped, needed)


def _parse_shape(text: str) -> tuple[int | None, ...] | None:
    return tuple(None if s == "*" else int(s) for s in text.split()) if text else None


def _data(name: str) -> Path:
    return resource_path("data", name)


def _load(extra: Path | None) -> Rules:
    tables = {
        name: _data(f"anatomy{name}.csv")
        for name in ("", "_layouts", "_families", "_places", "_names")
    }
    renames: list[Rule] = []
    own: dict[str, list[Rule]] = {label: [] for label in _LABELS}
    if extra is not None:
        renames, own = _user_rules(extra)
    labels = _label_rules(
        read_table(tables[""], ("family", "pattern", *_LABELS), ("family", "pattern"))
    )
    signatures = read_table(
        tables["_families"], ("decides", "name", "key", "shape"), ("decides", "name", "key")
    )
    place_columns = ("family", "prefix", "naming", "canonical")
    name_columns = ("naming", "pattern", "canonical", "how", "needs")
    layout_columns = ("layout", "prefix", "add", "names")
    digest = hashlib.sha256()
    for path in (*tables.values(), *([extra] if extra else [])):
        digest.update(hashlib.sha256(path.read_bytes()).digest())

    def decided(what: str) -> tuple[Signature, ...]:
        return tuple(
            Signature(row["name"], row["key"], row.read("shape", _parse_shape))
            for row in signatures
            if row["decides"] == what
        )

    return Rules(
        renames=tuple(renames),
        canonical=_canonical_rules(
            read_table(tables["_places"], place_columns, place_columns),
            read_table(tables["_names"], name_columns, name_columns),
        ),
        component=(*own["component"], *labels["component"]),
        block=(*own["block"], *labels["block"]),
        role=(*own["role"], *labels["role"]),
        layouts=tuple(
            FileLayout(row["layout"], row["prefix"], row["add"], frozenset(row["names"].split()))
            for row in read_table(tables["_layouts"], layout_columns, layout_columns)
        ),
        families=decided("family"),
        variants=decided("variant"),
        digest=digest.hexdigest()[:16],
    )


def load_rules(extra: Path | None = None) -> Rules:
    """Return the built-in rules, behind those of the table `extra`.

    Args:
        extra: a CSV table of the user's own rules, as docs/anatomy.md describes.

    Raises:
        UsageError: `extra` cannot be read or has a mistake; it names the line and the column.
    """
    return _built_in() if extra is None else _load(extra)


@lru_cache(maxsize=1)
def _built_in() -> Rules:
    return _load(None)


@lru_cache(maxsize=1)
def load_components() -> tuple[ComponentName, ...]:
    """Return the components that the built-in rules know, in the order people list them."""
    columns = ("component", "title", "aliases", "part_of")
    return tuple(
        ComponentName(row["component"], row["title"], tuple(row["aliases"].split()), row["part_of"])
        for row in read_table(_data("components.csv"), columns, columns)
    )


@lru_cache(maxsize=1)
def load_unused() -> tuple[tuple[Rule, str, str], ...]:
    """Return (rule, component or "", reason) for the keys that a family never uses."""
    columns = ("family", "component", "pattern", "reason")
    unused = []
    for row in read_table(_data("unused_keys.csv"), columns, columns):
        pattern = row.read("pattern", Pattern.parse)
        rule = Rule(_families(row), pattern, Template(()))
        unused.append((rule, row["component"], row["reason"]))
    return tuple(unused)
