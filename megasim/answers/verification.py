"""Whether one model is another one, up to what is allowed: a gate for pipelines.

Only what is proved passes. Equal contents are proved by their bytes, a cast by the hash of the
values, or of the values rounded to the type that they were cast to; a quantisation by what compare
measured of the two contents: that every value lies within half a step. What leaves no such trace is
said not to be proved, and does not pass.
"""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final, TypeAlias

from megasim.answers.held_keys import HeldKey, HeldKeys
from megasim.compare.renames import find_renames
from megasim.errors import UsageError, printable
from megasim.representation.logical import PLAIN
from megasim.words import Nature, Unread

_SHOWN = 10  # differences that text shows
_ROUNDED: Final = {"float16": "fp16_hash", "bfloat16": "bf16_hash"}
# Of what a quantisation writes beside its codes.
_OF_CODES: Final = ("scale", "zero", "absmax", "quant_map", "quant_state", "scb", "g_idx")


class Allowance(StrEnum):
    """What may be otherwise in B."""

    CAST = "cast"  # another dtype, the numbers the same or rounded to it
    PRUNE = "prune"  # keys left out
    RENAME = "rename"  # other key names, or the layout of another library
    QUANT = "quant"  # codes and scales for numbers: allowed, and proved where no value changed


class Outcome(StrEnum):
    """What a verification came to, from the worst."""

    DIFFERS = "differs"
    UNPROVED = "unproved"
    VERIFIED = "verified"


@dataclass(frozen=True)
class KeyResult:
    """What became of one key: of A, of B, or of both.

    Attributes:
        outcome: whether it is the same up to what is allowed.
        how: "identical", an allowance, or what is wrong: "missing", "added", "shape", "dtype",
            "values", "unread".
        problem: in words; "" where nothing is.
    """

    key_a: str | None
    key_b: str | None
    component: str
    outcome: Outcome
    how: str
    problem: str = ""

    def to_json(self) -> dict[str, str | None]:
        """Return one entry of `differences` or `unproved`."""
        return {
            "key_a": self.key_a,
            "key_b": self.key_b,
            "component": self.component,
            "how": self.how,
            "problem": self.problem,
        }

    @property
    def text(self) -> str:
        """The line that says what is wrong."""
        names = [printable(k, 120) for k in (self.key_a, self.key_b) if k is not None]
        return f"{' → '.join(dict.fromkeys(names))}: {self.problem}"


@dataclass(frozen=True)
class Verification:
    """Whether B is A up to what is allowed, key by key.

    Attributes:
        a, b: names of the models.
        allowed: what may be otherwise.
        keys: what became of each key, in the order of A, then those that only B has.
        notes: what was not looked at.
    """

    a: str
    b: str
    allowed: tuple[Allowance, ...]
    keys: tuple[KeyResult, ...]
    notes: tuple[str, ...] = field(default=())

    @property
    def outcome(self) -> Outcome:
        """The worst of all keys; DIFFERS where B holds nothing of A."""
        found = {key.outcome for key in self.keys}
        held = any(k.key_a is not None and k.key_b is not None for k in self.keys)
        if Outcome.DIFFERS in found or not held:
            return Outcome.DIFFERS
        return Outcome.UNPROVED if Outcome.UNPROVED in found else Outcome.VERIFIED

    @property
    def differences(self) -> list[KeyResult]:
        """The keys by which B is not A."""
        return [key for key in self.keys if key.outcome is Outcome.DIFFERS]

    @property
    def unproved(self) -> list[KeyResult]:
        """The keys of which nothing contradicts that they are the same, and nothing proves it."""
        return [key for key in self.keys if key.outcome is Outcome.UNPROVED]

    @property
    def counts(self) -> dict[str, int]:
        """How many keys came out how."""
        return dict(sorted(Counter(key.how for key in self.keys).items()))

    def to_json(self) -> dict[str, object]:
        """Return what `megasim verify --json` promises."""
        return {
            "a": self.a,
            "b": self.b,
            "allowed": [str(one) for one in self.allowed],
            "outcome": str(self.outcome),
            "counts": self.counts,
            "differences": [key.to_json() for key in self.differences],
            "unproved": [key.to_json() for key in self.unproved],
            "notes": list(self.notes),
        }

    def lines(self) -> list[str]:
        """Return the answer, and the first keys that speak against it."""
        a, b = printable(self.a, 80), printable(self.b, 80)
        told = ", ".join(f"{how} {count:,}" for how, count in self.counts.items())
        upto = f" up to {', '.join(self.allowed)}" if self.allowed else ""
        head = {
            Outcome.VERIFIED: f"{b} is {a}{upto}",
            Outcome.UNPROVED: f"not proved that {b} is {a}{upto}: nothing contradicts it",
            Outcome.DIFFERS: f"{b} is not {a}{upto}",
        }[self.outcome]
        lines = [f"{head} (keys: {told or 'none'})"]
        for title, keys in (("differs", self.differences), ("not proved", self.unproved)):
            lines += [f"  {title}: {key.text}" for key in keys[:_SHOWN]]
            if len(keys) > _SHOWN:
                lines.append(f"  {title}: and {len(keys) - _SHOWN:,} more, which --json lists")
        return lines

    def junit(self) -> str:
        """Return the result as JUnit XML: a test case for each component."""
        groups: dict[str, list[KeyResult]] = {}
        for key in self.keys:
            groups.setdefault(key.component, []).append(key)
        if not groups or (self.outcome is Outcome.DIFFERS and not self.differences):
            groups.setdefault("all", [])
        suite = ET.Element("testsuite", name=f"megasim verify {_xml(self.a)} {_xml(self.b)}")
        failures = errors = 0
        for component, keys in sorted(groups.items()):
            case = ET.SubElement(suite, "testcase", classname=_xml(self.b), name=_xml(component))
            bad = [key for key in keys if key.outcome is Outcome.DIFFERS]
            open_ = [key for key in keys if key.outcome is Outcome.UNPROVED]
            if bad or not keys:
                failures += 1
                message = f"{len(bad)} of {len(keys)} keys differ" if keys else "nothing in common"
                _report(case, "failure", message, bad)
            elif open_:
                errors += 1
                _report(case, "error", f"{len(open_)} of {len(keys)} keys are not proved", open_)
        suite.set("tests", str(len(groups)))
        suite.set("failures", str(failures))
        suite.set("errors", str(errors))
        ET.indent(suite)
        return ET.tostring(suite, encoding="unicode", xml_declaration=True) + "\n"


