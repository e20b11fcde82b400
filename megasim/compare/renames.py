"""Keys that two models hold under different names, found from content.

A tensor that stands in both models under different keys is evidence for a substitution of
prefixes. The substitution that explains the most keys, and contradicts nothing, is applied to
every key it fits, also to those whose content changed. Content is equal as it is, or once both
are rounded to float16 or to bfloat16: a model may be renamed and cast at once. Constant and small
tensors are no evidence, and neither is a content that stands more than once in a model (tied or
repeated weights). Once larger tensors have tied two models together, small ones that are not
constant, such as biases and norms, are evidence too.

Keys whose names are the same but for case, spaces and underscores are the same where their shapes
are. Where no content is equal, names and shapes are tried: first a branch of one model that lies
whole in the other under another prefix; then, if every key has its counterpart, shapes in their
order, which the norms must not contradict. Neither brings a few keys together beside others that
are equal under one name: those are rather lost in one model, and new in the other. Each rename says
on what it rests.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections import Counter
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

# Raised when other renames would be found.
RENAME_VERSION = 3
# Without a single equal content, a substitution that leaves some keys of both models without a
# counterpart is believed only if it fits this many.
LEAST_KEYS_BY_STRUCTURE = 8
# Without equal content, fewer matrices than this cannot be distinguished from chance.
LEAST_MATRICES = 2
# Tensors at the same place of two models trained from the same start, or by the same recipe, have
# norms within this factor of each other.
MOST_NORM_RATIO = 4.0
# How many leading names a prefix found by structure may have.
DEEPEST_PREFIX = 4


@dataclass(frozen=True, slots=True)
class NamedTensor:
    """What a rename is decided from: what stands under a canonical key.

    Attributes:
        shape: its canonical shape.
        contents: what it is equal by, from the strongest: the hash of its values, and of its values
            rounded to float16 and bfloat16. None equals nothing.
        trivial: whether it is too small, or too plain, to be evidence.
        plain: whether it is evidence of nothing even between models that are known to be kin: it
            is constant, or of a few elements.
        norm: its l2; None where it has none.
    """

    shape: str
    contents: tuple[Hashable, ...]
    trivial: bool
    norm: float | None = None
    plain: bool = False


@dataclass(frozen=True, slots=True)
class Rename:
    """A substitution: `prefix_a` + rest in a model is `prefix_b` + rest in the other.

    Attributes:
        keys: (key in a, key in b) that it brings together, one to one, sorted.
        support: how many of them hold equal, non-trivial content.
        basis: "content"; "rounded content" where no content is equal but once rounded; "structure"
            when only names and shapes speak for it; "shapes" when only shapes and norms do.
    """

    prefix_a: str
    prefix_b: str
    keys: tuple[tuple[str, str], ...]
    support: int
    basis: str


Side = Mapping[str, NamedTensor]


def find_renames(a: Side, b: Side) -> list[Rename]:
    """Return the substitutions that bring keys found in one model only together.

    Keys of the same name are taken as the same and are never renamed. Each key takes part in
    one rename at most.

    >>> t = NamedTensor("8x8", ("content 1",), trivial=False)
    >>> u, v = (NamedTensor("8x8", (c,), trivial=False) for c in ("content 2", "content 3"))
    >>> (r,) = find_renames({"x.w": t, "x.v": u}, {"y.z.w": t, "y.z.v": v})
    >>> r.prefix_a, r.prefix_b, r.support, len(r.keys)
    ('x.', 'y.z.', 1, 2)
    """
    left = {k: v for k, v in a.items() if k not in b}
    right = {k: v for k, v in b.items() if k not in a}
    if not left or not right:
        return []
    matches = _Matches(_evidence(a, b, left, right), sorted(left))
    found = _by_content(matches, left, right)
    found += _by_spelling(left, right)
    if not found:
        # Beside content that is equal under equal names, a few others are rather lost and new.
        alike = _hold_equal(a, b)
        found = _by_structure(left, right, matches, few=not alike)
        return found or ([] if alike else _by_shapes(left, right))
    # Between models that larger tensors tie together small ones are evidence too, such as biases.
    small = _Matches(_evidence(_with_small(a), _with_small(b), left, right), sorted(left))
    return found + _by_content(small, left, right)


def _by_spelling(left: dict[str, NamedTensor], right: dict[str, NamedTensor]) -> list[Rename]:
    """Return the renames of keys whose names are the same but for case, spaces and underscores.

    Their keys are taken out of both sides.
    """
    spelled_a, spelled_b = (_keys_by_spelling(side) for side in (left, right))
    by_prefixes: dict[tuple[str, str], list[tuple[str, str]]] = {}
    for name in sorted(spelled_a.keys() & spelled_b.keys()):
        (ka, *more), (kb, *others) = spelled_a[name], spelled_b[name]
        if not more and not others and left[ka].shape == right[kb].shape:
            by_prefixes.setdefault(substitution(ka, kb), []).append((ka, kb))
    found = [
        Rename(prefix_a, prefix_b, tuple(sorted(keys)), 0, "structure")
        for (prefix_a, prefix_b), keys in sorted(by_prefixes.items())
    ]
    for rename in found:
        _take(rename, left, right)
    return found


def _keys_by_spelling(side: Side) -> dict[str, list[str]]:
    names: dict[str, list[str]] = {}
    for key in sorted(side):
        names.setdefault(re.sub("[ _]", "", key.lower()), []).append(key)
    return names


def _hold_equal(a: Side, b: Side) -> bool:
    """Whether a tensor that is evidence is equal, at least once rounded, under one name in both."""
    return any(
        key in b and not tensor.trivial and _are_equal(tensor, b[key]) for key, tensor in a.items()
    )


def _are_equal(a: NamedTensor, b: NamedTensor) -> bool:
    return any(x is not None and x == y for x, y in zip(a.contents, b.contents, strict=False))


def _with_small(side: Side) -> Side:
    return {key: replace(tensor, trivial=tensor.plain) for key, tensor in side.items()}


def _by_content(
    matches: _Matches, left: dict[str, NamedTensor], right: dict[str, NamedTensor]
) -> list[Rename]:
    """Return the renames for which equal contents speak; take their keys out of both sides."""
    found: list[Rename] = []
    candidates = {substitution(ka, kb) for ka, kb in matches.evidence.items()}
    renames: dict[tuple[str, str], Rename] = {}
    stale = candidates
    while left and right:
        for candidate in stale:
            rename = _apply(candidate, left, right, matches, "content")
            if rename is not None:
                renames[candidate] = rename
            else:
                renames.pop(candidate, None)
        best = max(renames.values(), key=_rank, default=None)
        if best is None:
            break
        found.append(best)
        _take(best, left, right)
        del renames[best.prefix_a, best.prefix_b]
        candidates.discard((best.prefix_a, best.prefix_b))
        # Only those that speak of a key that is now taken can have changed.
        taken_a, taken_b = zip(*best.keys, strict=True)
        stale = {
            (a, b)
            for a, b in candidates
            if any(k.startswith(a) for k in taken_a) or any(k.startswith(b) for k in taken_b)
        }
    return found


class _Matches:
    """Equal contents under two keys, the evidence for renames; and the keys of a in order.

    Attributes:
        evidence: key in a → key in b of equal content that stands once in each model.
        exact: the keys in a whose content is equal unrounded.
    """

    def __init__(self, found: tuple[dict[str, str], set[str]], keys_a: Sequence[str]) -> None:
        self.evidence, self.exact = found
        evidence = self.evidence
        self.other_side = frozenset(evidence.values())
        self._keys_a = keys_a

    def keys_under(self, prefix: str) -> Iterator[str]:
        """Yield the keys of a that begin with a prefix."""
        for place in range(bisect_left(self._keys_a, prefix), len(self._keys_a)):
            if not self._keys_a[place].startswith(prefix):
                return
            yield self._keys_a[place]


def _evidence(a: Side, b: Side, left: Side, right: Side) -> tuple[dict[str, str], set[str]]:
    """Return key in a → key in b of equal content that stands once in each model, and which of
    them are equal unrounded. What is equal by a stronger hash is not asked of a weaker one."""
    found: dict[str, str] = {}
    exact: set[str] = set()
    taken: set[str] = set()
    for level in range(max(len(t.contents) for t in a.values())):
        once_a = _keys_of_single_contents(a, level)
        once_b = _keys_of_single_contents(b, level)
        for content, ka in once_a.items():
            kb = once_b.get(content)
            if kb is None or ka in found or kb in taken or ka not in left or kb not in right:
                continue
            found[ka] = kb
            taken.add(kb)
            if level == 0:
                exact.add(ka)
    return found, exact


def _keys_of_single_contents(side: Side, level: int) -> dict[Hashable, str]:
    contents = {
        k: t.contents[level]
        for k, t in side.items()
        if not t.trivial and level < len(t.contents) and t.contents[level] is not None
    }
    counts = Counter(contents.values())
    return {content: k for k, content in contents.items() if counts[content] == 1}


def substitution(key_a: str, key_b: str) -> tuple[str, str]:
    """Return what stands before the longest run of last names that two keys share.

    >>> substitution("te.text_model.encoder.0.weight", "te.encoder.0.weight")
    ('te.text_model.', 'te.')
    """
    a, b = key_a.split("."), key_b.split(".")
    common = 0
    while common < min(len(a), len(b)) and a[-1 - common] == b[-1 - common]:
        common += 1
    return _joined(a, len(a) - common), _joined(b, len(b) - common)


def _joined(names: Sequence[str], count: int) -> str:
    return ".".join(names[:count]) + ("." if 0 < count < len(names) else "")


def _apply(
    replaced: tuple[str, str],
    left: Side,
    right: Side,
    matches: _Matches,
    basis: str,
) -> Rename | None:
    """Return the rename, or None where it fits nothing or contradicts a shape or a content."""
    prefix_a, prefix_b = replaced
    keys = []
    support = 0
    exact = False
    for ka in matches.keys_under(prefix_a):
        kb = prefix_b + ka[len(prefix_a) :]
        if ka not in left or kb not in right:
            continue
        equal = matches.evidence.get(ka) == kb
        contradicted = not equal and (ka in matches.evidence or kb in matches.other_side)
        if contradicted or left[ka].shape != right[kb].shape:
            return None
        support += equal
        exact |= equal and ka in matches.exact
        keys.append((ka, kb))
    if not keys or (basis == "content" and not support):
        return None
    if basis == "content" and not exact:
        basis = "rounded content"
    return Rename(prefix_a, prefix_b, tuple(sorted(keys)), support, basis)


def _rank(rename: Rename) -> tuple[int, int, int, str, str]:
    """Order renames: most keys, most support, shortest prefixes, then by name."""
    length = len(rename.prefix_a) + len(rename.prefix_b)
    return len(rename.keys), rename.support, -length, rename.prefix_a, rename.prefix_b


def _take(rename: Rename, left: dict[str, NamedTensor], right: dict[str, NamedTensor]) -> None:
    for ka, kb in rename.keys:
        del left[ka], right[kb]


def _by_structure(left: Side, right: Side, matches: _Matches, *, few: bool) -> list[Rename]:
    """Return the one substitution that places a whole branch of one side in the other.

    No key under one of its two prefixes is left behind, and it covers most of the smaller side; or,
    of few keys, all of both sides.

    Args:
        few: whether few keys may be renamed so.
    """
    renames = []
    for prefix_a in _prefixes(left):
        for prefix_b in _prefixes(right):
            if prefix_a == prefix_b or _differ_by_number(prefix_a, prefix_b):
                continue
            rename = _apply((prefix_a, prefix_b), left, right, matches, "structure")
            if rename is None:
                continue
            fits_all = len(rename.keys) == len(left) == len(right)
            fits_all = few and fits_all and _matrices(left) >= LEAST_MATRICES
            if len(rename.keys) < LEAST_KEYS_BY_STRUCTURE and not fits_all:
                continue
            branches = (_count(left, prefix_a), _count(right, prefix_b))
            if len(rename.keys) in branches and 2 * len(rename.keys) > min(len(left), len(right)):
                renames.append(rename)
    return [max(renames, key=_rank)] if renames else []


def _by_shapes(left: Side, right: Side) -> list[Rename]:
    """Return the renames that bring all keys of both sides together, by shape and order.

    The order is that among the keys of one shape and last name. None where a shape or a norm
    disagrees.
    """
    groups_a, groups_b = _by_shape(left), _by_shape(right)
    if _matrices(left) < LEAST_MATRICES or {k: len(v) for k, v in groups_a.items()} != {
        k: len(v) for k, v in groups_b.items()
    }:
        return []
    pairs = [
        pair for group in groups_a for pair in zip(groups_a[group], groups_b[group], strict=True)
    ]
    if not all(_norms_agree(left[ka], right[kb]) for ka, kb in pairs):
        return []
    if any(_differ_by_number(ka, kb) for ka, kb in pairs):
        return []
    by_prefixes: dict[tuple[str, str], list[tuple[str, str]]] = {}
    for ka, kb in pairs:
        by_prefixes.setdefault(substitution(ka, kb), []).append((ka, kb))
    return [
        Rename(prefix_a, prefix_b, tuple(sorted(keys)), 0, "shapes")
        for (prefix_a, prefix_b), keys in sorted(by_prefixes.items())
    ]


def _differ_by_number(a: str, b: str) -> bool:
    """Whether two names are those of two layers of one model, not two names of one layer.

    >>> _differ_by_number("layers.0.", "layers.2."), _differ_by_number("fc1.", "net.0.")
    (True, False)
    """
    return re.sub("[0-9]+", "", a) == re.sub("[0-9]+", "", b)


def _by_shape(side: Side) -> dict[tuple[str, str], list[str]]:
    """Return the keys of each shape and last name, in the order that people number them."""
    groups: dict[tuple[str, str], list[str]] = {}
    for key in sorted(side, key=_numbered):
        groups.setdefault((side[key].shape, key.rsplit(".", 1)[-1]), []).append(key)
    return dict(sorted(groups.items()))


def _numbered(key: str) -> list[tuple[bool, int, str]]:
    """
    >>> sorted(["l.10.w", "l.9.w"], key=_numbered)
    ['l.9.w', 'l.10.w']
    """
    pieces = re.split(r"([0-9]{1,9})", key)
    return [(p.isdecimal(), int(p) if p.isdecimal() else 0, p) for p in pieces]


def _norms_agree(a: NamedTensor, b: NamedTensor) -> bool:
    if a.trivial or b.trivial or not a.norm or not b.norm:
        return True
    return max(a.norm, b.norm) <= MOST_NORM_RATIO * min(a.norm, b.norm)


def _matrices(side: Side) -> int:
    return sum(not t.trivial and "x" in t.shape for t in side.values())


def _count(side: Side, prefix: str) -> int:
    return sum(key.startswith(prefix) for key in side)


def _prefixes(side: Side) -> list[str]:
    """Return the empty prefix and those under which all keys of the side stand, or most."""
    counts: Counter[str] = Counter()
    for key in side:
        names = key.split(".")[:-1][:DEEPEST_PREFIX]
        counts.update(".".join(names[: i + 1]) + "." for i in range(len(names)))
    common = [p for p, count in counts.items() if 2 * count > len(side)]
    return ["", *sorted(common)]
