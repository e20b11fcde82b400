"""JSON written by strangers: bounded, without duplicate keys, and without NaN."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import NoReturn, TypeAlias

from megasim.checkpoint.limits import too_many
from megasim.errors import printable

JSON: TypeAlias = bool | int | float | str | list["JSON"] | dict[str, "JSON"] | None

_MAX_FILE_BYTES = 64 << 20
_MAX_VALUES = 8_000_000  # they take up to 30 times the bytes that write them


class JsonTooLarge(ValueError):
    """More values than were asked for at most."""


def parse_json(text: bytes, max_values: int = _MAX_VALUES) -> JSON:
    """Return the value of a JSON text.

    Args:
        max_values: numbers, texts, lists and objects that it may have; signs within texts that
            part values elsewhere are counted with them.

    Raises ValueError, in one short line, for anything that is not strict UTF-8 JSON: duplicate
    keys, NaN and Infinity, lone surrogates, nesting too deep for the parser; JsonTooLarge for
    more values.

    >>> parse_json(b'{"a": [1, 2.5, null]}')
    {'a': [1, 2.5, None]}
    """
    if sum(map(text.count, (b"[", b"{", b",", b":"))) > max_values:
        raise JsonTooLarge(too_many("header_values", max_values))
    try:
        value: JSON = json.loads(
            text.decode("utf-8"),
            object_pairs_hook=_unique,
            parse_constant=_refuse,
            parse_float=_finite,
        )
        if b"\\ud" in text or b"\\uD" in text:
            json.dumps(value, ensure_ascii=False).encode("utf-8")
    except RecursionError:
        raise ValueError("the JSON is nested too deeply") from None
    except UnicodeError:
        raise ValueError("the JSON is not UTF-8 text") from None
    except json.JSONDecodeError as e:
        raise ValueError(f"not JSON: {e.msg} at byte {e.pos}") from None
    return value


def read_json(path: Path, max_bytes: int = _MAX_FILE_BYTES, max_values: int = _MAX_VALUES) -> JSON:
    """Return the value of a JSON file of at most so many bytes and values.

    Raises ValueError as `parse_json` does, and OSError where the file cannot be read.
    """
    with path.open("rb") as file:
        text = file.read(max_bytes + 1)
    if len(text) > max_bytes:
        raise JsonTooLarge(too_many("header_bytes", max_bytes))
    return parse_json(text, max_values)


def _unique(pairs: list[tuple[str, JSON]]) -> dict[str, JSON]:
    found = dict(pairs)
    if len(found) != len(pairs):
        seen: set[str] = set()
        twice = next(k for k, _ in pairs if k in seen or seen.add(k))  # type: ignore[func-returns-value]
        raise ValueError(f"the JSON has the key {printable(twice, 80)!r} twice")
    return found


def _finite(text: str) -> float:
    value = float(text)
    return value if math.isfinite(value) else _refuse("a number too large for a float")


def _refuse(name: str) -> NoReturn:
    raise ValueError(f"the JSON holds {name}")
