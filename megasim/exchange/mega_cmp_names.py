"""How mega_cmp files are called, and how they are read as JSON.

The files are a stranger's: their size, nesting and names are checked.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from megasim.errors import CheckpointError, printable
from megasim.exchange.model_map import read_model_map

LARGEST_FILE = 64 << 20  # bytes; 232 models of version 2 take a fifth of it
MAP_NAME = "model_map.json"
REMEDY = "give a result of mega_cmp as it was written"

_LONGEST_NAME = 80
_NOT_IN_FILE_NAMES = re.compile(r"[^\w .+()=\-]")


@dataclass(frozen=True, slots=True)
class PairNames:
    """What a pair is called: the group, or None, and the two models; `note` tells of a guess."""

    group: str | None
    model_a: str
    model_b: str
    note: str = ""


@dataclass(frozen=True)
class PairMap:
    """What the model map beside some results tells of their names.

    Attributes:
        by_stem: the group and the models that the stem of a file name means.
        own_names: for the same stems, the names under which `megasim ingest` saves the two
            models; they differ where the map gives one name to several files.
        files: the files of each name.
    """

    by_stem: Mapping[str, PairNames]
    own_names: Mapping[str, tuple[str, str]]
    files: Mapping[str, tuple[str, ...]]


NO_MAP = PairMap({}, {}, {})


def load_json(path: Path) -> Any:
    """Return the JSON value in a file; `NaN` and `Infinity` are numbers.

    Raises:
        CheckpointError: unreadable, too large, not JSON, nested too deeply, a key given twice.
    """
    try:
        if not path.is_file():
            raise CheckpointError(path, "not a file", "name a file or a folder of results")
        with path.open("rb") as file:
            text = file.read(LARGEST_FILE + 1)
        if len(text) > LARGEST_FILE:
            raise CheckpointError(path, f"larger than {LARGEST_FILE >> 20} MiB", REMEDY)
        return json.loads(text.decode("utf-8-sig"), object_pairs_hook=_once_each)
    except OSError as error:
        raise CheckpointError(path, str(error.strerror), "check the path") from None
    except RecursionError:
        raise CheckpointError(path, "its values are nested too deeply", REMEDY) from None
    except ValueError as error:  # also of JSON, of UTF-8 and of numbers with too many digits
        raise CheckpointError(path, f"not readable as JSON: {printable(error)}", REMEDY) from None


def _once_each(items: list[tuple[str, Any]]) -> dict[str, Any]:
    twice = repeated(key for key, _ in items)
    if twice is not None:
        raise ValueError(f"the key {printable(twice)!r} appears twice in one object")
    return dict(items)


def repeated(names: Iterable[str]) -> str | None:
    """Return the first name that stands there for the second time; None when each stands once.

    >>> repeated("abcab"), repeated("abc")
    ('a', None)
    """
    seen: set[str] = set()
    for name in names:
        if name in seen:
            return name
        seen.add(name)
    return None


def checked_text(path: Path, value: object) -> str:
    """Return a name; what is no text, or no valid Unicode, is refused with CheckpointError."""
    if not isinstance(value, str):
        refuse(path, f"{printable(value, 60)!r} is where a name should be")
    try:
        value.encode()
    except UnicodeEncodeError:
        refuse(path, "a name is not valid Unicode", value)
    return value


def refuse(path: Path, problem: str, key: str = "") -> NoReturn:
    """Raise the CheckpointError of a file that is not as mega_cmp writes it."""
    raise CheckpointError(path, problem, REMEDY, key)


def file_stem(group: str, model_a: str, model_b: str) -> str:
    """Return how the file of a pair is called, without its ending.

    A name that is too long, or has what file names cannot have, is shortened and marked.

    >>> file_stem("bp", "mk3", "mk5")
    'bp_mk3_mk5'
    >>> file_stem("all", "org/model", "b")
    'all_org-model-c87c0c64_b'
    """
    return "_".join(_file_part(name) for name in (group, model_a, model_b))


def _file_part(name: str) -> str:
    text = _NOT_IN_FILE_NAMES.sub("-", name).lstrip(".")[:_LONGEST_NAME]
    if text == name:
        return text
    return f"{text}-{hashlib.sha256(name.encode('utf-8', 'replace')).hexdigest()[:8]}"


def pair_names(path: Path, known: PairMap = NO_MAP) -> PairNames:
    """Return the group and the two models that the name of a file tells.

    With more than two underscores the map decides; without it, the last two parts are the models.

    >>> pair_names(Path("te_cmp_any5_sd14.json")).group
    'te_cmp'

    Raises:
        CheckpointError: the name does not name two models.
    """
    stem = path.stem
    names = known.by_stem.get(stem)
    if names is None:
        parts = stem.rsplit("_", 2)
        if len(parts) < 2 or not all(parts):
            raise CheckpointError(
                path,
                "the file name does not say which models it is about",
                "name it group_a_b.json",
            )
        a, b = parts[-2:]
        group = parts[0] if len(parts) == 3 else None
        note = ""
        if group is None:
            note = f"its name has no group; the models are taken to be {a} and {b}"
        elif "_" in group:
            note = f"its name is taken as group {group}, models {a} and {b}; no model map says so"
        names = PairNames(group, a, b, printable(note, 300))
    if names.model_a == names.model_b:
        raise CheckpointError(
            path, f"{printable(names.model_a)!r} against itself", "name it group_a_b.json"
        )
    return names


def read_pair_map(path: Path) -> PairMap:
    """Return what a `model_map.json` tells of the names of results. See `read_model_map`."""
    content = read_model_map(path)
    by_stem: dict[str, PairNames] = {}
    own_names: dict[str, tuple[str, str]] = {}
    for group, pairs in content.groups.items():
        for own in pairs:
            a, b = (content.renamed.get(name, name) for name in own)
            stem = file_stem(group, a, b)
            if stem not in by_stem:
                by_stem[stem] = PairNames(group, a, b)
                own_names[stem] = own
    files: dict[str, tuple[str, ...]] = {}
    for own_name, file in content.models.items():
        name = content.renamed.get(own_name, own_name)
        files[name] = (*files.get(name, ()), file.name)
    return PairMap(by_stem, own_names, files)
