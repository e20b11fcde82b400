"""What a comparison did."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, fields

from megasim.errors import MegasimError


@dataclass
class CompareResult:
    """What a comparison did; the counters show that nothing is done twice.

    Attributes:
        pairs_asked: pairs of models that were to be known.
        pairs_known: of them, known before.
        pairs_done: of them, finished by this run.
        tensor_pairs_computed: pairs of contents whose distances were computed.
        tensors_read: contents read: each once for a key that it stands under.
        bytes_read: bytes of these contents.
        files_read: models out of which they were read.
        estimated: distances of components that were estimated from the sketches instead.
        sampled_pairs, header_pairs: of those done, the ones of which a model was read only as a
            sample, or of which only a header is known.
        set_aside: pieces of work that ended every worker they were given to; the pairs that need
            them are left open.
        failed: models that could not be read, whose pairs are left open, and the errors of pieces
            that were set aside.
    """

    pairs_asked: int = 0
    pairs_known: int = 0
    pairs_done: int = 0
    tensor_pairs_computed: int = 0
    tensors_read: int = 0
    bytes_read: int = 0
    files_read: int = 0
    estimated: int = 0
    sampled_pairs: int = 0
    header_pairs: int = 0
    set_aside: int = 0
    failed: list[MegasimError] = field(default_factory=list)

    def __add__(self, other: CompareResult) -> CompareResult:
        """Return what two comparisons of different pairs did together."""
        both = {f.name: getattr(self, f.name) + getattr(other, f.name) for f in fields(self)}
        return CompareResult(**both)

    def to_json(self) -> dict[str, object]:
        """Return plain lists and numbers."""
        return {**asdict(self), "failed": [error.message for error in self.failed]}
