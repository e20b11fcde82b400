"""What a format's reader finds in a file, before it is named and identified."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from megasim.checkpoint.strict_json import JSON
from megasim.checkpoint.tensors import TensorRef

METADATA_LIMIT: Final = 1 << 20  # characters of one text; merge recipes stay well below
SCALAR_LIMIT: Final = 4096  # characters of a text beside the tensors of a pickle


@dataclass(frozen=True)
class Contents:
    """The tensors of a file and what else it says.

    Attributes:
        format: "safetensors", "torch-zip", "torch-legacy" or "torchscript".
        tensors: key to place, in the order of the file.
        metadata: what is known besides: scalars, or the `__metadata__` of safetensors.
        skipped: key to the reason why what stands there is not in `tensors`.
        header: the bytes that describe the tensors; they go into the file's identity.
    """

    format: str
    tensors: dict[str, TensorRef]
    metadata: dict[str, JSON]
    skipped: dict[str, str]
    header: bytes


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