def _report(case: ET.Element, kind: str, message: str, keys: list[KeyResult]) -> None:
    element = ET.SubElement(case, kind, message=message)
    element.text = "\n".join(_xml(key.text) for key in keys[:100])


def _xml(text: str) -> str:
    return printable(text, 1000)


Roundings: TypeAlias = Mapping[tuple[str, str], tuple[int, int]]
"""Two content hashes, of A and of B → how many values were looked at, and how many of them lie
within half a step of the codes."""


def verify_keys(
    a: HeldKeys, b: HeldKeys, allow: Collection[str] = (), roundings: Roundings | None = None
) -> Verification:
    """Hold what B holds against what A holds.

    Args:
        allow: names of `Allowance`.
        roundings: what compare has measured of these contents.

    Raises:
        UsageError: an unknown allowance.
    """
    unknown = sorted(set(allow) - set(Allowance))
    if unknown:
        raise UsageError(
            f"{printable(unknown[0])!r} cannot be allowed",
            f"choose from {', '.join(Allowance)}",
        )
    allowed = tuple(one for one in Allowance if one in set(allow))
    partner = {key: key for key in a.keys if key in b.keys}
    if Allowance.RENAME in allowed:
        partner |= _renamed(a.keys, b.keys, partner)
    results = []
    for key, held in a.keys.items():
        if key in partner:
            results.append(_compare(held, b.keys[partner[key]], allowed, roundings or {}))
        elif Allowance.PRUNE in allowed:
            results.append(
                KeyResult(key, None, held.component, Outcome.VERIFIED, str(Allowance.PRUNE))
            )
        else:
            results.append(_lone(key, None, held, "missing", "is not in B"))
    taken = set(partner.values())
    for key, held in b.keys.items():
        if key in taken:
            continue
        if Allowance.QUANT in allowed and _is_of_codes(held):
            problem = "belongs to codes, which are not decoded"
            results.append(KeyResult(None, key, held.component, Outcome.UNPROVED, "quant", problem))
        else:
            results.append(_lone(None, key, held, "added", "is not in A"))
    notes = [
        f"{printable(side.name, 80)}: not compared: {printable(place, 80)}"
        for side in (a, b)
        for place in side.beside
    ]
    return Verification(a.name, b.name, allowed, tuple(results), tuple(notes))


def _lone(key_a: str | None, key_b: str | None, held: HeldKey, how: str, problem: str) -> KeyResult:
    return KeyResult(key_a, key_b, held.component, Outcome.DIFFERS, how, problem)


def _renamed(
    a: Mapping[str, HeldKey], b: Mapping[str, HeldKey], partner: Mapping[str, str]
) -> dict[str, str]:
    """Return keys of A with those of B that hold them under another name.

    First by the names that both are known under in their families, then as models are aligned that
    are compared: by the prefixes that equal contents speak for.
    """
    found: dict[str, str] = {}
    taken = set(partner.values())
    left = {held.canonical_key: key for key, held in a.items() if key not in partner}
    right = {held.canonical_key: key for key, held in b.items() if key not in taken}
    for canonical in left.keys() & right.keys():
        found[left[canonical]] = right[canonical]
    side_a = {held.canonical_key: held.named() for held in a.values() if not held.unread}
    side_b = {held.canonical_key: held.named() for held in b.values() if not held.unread}
    for rename in find_renames(side_a, side_b):
        for key_a, key_b in rename.keys:
            if key_a in left and key_b in right:
                found.setdefault(left[key_a], right[key_b])
    return found


