"""The logical tensor: the values that a key stands for, however a file represents them.

A *representation* is how stored bytes stand for values: codes with scales and zero points, block
formats, factors. This room turns what a reader of a container found (plain tensors, and
`UnreadTensor`s with their stored bytes) into logical tensors, and everything above it (fingerprint,
compare, doctor, verify …) reads those as it reads plain ones:

- A logical tensor is a `TensorRef` of dtype float32 with a `Decoder`, made by `logical_ref`. It is
  named after the values: `q_proj.weight`, not `q_proj.qweight`. `TensorReader.read` gives any
  range of its values, decoded piece by piece.
- A *scheme* is a function from the `StoredTensors` of one state dict to `Represented` values,
  listed in `schemes.SCHEMES`. It looks at names, dtypes and shapes, and reads nothing but
  small tensors (`StoredTensors.read_small`). What it takes is no key of its own any more.
- What a scheme recognises and cannot decode is a `Represented` with a `problem`: its key is then
  unread in the sense of completeness, with that sentence and with a digest of its stored bytes. All
  other keys are read. A scheme never guesses: what is ambiguous is a problem.
- The content hash of a logical tensor is of the stored bytes and of `Decoder.identity`; hashes of
  numbers, norms and sketches are of the values. The store keeps `Decoder.scheme` in the column
  `representation`.

To add a scheme whose values stand in rows and columns, subclass `BoxDecoder` (`boxes`); for another
container, let its reader give the bytes as an `UnreadTensor` with a `dtype` that names the code
(as "Q4_K") and write a scheme that takes it out of `StoredTensors.unread`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final, TypeAlias

from megasim.checkpoint.contents import UnreadTensor
from megasim.checkpoint.dtypes import AnyArray
from megasim.checkpoint.strict_json import JSON
from megasim.checkpoint.tensor_refs import Decoder
from megasim.checkpoint.tensors import TensorReader, TensorRef

PLAIN: Final = "plain"
# Bytes of a tensor that a scheme may read before any values are: indices of groups, a text.
SMALL_BYTES: Final = 1 << 22


@dataclass(frozen=True)
class Represented:
    """A tensor that a scheme found, to be known by its values.

    Attributes:
        key: the name of the values, as a file that stores them plainly calls them.
        shape: of the values.
        sources: the keys of the file that it is made of. They are no keys of their own any more.
        decoder: how the values are made; None where they cannot be.
        problem: why they cannot be, as one clear sentence without its end.
    """

    key: str
    shape: tuple[int, ...]
    sources: tuple[str, ...]
    decoder: Decoder | None = None
    problem: str = ""

    def named(self, scheme: str) -> Represented:
        """Return the same with another name of its scheme, that of the library it is from."""
        if self.decoder is None:
            return self
        return replace(self, decoder=replace(self.decoder, name=scheme))  # type: ignore[type-var]


@dataclass(frozen=True)
class StoredTensors:
    """One state dict as it is stored, for schemes to look at.

    Attributes:
        tensors, unread: as the reader of the container found them.
        config: what the model says of how it was quantised: the `quantization_config` of its
            config.json, else empty.
        metadata: of the file, as `__metadata__` of .safetensors.
    """

    tensors: Mapping[str, TensorRef]
    unread: Mapping[str, UnreadTensor] = field(default_factory=dict)
    config: Mapping[str, JSON] = field(default_factory=dict)
    metadata: Mapping[str, JSON] = field(default_factory=dict)
    reader: TensorReader = field(default_factory=TensorReader, repr=False)

    def read_small(self, key: str) -> AnyArray | None:
        """Return the elements of a tensor, (numel,); None where it is missing or not small."""
        ref = self.tensors.get(key)
        return None if ref is None or ref.nbytes > SMALL_BYTES else self.reader.read(ref)

    def ending_in(self, name: str) -> Iterable[tuple[str, TensorRef]]:
        """Yield prefix and tensor of the keys that end in `name`, which the prefix is without.

        >>> ref = TensorRef("a.qweight", "int32", (4, 4), "", 0)
        >>> [prefix for prefix, _ in StoredTensors({"a.qweight": ref}).ending_in(".qweight")]
        ['a']
        """
        return ((k.removesuffix(name), ref) for k, ref in self.tensors.items() if k.endswith(name))


Scheme: TypeAlias = Callable[[StoredTensors], Iterable[Represented]]
"""A way of representing values: it finds all tensors of a state dict that are represented so."""


def logical_ref(key: str, shape: tuple[int, ...], decoder: Decoder) -> TensorRef:
    """Return the tensor whose values a decoder makes; nothing is read."""
    return TensorRef(key, "float32", shape, "", 0, decoder=decoder)


def scheme_of(ref: TensorRef) -> str:
    """Return what the representation of a tensor is called; "plain" for values stored as they are.

    One that is joined of several representations is called by all of them.

    >>> scheme_of(TensorRef("w", "float16", (2, 2), "m", 0))
    'plain'
    """
    if ref.decoder is not None:
        return ref.decoder.scheme
    return " + ".join(dict.fromkeys(map(scheme_of, ref.parts))) or PLAIN


def is_coded(ref: TensorRef) -> bool:
    """Whether the values of a tensor, or of a part of it, are codes of few bits.

    >>> is_coded(TensorRef("w", "float8_e5m2", (2, 2), "m", 0))
    True
    """
    return (
        ref.decoder is not None or ref.dtype.startswith("float8") or any(map(is_coded, ref.parts))
    )


def config_number(config: Mapping[str, Any], *names: str) -> int | None:
    """Return the first of some entries that is a whole number.

    >>> config_number({"bits": 4, "w_bit": None}, "w_bit", "bits")
    4
    """
    found = (config.get(name) for name in names)
    return next((n for n in found if isinstance(n, int) and not isinstance(n, bool)), None)
