"""What a format's reader finds in a file, before it is named and identified."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from megasim.checkpoint.strict_json import JSON
from megasim.checkpoint.tensors import TensorRef
from megasim.words import PartRole, Unread

METADATA_LIMIT: Final = 1 << 20  # characters of one text; merge recipes stay well below
EMPTY: Final = "an empty tensor: a placeholder, its values are elsewhere"
SCALAR_LIMIT: Final = 4096  # characters of a text beside the tensors of a pickle


@dataclass(frozen=True)
class UnreadTensor:
    """A tensor that a file names, and of which no values could be read.

    Attributes:
        reason: the kind of reason, and `note` the reason in words.
        dtype: as the file names it, None where it does not.
        shape: of the whole tensor, None where the file does not say.
        stored: where its bytes lie, as plain tensors; empty where not all of them were found.
        said: what the file says of it beside those bytes, as the scale of a quantised tensor.
        subclass: of a pickled tensor subclass whose tensors have names, its full name.
        names: of the tensors of `stored`, where it is such a subclass.
        options: what else it holds, by name: texts and numbers alone.
    """

    reason: Unread
    note: str
    dtype: str | None = None
    shape: tuple[int, ...] | None = None
    stored: tuple[TensorRef, ...] = ()
    said: str = ""
    subclass: str = ""
    names: tuple[str, ...] = ()
    options: dict[str, str | int | float] = field(default_factory=dict)


@dataclass(frozen=True)
class StateDictContents:
    """One state dict of a file: its tensors and what else is known of it.

    Attributes:
        tensors: key to place, in the order of the file.
        unread: key to what is known of a tensor whose values could not be read.
        tied: key to the key of the same state dict whose tensor it shares.
        name: where it lies in the file: "" for the whole or the first of several.
        role: what it is.
    """

    tensors: dict[str, TensorRef]
    unread: dict[str, UnreadTensor] = field(default_factory=dict)
    tied: dict[str, str] = field(default_factory=dict)
    name: str = ""
    role: PartRole = PartRole.WEIGHTS


@dataclass(frozen=True)
class BesideTensors:
    """Tensors that belong to no state dict, such as those of an optimizer.

    Attributes:
        place: where they lie in the file.
        tensors: key to place, or to what is known of one that is not decoded.
    """

    place: str
    role: PartRole
    tensors: dict[str, TensorRef | UnreadTensor]


@dataclass(frozen=True)
class FileContents:
    """What a file holds.

    Attributes:
        format: "safetensors", "torch-zip", "torch-legacy", "torchscript", "exported", "npz" or
            "npy".
        main: the model itself.
        others: further state dicts: an EMA, a teacher, a discriminator ….
        beside: tensors that belong to no state dict.
        metadata: what is known besides: scalars, or the `__metadata__` of safetensors.
        skipped: name to the reason why what stands there is no tensor of the model.
        header: the bytes that describe the tensors; they go into the file's identity.
    """

    format: str
    main: StateDictContents
    metadata: dict[str, JSON]
    header: bytes
    others: tuple[StateDictContents, ...] = ()
    beside: tuple[BesideTensors, ...] = ()
    skipped: dict[str, str] = field(default_factory=dict)


def set_placeholders_apart(tensors: dict[str, TensorRef]) -> dict[str, UnreadTensor]:
    """Take tensors out that stand for ones whose values are elsewhere, and return them.

    DeepSpeed's ZeRO-3 leaves every large parameter as an empty tensor of shape (0,). Other
    libraries have empty tensors that are whole (a layer of e3nn without a bias), so they are taken
    for placeholders only where they are most keys, or no matrix is left.
    """
    empty = [k for k, ref in tensors.items() if ref.shape == (0,) and "float" in ref.dtype]
    matrices = [r for r in tensors.values() if len(r.shape) > 1 and r.numel and "float" in r.dtype]
    if 2 * len(empty) <= len(tensors) and matrices:
        return {}
    return {
        key: UnreadTensor(Unread.PLACEHOLDER, EMPTY, ref.dtype, ref.shape)
        for key, ref in ((key, tensors.pop(key)) for key in empty)
    }


def storable(text: str) -> str:
    r"""Return `text` as it can be written in UTF-8: lone surrogates become escapes.

    >>> storable("a\udcffb")
    'a\\udcffb'
    """
    return text.encode("utf-8", "backslashreplace").decode()


def shorten(text: str, limit: int) -> str:
    """Return `text`, or a note of its length when it is longer than `limit` characters.

    >>> shorten("abc", 10), shorten("x" * 300, 10)
    ('abc', '(300 characters, left out)')
    """
    return text if len(text) <= limit else f"({len(text)} characters, left out)"
