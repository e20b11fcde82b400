"""Keys whose values could not be read: what can be said of them between two models."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from megasim.anatomy.natures import key_natures
from megasim.findings.identity import Counts
from megasim.store.rows import Store
from megasim.wording.sentences import counted, listed
from megasim.words import Nature, Unread

_SHOWN_KINDS = 3
_SHOWN_KEYS = 4


@dataclass(frozen=True, slots=True)
class UnreadStatus:
    """A key of a model that names a tensor of which no values could be read.

    Attributes:
        shape: e.g. "16x16x8"; None where the file does not say.
        digest: of its stored bytes; None where they could not be found.
    """

    canonical_key: str
    component: str
    reason: Unread
    dtype: str | None
    shape: str | None
    digest: str | None

    @property
    def kind(self) -> str:
        """What stood in the way, e.g. "complex64" or "placeholder"."""
        if self.reason == Unread.DTYPE and self.dtype:
            return self.dtype
        return str(self.reason)

    @property
    def signature(self) -> tuple[str, ...] | None:
        """Equal for keys of which it is known that they are equal; None where nothing is known.

        An empty tensor under a name that only marks a model, as `v_pred`, is all that there is.
        """
        if self.reason == Unread.PLACEHOLDER:
            nature = key_natures({self.canonical_key: ((), None)})[self.canonical_key]
            return (self.canonical_key, "") if nature == Nature.SCHEDULE else None
        if self.digest is None:
            return None
        return (self.canonical_key, self.dtype or "", self.shape or "", self.digest)


@dataclass(frozen=True, slots=True)
class UnreadPair:
    """The unread keys of one component of a pair of models.

    Attributes:
        same: how many both hold with the same stored bytes.
        other_bytes: those that both hold with other bytes, or as another dtype or shape.
        unknown: those that both hold, and of which it cannot be known whether they are equal.
        only_a, only_b: those that the other model lacks.
        read_in_a, read_in_b: how many of `unknown` are read in the one model.
    """

    same: int = 0
    other_bytes: tuple[UnreadStatus, ...] = ()
    unknown: tuple[UnreadStatus, ...] = ()
    only_a: tuple[UnreadStatus, ...] = ()
    only_b: tuple[UnreadStatus, ...] = ()
    read_in_a: int = 0
    read_in_b: int = 0

    def added_to(self, counts: Counts) -> Counts:
        """Return the counts of the keys that were read, and these."""
        return Counts(
            identical=counts.identical + self.same,
            same_values=counts.same_values,
            same_at_fp16=counts.same_at_fp16,
            same_at_bf16=counts.same_at_bf16,
            changed=counts.changed,
            # a key that one model holds unread is not missing there
            missing_a=counts.missing_a - self.read_in_b + len(self.only_b),
            missing_b=counts.missing_b - self.read_in_a + len(self.only_a),
            shape_mismatch=counts.shape_mismatch,
            non_finite=counts.non_finite,
            unread=counts.unread + len(self.unknown),
            other_bytes=counts.other_bytes + len(self.other_bytes),
            same_in_sample=counts.same_in_sample,
        )


NOTHING_UNREAD = UnreadPair()


class UnreadKeys:
    """The unread keys of all models of a store."""

    def __init__(self, store: Store) -> None:
        self._of: dict[int, dict[str, UnreadStatus]] = defaultdict(dict)
        for model_id, *row in store.rows("unread_keys"):
            key, component, reason, dtype, shape, digest = row
            found = UnreadStatus(key, component, Unread(reason), dtype, shape, digest)
            self._of[model_id][key] = found
        self._read_elsewhere = {
            (model_id, key)
            for model_id, key in (store.rows("unread_elsewhere") if self._of else ())
        }

    def of(self, model_id: int) -> Mapping[str, UnreadStatus]:
        """Return the unread keys of a model by their canonical names."""
        return self._of.get(model_id, {})

    def between(self, a: int, b: int) -> dict[str, UnreadPair]:
        """Return what can be said of the unread keys of two models, by component."""
        of_a, of_b = self.of(a), self.of(b)
        found: dict[str, UnreadPair] = {}
        components = {key.component for key in (*of_a.values(), *of_b.values())}
        for component in sorted(components):
            mine = {k: v for k, v in of_a.items() if v.component == component}
            theirs = {k: v for k, v in of_b.items() if v.component == component}
            found[component] = self._compare(a, b, mine, theirs)
        return found

    def _compare(
        self, a: int, b: int, of_a: Mapping[str, UnreadStatus], of_b: Mapping[str, UnreadStatus]
    ) -> UnreadPair:
        both = sorted(of_a.keys() & of_b.keys())
        same = [k for k in both if _are_equal(of_a[k], of_b[k])]
        differ = [k for k in both if k not in same and _are_known(of_a[k], of_b[k])]
        unknown = [of_a[k] for k in both if k not in same and k not in differ]
        read_in_b = [k for k in of_a if k not in of_b and (b, k) in self._read_elsewhere]
        read_in_a = [k for k in of_b if k not in of_a and (a, k) in self._read_elsewhere]
        return UnreadPair(
            same=len(same),
            other_bytes=tuple(of_a[k] for k in differ),
            unknown=(
                *unknown,
                *(of_a[k] for k in read_in_b),
                *(of_b[k] for k in read_in_a),
            ),
            only_a=tuple(v for k, v in of_a.items() if k not in of_b and k not in read_in_b),
            only_b=tuple(v for k, v in of_b.items() if k not in of_a and k not in read_in_a),
            read_in_a=len(read_in_a),
            read_in_b=len(read_in_b),
        )

    def signature(
        self, model_id: int, components: Collection[str]
    ) -> tuple[tuple[str, ...], ...] | None:
        """Return what is equal for components whose unread keys are known to be equal.

        None where they cannot be known; () where all was read.
        """
        keys = [key for key in self.of(model_id).values() if key.component in components]
        signatures = [key.signature for key in keys]
        known = [signature for signature in signatures if signature is not None]
        return tuple(sorted(known)) if len(known) == len(signatures) else None


def _are_equal(a: UnreadStatus, b: UnreadStatus) -> bool:
    return a.signature is not None and a.signature == b.signature


def _are_known(a: UnreadStatus, b: UnreadStatus) -> bool:
    """Whether two unread keys that are not known to be equal are known to differ."""
    if a.digest is not None and b.digest is not None:
        return True
    return None not in (a.shape, b.shape) and a.shape != b.shape


def unread_kinds(keys: Iterable[UnreadStatus]) -> str:
    """Say what stood in the way of reading some keys, the commonest first.

    >>> key = UnreadStatus("w", "other", Unread.DTYPE, "float4_e2m1fn_x2", None, None)
    >>> unread_kinds([key])
    'float4_e2m1fn_x2'
    """
    kinds = Counter(key.kind for key in keys)
    return listed([kind for kind, _ in kinds.most_common()], _SHOWN_KINDS)


def unread_text(unread: UnreadPair, total: int) -> list[str]:
    """Say what was not read of a component of a pair, in pieces of a sentence.

    Args:
        total: how many keys both models hold.
    """
    pieces = []
    if unread.unknown:
        were = "was" if len(unread.unknown) == 1 else "were"
        count = f"{len(unread.unknown):,} of {counted(total, 'key')}"
        pieces.append(
            f"{count} ({unread_kinds(unread.unknown)}) {were} not read{_named(unread.unknown)}"
        )
    if unread.other_bytes:
        count = counted(len(unread.other_bytes), "key")
        kinds = unread_kinds(unread.other_bytes)
        pieces.append(
            f"{count} ({kinds}), not decoded, with other bytes{_named(unread.other_bytes)}"
        )
    return pieces


def _named(keys: Iterable[UnreadStatus]) -> str:
    names = [key.canonical_key for key in keys]
    return f": {listed(names, _SHOWN_KEYS)}" if len(names) <= _SHOWN_KEYS else ""
