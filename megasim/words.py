"""The words that the store, the findings and the lineage share, each of a closed set.

They are strings, so SQL, JSON and CSV hold them as they are. A test holds those that `sql/` uses
against these.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum
from typing import Final


class Status(StrEnum):
    """How one key stands between two models; the first four are tiers, from the strongest."""

    IDENTICAL = "identical"  # the same dtype and bytes
    SAME_VALUES = "same_values"  # the same numbers in another dtype
    SAME_AT_FP16 = "same_at_fp16"  # equal once both are rounded to float16
    SAME_AT_BF16 = "same_at_bf16"  # equal once both are rounded to bfloat16
    CHANGED = "changed"
    MISSING_A = "missing_a"
    MISSING_B = "missing_b"
    SHAPE_MISMATCH = "shape_mismatch"
    NON_FINITE = "non_finite"
    SAME_IN_SAMPLE = "same_in_sample"  # equal in all elements that were read, which are not all

    @property
    def other_side(self) -> Status:
        """The status of the same key when the two models are named the other way round.

        >>> str(Status.MISSING_A.other_side), str(Status.CHANGED.other_side)
        ('missing_b', 'changed')
        """
        swapped = {Status.MISSING_A: Status.MISSING_B, Status.MISSING_B: Status.MISSING_A}
        return swapped.get(self, self)


MISSING = (Status.MISSING_A, Status.MISSING_B)
TIERS = (Status.IDENTICAL, Status.SAME_VALUES, Status.SAME_AT_FP16, Status.SAME_AT_BF16)


class Verdict(StrEnum):
    """What became of a component or a model between two models, from the strongest identity."""

    IDENTICAL = "identical"
    SAME_VALUES = "same_values"
    SAME_AT_FP16 = "same_at_fp16"
    SAME_AT_BF16 = "same_at_bf16"
    PERMUTED = "permuted"  # the same hidden units in another order
    SAME_WHERE_USED = "same_where_used"  # they differ only in keys that are never used
    SAME_AS_READ = "same_as_read"  # what was read is equal, and not all was read
    SAME_IN_SAMPLE = "same_in_sample"  # equal in all elements that were read of each
    CONTAINED = "contained"  # equal wherever both have keys; one or each has others beside
    PARTLY_CHANGED = "partly_changed"
    CHANGED = "changed"
    DISJOINT = "disjoint"  # of the same shapes, as far as both go, without a key in common
    OTHER_ARCHITECTURE = "other_architecture"  # the shapes disagree
    NOT_READ = "not_read"  # both hold it, and of one or both nothing could be read
    ABSENT_A = "absent_a"  # only the second model has it
    ABSENT_B = "absent_b"  # only the first model has it
    ABSENT = "absent"  # neither has it

    @property
    def rank(self) -> int:
        """The place from the strongest identity, 0, down to what neither model has.

        >>> Verdict.IDENTICAL.rank < Verdict.SAME_AT_FP16.rank < Verdict.CHANGED.rank
        True
        """
        return _RANKS[self]

    @property
    def is_tier(self) -> bool:
        """Whether every key is equal, at least once rounded."""
        return self.rank <= Verdict.SAME_AT_BF16.rank

    @property
    def is_equal(self) -> bool:
        """Whether it makes no difference which of the two is used."""
        return self.rank <= Verdict.SAME_WHERE_USED.rank

    @property
    def is_absent(self) -> bool:
        """Whether one or both models lack it."""
        return self.rank >= Verdict.ABSENT_A.rank


# Asked for millions of times.
_RANKS: Final = {verdict: rank for rank, verdict in enumerate(Verdict)}


def weakest(verdicts: Iterable[Verdict]) -> Verdict:
    """Return the weakest of some verdicts: what holds of all of them.

    >>> str(weakest([Verdict.IDENTICAL, Verdict.SAME_AT_FP16, Verdict.IDENTICAL]))
    'same_at_fp16'
    """
    return max(verdicts, key=lambda verdict: verdict.rank)


class Tier(StrEnum):
    """How much of a model was read, from the least."""

    HEADER = "header"  # names, shapes, dtypes, metadata
    SAMPLE = "sample"  # of large tensors some elements, the same in every model
    FULL = "full"

    @property
    def rank(self) -> int:
        """The place from the least, 0, to the most.

        >>> Tier.SAMPLE.rank < Tier.FULL.rank
        True
        """
        return list(Tier).index(self)


class Source(StrEnum):
    """Where a distance comes from."""

    EXACT = "exact"  # computed here from the weights
    ESTIMATED = "estimated"  # from the sketches, or from samples
    IMPORTED = "imported"  # published by others


class ModelSource(StrEnum):
    """How a model is known."""

    CHECKPOINT = "checkpoint"  # fingerprinted here
    IMPORTED = "imported"  # from published distances
    FINGERPRINTS = "fingerprints"  # from a fingerprint file


class Metric(StrEnum):
    """How the difference of two tensors is measured."""

    L0 = "l0"  # how many elements differ
    L1 = "l1"  # sum of absolute differences
    L2 = "l2"  # root of the sum of squared differences
    LINF = "linf"  # largest absolute difference
    COSSIM = "cossim"  # mean cosine similarity of the columns


class RelationKind(StrEnum):
    """How two whole models are related, from the closest relation to the loosest."""

    SAME_WEIGHTS = "same_weights"  # the same numbers under two names
    CAST = "cast"  # the same numbers once rounded to half precision
    QUANTISED = "quantised"  # every number within half a step of the other's, in codes of few bits
    PERMUTED = "permuted"  # the same hidden units in another order
    SAME_WHERE_USED = "same_where_used"  # they differ only in keys that are never used
    SAME_AS_READ = "same_as_read"  # what was read is equal, and not all was read
    PRUNED = "pruned"  # without the EMA copy or the training state
    DAMAGED = "damaged"  # equal but for NaN or inf
    PART_OF = "part_of"  # some keys of the other, and nothing else
    OVERLAP = "overlap"  # equal where both have keys, and each has others beside
    SHARDS = "shards"  # of one model, as their names say, without a key in common
    RESCALED = "rescaled"  # the same adapter with another alpha
    OTHER_LAYOUT = "other_layout"  # the same matrices, transposed, fused, or in another order
    WIDENED = "widened"  # some tensors have more elements, and the new ones are zero
    ROWS_ADDED = "rows_added"  # some tables have more rows, and those of before
    ALL_BUT_FEW = "all_but_few"  # equal but for a few keys
    SCALES_LOST = "scales_lost"  # the same directions at other scales, as codes without theirs
    SCALES_OF_ANOTHER = "scales_of_another"  # the same directions, each off by a factor of its own
    QUANTISED_AND_CHANGED = "quantised_and_changed"  # by more than rounding to its codes
    LAYERS_MOVED = "layers_moved"  # layers of one are layers of the other under other numbers
    VAE_REPLACED = "vae_replaced"
    TEXT_ENCODER_REPLACED = "text_encoder_replaced"
    UNET_FINE_TUNED = "unet_fine_tuned"  # on an unchanged text encoder
    FINE_TUNED = "fine_tuned"  # some components changed, others unchanged or not there
    EVERYTHING_CHANGED = "everything_changed"

    @property
    def rank(self) -> int:
        """The place from the closest relation, 0, to the loosest."""
        return list(RelationKind).index(self)


class EdgeKind(StrEnum):
    """What a step of the lineage is."""

    FINE_TUNE = "fine-tune"
    EPOCH_STEP = "epoch step"
    MERGE = "merge"
    PRUNED = "pruned"
    CAST = "cast"
    QUANTISED = "quantised"
    QUANTISED_AND_CHANGED = "quantised and changed"  # beyond rounding, as GPTQ and AWQ do too
    COMPONENT_SWAP = "component swap"
    COPY = "copy"
    SAME_IN_SAMPLE = "same in samples"  # nothing that was read differs, and not all was read
    PERMUTED = "permuted copy"  # hidden units in another order

    @property
    def same_weights(self) -> bool:
        """Whether the weights of the component are the same but for rounding and order."""
        return self in (
            *(EdgeKind.PRUNED, EdgeKind.CAST, EdgeKind.QUANTISED, EdgeKind.COMPONENT_SWAP),
            *(EdgeKind.COPY, EdgeKind.PERMUTED),
        )


class RecipeVerdict(StrEnum):
    """What a model is, as a weighted sum of others."""

    MERGE = "merge"
    ADD_DIFFERENCE = "add-difference"  # one weight is negative
    AMBIGUOUS = "ambiguous"  # any of four models may be the add-difference of the others
    NONE = "none"


class WeightLevel(StrEnum):
    """What has weights of its own in a merge."""

    COMPONENT = "component"
    ROLE = "role"  # attention, feed-forward …, the same in all blocks
    BLOCK = "block"
    BLOCK_ROLE = "role in a block"
    TENSOR = "tensor"


class MergeMethod(StrEnum):
    """How a model was made of its parents, as far as that can be told."""

    WEIGHTED_SUM = "weighted sum"  # of any tool, task arithmetic and add-differences among them
    SLERP = "slerp"  # along an arc, by an angle in each tensor
    MODEL_STOCK = "model stock"  # towards the mean, as far as angles tell, in each tensor
    WHOLE_ELEMENTS = "whole elements"  # each element is one of its parents'
    TIES = "TIES"  # largest changes, one sign elected
    DARE = "DARE"  # random changes, scaled up
    DARE_TIES = "DARE TIES"
    BREADCRUMBS = "breadcrumbs"  # without the smallest and the largest changes
    BREADCRUMBS_TIES = "breadcrumbs TIES"
    DELLA = "DELLA"  # random changes, the larger the likelier
    DELLA_TIES = "DELLA TIES"
    TRIMMED = "trimmed task arithmetic"  # largest changes, no sign elected
    TRAIN_DIFFERENCE = "train-difference"  # what B learned, where A has not
    ADD_OPPOSITE = "add-opposite"  # where A and B went apart
    ADD_STRICT_OPPOSITE = "add-strict-opposite"
    CLAMPED_DIFFERENCE = "clamped add-difference"  # between A and B in each element
    MULTIPLY_QUOTIENT = "multiply-quotient"
    GEOMETRIC_SUM = "geometric sum"
    STACK = "stack"  # layers of other models under other numbers


class ClaimVerdict(StrEnum):
    """What the weights say of a claimed recipe or base."""

    CONFIRMED = "confirmed"
    CONTRADICTED = "contradicted"
    UNDECIDED = "not decidable"


class Nature(StrEnum):
    """What the numbers under a key are for."""

    WEIGHT = "weight"  # learned
    STATISTIC = "statistic"  # running mean and variance
    COUNTER = "counter"  # steps, batches tracked
    INDEX = "index"  # position ids, relative indices
    MASK = "mask"
    SCALE = "scale"  # of quantised codes
    CODE = "code"  # a quantised value
    SCHEDULE = "schedule"  # betas, alphas
    CHANGE = "change"  # a factor of what an adapter adds to a weight
    UNKNOWN = "unknown"


class Axis(StrEnum):
    """One of the two axes of a matrix whose slices have a norm in the profile."""

    ROWS = "rows"
    COLUMNS = "columns"


class Kinship(StrEnum):
    """What the order of their hidden units says of two models."""

    RELATED = "related"
    PERMUTED = "permuted copy"
    OTHER_LAYERS = "layers moved"  # layers of one are layers of the other under other numbers
    OTHER_LAYOUT = "another layout"  # the same matrices, transposed, fused, or in another order
    NOT_FOUND = "none found"  # not where their units stand in one order
    UNDECIDED = "undecided"  # neither shown
    NOT_TESTABLE = "not testable"  # no hidden units that both hold, or no profiles


class Layout(StrEnum):
    """How a library keeps the numbers of a matrix, beside how another keeps the same."""

    SAME = "same"  # under the same name or another
    TRANSPOSED = "transposed"
    HEADS = "heads"  # the rows of each rotary head in another order
    ROWS = "rows"  # rows in another order
    FUSED = "fused"  # several matrices as one
    SPLIT = "split"  # one matrix as several


class PartRole(StrEnum):
    """What one state dict of a file is."""

    WEIGHTS = "weights"
    EMA = "ema"
    TEACHER = "teacher"
    DISCRIMINATOR = "discriminator"
    OPTIMIZER = "optimizer"
    ADAPTER = "adapter"
    OTHER = "other"


class Unread(StrEnum):
    """Why no values could be read of a key that names a tensor."""

    DTYPE = "dtype"  # of a type that is not decoded
    LAYOUT = "layout"  # kept in a way that is not decoded
    PLACEHOLDER = "placeholder"  # it has no values: empty, or a meta tensor
    OBJECT = "object"  # a Python object, or a bare storage
    ABSENT = "absent"  # named by an index, and not there


class JobState(StrEnum):
    """What has become of a job of the service."""

    WAITING = "waiting"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"  # what was done by then is kept
    INTERRUPTED = "interrupted"  # the service ended in the middle of it, more than once

    @property
    def is_over(self) -> bool:
        """Whether nothing more will come of it."""
        return self not in (JobState.WAITING, JobState.RUNNING)
