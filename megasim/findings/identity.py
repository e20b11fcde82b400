"""How many keys of a component have each status, and the verdict that follows from them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields

from megasim.words import TIERS, Verdict, weakest

# A component is changed as a whole when this share of its keys is: norms at their start values and
# counters like position_ids stay what they were in any training.
MOSTLY = 0.95
# Two components are of other architectures when not one tensor is equal, and either this share of
# their keys has another shape, more of them than a new input layer or head would, or less than half
# of their keys have a counterpart. SD1 and SD2 differ in 32 to 64 of 686 shapes, inpainting in 1.
OTHER_SHAPES = 0.02
SHAPES_OF_A_HEAD = 4
COUNTERPARTS = 0.5

# Root mean square of the relative error that rounding to float16 leaves, for significands spread
# evenly over [1, 2): an error uniform in ±2⁻¹¹ has the mean square 2⁻²²/3, the significand 7/3.
FP16_RELATIVE_ERROR = 2.0**-11 / 7.0**0.5
# A trained matrix has a norm near the root of its number of outputs (at most 10240 in the models
# whose distances are published), a vector of norms gains near the root of its length.
LARGEST_LAYER_NORM = 100.0


@dataclass(frozen=True, slots=True)
class Counts:
    """How many keys of a component of a pair have each status.

    Attributes:
        unread: keys that both models hold and that cannot be compared, since the values of one or
            both could not be read.
        same_in_sample: keys of which all elements that were read are equal, and not all were.
        other_bytes: keys that both hold in a form that is not decoded, with other bytes.
    """

    identical: int = 0
    same_values: int = 0
    same_at_fp16: int = 0
    same_at_bf16: int = 0
    changed: int = 0
    missing_a: int = 0
    missing_b: int = 0
    shape_mismatch: int = 0
    non_finite: int = 0
    unread: int = 0
    other_bytes: int = 0
    same_in_sample: int = 0

    @classmethod
    def of(cls, statuses: Iterable[str]) -> Counts:
        """Count statuses as `layer_distances` names them.

        >>> Counts.of(["changed", "identical", "changed"]).changed
        2
        """
        return cls(**Counter(statuses))

    @property
    def unchanged(self) -> int:
        """Keys equal in one of the tiers."""
        return self.identical + self.same_values + self.same_at_fp16 + self.same_at_bf16

    @property
    def compared(self) -> int:
        """Keys that have a distance."""
        return self.unchanged + self.changed

    @property
    def common(self) -> int:
        """Keys that both models hold."""
        return self.read + self.unread + self.same_in_sample

    @property
    def read(self) -> int:
        """Of them, those of which it is known whether they are equal."""
        return self.compared + self.shape_mismatch + self.non_finite + self.other_bytes

    @property
    def differing(self) -> int:
        """Keys that are not equal in any tier, or that one model lacks."""
        return self.read - self.unchanged + self.missing_a + self.missing_b

    @property
    def weakest_tier(self) -> Verdict:
        """What holds of all the keys that are equal in one of the tiers.

        Raises:
            ValueError: none is.
        """
        return weakest(Verdict(tier) for tier in TIERS if getattr(self, tier))

    def swapped(self) -> Counts:
        """The same pair, its models named the other way round."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        return Counts(**values | {"missing_a": self.missing_b, "missing_b": self.missing_a})


def component_verdict(
    counts: Counts, same_where_used: bool = False, *, same_shapes: bool = False
) -> Verdict:
    """Return what became of a component.

    A mix of tiers is the weakest of them.

    Args:
        counts: of all keys of the component in either model.
        same_where_used: whether the keys that the family uses are equal, and there are some.
        same_shapes: whether the tensors of the two have the same shapes, as far as both go.

    >>> str(component_verdict(Counts(identical=280, changed=14), same_where_used=True))
    'same_where_used'
    >>> str(component_verdict(Counts(identical=2, changed=2)))
    'partly_changed'
    >>> str(component_verdict(Counts(missing_a=294, missing_b=197)))
    'other_architecture'
    """
    if not counts.common:
        if counts.missing_a and counts.missing_b:
            return Verdict.DISJOINT if same_shapes else Verdict.OTHER_ARCHITECTURE
        return (
            Verdict.ABSENT_A
            if counts.missing_a
            else Verdict.ABSENT_B
            if counts.missing_b
            else Verdict.ABSENT
        )
    if counts.same_in_sample and counts.unchanged == counts.read:
        return Verdict.SAME_IN_SAMPLE
    if not counts.read:
        return Verdict.NOT_READ
    if counts.unchanged == counts.read and counts.unread:
        return Verdict.SAME_AS_READ
    if not counts.differing:
        return counts.weakest_tier
    if same_where_used and not counts.unread:
        return Verdict.SAME_WHERE_USED
    if counts.unchanged == counts.read and _is_mostly_common(counts):
        return Verdict.CONTAINED
    if _is_other_architecture(counts) and not same_shapes:
        return Verdict.OTHER_ARCHITECTURE
    changed = counts.read - counts.unchanged
    return Verdict.CHANGED if changed >= MOSTLY * counts.common else Verdict.PARTLY_CHANGED


def _is_mostly_common(counts: Counts) -> bool:
    """Whether at least half of the keys of the smaller component are in both."""
    fewer = counts.common + min(counts.missing_a, counts.missing_b)
    return counts.common >= COUNTERPARTS * fewer


def _is_other_architecture(counts: Counts) -> bool:
    if counts.unchanged:
        return False
    if counts.shape_mismatch > max(OTHER_SHAPES * counts.common, SHAPES_OF_A_HEAD):
        return True
    larger = counts.common + max(counts.missing_a, counts.missing_b)
    lacking = counts.missing_a > 0 and counts.missing_b > 0
    return lacking and counts.common < COUNTERPARTS * larger


def is_rounding_level(distances: Mapping[str, float]) -> bool:
    """Say whether distances alone are of the size that a rounding to half precision leaves.

    They cannot prove it. Rounding a tensor to float16 leaves `FP16_RELATIVE_ERROR` of its norm,
    and changes nearly every tensor that was not half precision before. The norms are not known
    here, but a trained layer of n outputs has a norm near √n. So the size fits when nearly all
    keys differ, and none of them by more than rounding leaves of a norm of `LARGEST_LAYER_NORM`,
    nor most of them by less than it leaves of a norm of 1.

    Args:
        distances: key → L2 distance ≥ 0, of a whole component.

    >>> is_rounding_level({"conv.weight": 0.0029, "norm.weight": 0.0025, "conv.bias": 7e-5})
    True
    >>> is_rounding_level({"conv.weight": 0.19, "norm.weight": 0.03, "conv.bias": 0.002})
    False
    """
    nonzero = [d for d in distances.values() if d > 0]
    if not nonzero or len(nonzero) < MOSTLY * len(distances):
        return False
    matrices = [d for key, d in distances.items() if d > 0 and key.endswith("weight")]
    if not matrices or max(nonzero) > LARGEST_LAYER_NORM * FP16_RELATIVE_ERROR:
        return False
    return sorted(matrices)[len(matrices) // 2] >= FP16_RELATIVE_ERROR
