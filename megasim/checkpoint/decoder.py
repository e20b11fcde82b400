"""What a tensor has whose values are not stored as they are, but made of other tensors."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from megasim.checkpoint.dtypes import AnyArray, Singles
    from megasim.checkpoint.tensors import TensorReader, TensorRef


class Decoder(Protocol):
    """How the float32 values of a tensor are made of what a file stores: codes, scales, ….

    A `TensorRef` that holds one is a *logical tensor*: `TensorReader.read` gives its values, and
    all that reads tensors works on it unchanged. Decoders are small, frozen, hashable and
    picklable, and hold no data of arrays. The room `representation` makes them.
    """

    @property
    def scheme(self) -> str:
        """What the representation is called, e.g. "bitsandbytes nf4"; shown to users."""

    @property
    def identity(self) -> str:
        """A text that changes with everything but the stored bytes that the values depend on."""

    @property
    def stored(self) -> tuple[TensorRef, ...]:
        """The tensors of the file that the values are made of, always in the same order.

        Equal `identity` and equal bytes of these mean equal values.
        """

    def read(self, reader: TensorReader, start: int, stop: int, out: AnyArray) -> None:
        """Fill `out`, (stop - start,) float32, with the values of a range in row-major order.

        Takes memory for a few pieces, however large the tensor is.

        Raises CheckpointError when what is stored cannot be read.
        """

    def intervals(
        self, reader: TensorReader, start: int, stop: int
    ) -> tuple[Singles, Singles] | None:
        """Return the ends of the interval that the codes of a range of values stand for.

        Quantising any number in it gives the code, as far as that is sure: where the scale was
        rounded when it was stored, the interval is wider by as much. None where it is not known.
        """

    def transposed(self) -> Decoder:
        """Return the decoder of the transposed values, of a tensor of two dimensions."""