def _compare(
    a: HeldKey, b: HeldKey, allowed: Collection[Allowance], roundings: Roundings
) -> KeyResult:
    """Return what two keys that stand for each other come to."""
    measured, within = roundings.get((a.content_hash or "", b.content_hash or ""), (0, 0))
    is_proved = 0 < measured == within == a.numel

    def result(outcome: Outcome, how: str, problem: str = "") -> KeyResult:
        return KeyResult(a.key, b.key, a.component, outcome, how, problem)

    def unlike(how: str, problem: str) -> KeyResult:
        if Allowance.QUANT in allowed and b.representation not in (PLAIN, a.representation):
            if is_proved:
                return result(Outcome.VERIFIED, str(Allowance.QUANT))
            told = f"other values, as {b.representation} leaves them or not: no hash proves it"
            if measured:
                told = f"{measured - within:,} of {measured:,} values lie more than half a step "
                told += f"from those of {b.representation}"
            return result(Outcome.UNPROVED, "quant", told)
        # codes have another dtype, and often another shape
        if Allowance.QUANT in allowed and _may_be_codes(a, b):
            told = f"{b.dtype} codes of {a.dtype} are not decoded"
            return result(Outcome.UNPROVED, "quant", told)
        return result(Outcome.DIFFERS, how, problem)

    same = "identical" if a.key == b.key else str(Allowance.RENAME)
    if a.unread or b.unread:
        if a.unread and b.unread and a.digest is not None and b.digest is not None:
            if (a.digest, a.dtype, a.shape) == (b.digest, b.dtype, b.shape):
                return result(Outcome.VERIFIED, same)
            return unlike("unread", f"could not be read ({b.unread}), and its bytes differ")
        side = "B" if b.unread else "A"
        why = b.unread or a.unread
        if why in (Unread.ABSENT, Unread.PLACEHOLDER):
            return result(Outcome.DIFFERS, "unread", f"has no values in {side} ({why})")
        if a.unread and b.unread:
            return result(Outcome.UNPROVED, "unread", f"could not be read ({why})")
        return unlike("dtype", f"{b.dtype} instead of {a.dtype}, which could not be read in {side}")
    if a.shape != b.shape:
        undone = Allowance.RENAME in allowed and a.canonical_shape == b.canonical_shape
        if not undone:
            return unlike("shape", f"shape {_times(b.shape)} instead of {_times(a.shape)}")
    if a.content_hash == b.content_hash:
        return result(Outcome.VERIFIED, same)
    if b.infs > a.infs:
        return result(Outcome.DIFFERS, "values", f"{b.infs - a.infs} more elements are infinite")
    if a.value_hash == b.value_hash and Allowance.CAST in allowed:
        return result(Outcome.VERIFIED, str(Allowance.CAST))
    if a.representation != b.representation:
        if a.value_hash == b.value_hash and Allowance.QUANT in allowed:
            return result(Outcome.VERIFIED, str(Allowance.QUANT))
        if Allowance.QUANT in allowed or PLAIN not in (b.representation, a.representation):
            return unlike("values", f"{b.representation} of other values")
        if b.representation != PLAIN:
            return unlike("dtype", f"{b.representation} instead of {a.dtype}")
    if a.dtype == b.dtype:
        equal = a.value_hash == b.value_hash
        problem = "the numbers are equal, but not their bytes" if equal else "other values"
        return result(Outcome.DIFFERS, "values", problem)
    if Allowance.CAST not in allowed:
        return unlike("dtype", f"{b.dtype} instead of {a.dtype}")
    rounded = _ROUNDED.get(b.dtype or "")
    if rounded is not None:
        if getattr(a, rounded) == getattr(b, rounded):
            return result(Outcome.VERIFIED, str(Allowance.CAST))
        return unlike("values", f"not the values of A rounded to {b.dtype}")
    if "float" in (b.dtype or ""):
        if is_proved:
            return result(Outcome.VERIFIED, str(Allowance.CAST))
        told = f"a rounding of {a.dtype} to {b.dtype} leaves no hash to prove it by"
        return result(Outcome.UNPROVED, str(Allowance.CAST), told)
    return unlike("values", f"{b.dtype} of other values")


def _may_be_codes(a: HeldKey, b: HeldKey) -> bool:
    """Whether B may hold codes for the numbers that A holds."""
    if a.dtype is None or "float" not in a.dtype:
        return False
    return b.unread == Unread.DTYPE or b.unread == Unread.LAYOUT or b.dtype in (
        *("int8", "uint8", "int32", "uint32", "int16", "uint16"),
        *("float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz"),
    )  # fmt: skip


def _is_of_codes(held: HeldKey) -> bool:
    """Whether a key that only B has is one that a quantisation adds."""
    last = held.key.rpartition(".")[2].lower()
    return held.nature in (Nature.SCALE, Nature.CODE) or any(word in last for word in _OF_CODES)


def _times(shape: tuple[int, ...] | None) -> str:
    return "unknown" if shape is None else "×".join(map(str, shape)) or "()"
