"""What the store holds of one model, as values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from megasim.words import PartRole, Tier

if TYPE_CHECKING:
    from megasim.fingerprint.table import FingerprintTable


@dataclass(frozen=True)
class Model:
    """One row of the table `model`; `id` is 0 until it is saved."""

    name: str
    source: str = "checkpoint"
    path: str | None = None
    format: str | None = None
    bytes: int | None = None
    mtime_ns: int | None = None
    header_hash: str | None = None
    family: str | None = None
    variant: str | None = None
    layout: str | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)
    skipped: Mapping[str, str] = field(default_factory=dict)
    fingerprint_version: int | None = None
    sketch_size: int | None = None
    part: str = ""
    part_role: str = PartRole.WEIGHTS
    file_model_id: int | None = None
    tier: str = Tier.FULL
    sample_level: int | None = None
    id: int = 0

    @classmethod
    def of_columns(cls, values: Mapping[str, Any]) -> Model:
        """Return the model whose attributes are these, all of them.

        A frozen class sets one attribute after another, which takes four times as long: of 100,000
        models that is most of what opening a store costs.
        """
        model = cls.__new__(cls)
        model.__dict__.update(values)
        return model

    @property
    def is_full(self) -> bool:
        """Whether all of it was read that can be."""
        return self.tier == Tier.FULL

    def reads_as_much(self, tier: str, sample_level: int | None = None) -> bool:
        """Whether at least as much was read of it as a tier would have read.

        >>> Model("a", tier="sample", sample_level=320).reads_as_much("sample", 384)
        True
        """
        if self.tier == tier == Tier.SAMPLE and sample_level is not None:
            return self.sample_level is not None and self.sample_level <= sample_level
        return Tier(self.tier).rank >= Tier(tier).rank

    @property
    def identity(self) -> tuple[int | None, int | None, str | None]:
        """Size, modification time and header hash: what tells a known file without reading it."""
        return self.bytes, self.mtime_ns, self.header_hash


@dataclass(frozen=True, slots=True)
class ModelTensor:
    """One key of a model; what it holds stands in the same row of `HeldModel.prints`.

    `representation` is how its bytes stand for the values: "plain", or the name of a scheme; None
    where that is not known, as of fingerprints that came without the weights.
    """

    sources: tuple[str, ...]
    transposed: bool
    canonical_key: str
    canonical_shape: tuple[int, ...]
    shape: tuple[int, ...]
    component: str
    block: str | None
    role: str | None
    nature: str | None = None
    representation: str | None = "plain"


@dataclass(frozen=True, slots=True)
class ListedKey:
    """A key of a model that was not read in full: what its header says, and what a sample shows.

    `sampled` is how many of its `numel` elements were read, 0 of a header; what follows is of
    these, see `SamplePrint`.
    """

    tensor: ModelTensor
    dtype: str
    numel: int
    sampled: int = 0
    content_hash: str | None = None
    non_finite: int | None = None
    l2: float | None = None


@dataclass(frozen=True)
class UnreadKey:
    """A key whose tensor could not be read; `digest` is of its stored bytes where they are known.

    See `megasim.words.Unread` for the reasons.
    """

    key: str
    canonical_key: str
    component: str
    reason: str
    dtype: str | None
    shape: tuple[int, ...] | None
    numel: int | None
    note: str
    digest: str | None = None


@dataclass(frozen=True)
class BesideRow:
    """What stands in a file beside its state dicts, such as an optimizer; None: not known."""

    place: str
    role: str
    tensors: int
    numel: int | None
    bytes: int | None
    digest: str | None = None


@dataclass(frozen=True)
class HeldModel:
    """A model and all that its state dict holds; `tied`: keys that share another key's tensor.

    `prints` are the fingerprints of `tensors`, in their order; None where there are none. Of a
    second copy of a file nothing is given but `twin_id`, the model in the store that holds the
    same; else that is 0. Below the tier "full" there are `listed` keys in place of tensors.
    """

    model: Model
    tensors: Sequence[ModelTensor] = ()
    prints: FingerprintTable | None = None
    unread: Sequence[UnreadKey] = ()
    tied: Mapping[str, str] = field(default_factory=dict)
    beside: Sequence[BesideRow] = ()
    listed: Sequence[ListedKey] = ()
    twin_id: int = 0


def copy_of_file(twins: Sequence[Model], model: Model) -> list[HeldModel]:
    """Return the state dicts of a file again, as those of another file of equal content.

    Args:
        twins: of the state dicts of the file in the store, the main one first.
        model: what is known of the other file, and its name; the further ones are called after it.

    >>> copies = copy_of_file([Model("a", id=1), Model("a#ema", part="ema", id=2)], Model("b"))
    >>> [(held.model.name, held.twin_id) for held in copies]
    [('b', 1), ('b#ema', 2)]
    """
    return [
        HeldModel(
            replace(
                twin,
                id=0,
                name=model.name + twin.name.removeprefix(twins[0].name),
                path=model.path,
                bytes=model.bytes,
                mtime_ns=model.mtime_ns,
                header_hash=model.header_hash,
            ),
            twin_id=twin.id,
        )
        for twin in twins
    ]
