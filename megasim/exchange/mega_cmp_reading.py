"""mega_cmp files → dataclasses. A file is a stranger's: its size, shape and names are checked.

Version 1 has a file for each pair, `group_a_b.json`: `kv` (key → L2 distance), `da` and `db`
(keys only in A, only in B), `err` (keys of another shape). Version 2 has a file for each set of
models: `ml` (their file names) and `dm` (component → matrix of L2 distances).
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from megasim.errors import CheckpointError, printable
from megasim.exchange.mega_cmp_names import (
    NO_MAP,
    PairMap,
    checked_text,
    load_json,
    pair_names,
    refuse,
    repeated,
)
from megasim.matrix.distance_matrix import Floats

_TEXT = "cond_stage_model.transformer."
_INNER = "text_model."
_RENAMED = "nai."
# No distance is larger; its square is still finite.
_LARGEST = 1e150
_ENDINGS = (".safetensors", ".ckpt", ".pt", ".pth", ".bin")
# Two measurements of one thing may differ by their rounding.
_SYMMETRY = 1e-6


@dataclass(frozen=True, slots=True)
class PublishedLayer:
    """One key of a published pair, as each side spells it; None on the side that lacks it.

    `status` is "identical", "changed", "non_finite", "shape_mismatch", "missing_a" or
    "missing_b"; `l2` is None unless it is one of the first two.
    """

    key_a: str | None
    key_b: str | None
    status: str
    l2: float | None


@dataclass(frozen=True)
class PublishedPair:
    """A file of version 1. `group` is None where the file does not name one."""

    group: str | None
    model_a: str
    model_b: str
    layers: tuple[PublishedLayer, ...]

    def flipped(self) -> PublishedPair:
        """Return the same comparison with the two models in the other order."""
        other = {"missing_a": "missing_b", "missing_b": "missing_a"}
        return PublishedPair(
            self.group,
            self.model_b,
            self.model_a,
            tuple(
                PublishedLayer(it.key_b, it.key_a, other.get(it.status, it.status), it.l2)
                for it in self.layers
            ),
        )


@dataclass(frozen=True)
class PublishedMatrices:
    """A file of version 2: the matrices by the names they have there.

    `matrices` are (N, N) float64, symmetric, not negative, 0 on the diagonal, NaN where the file
    has no finite number.
    """

    models: tuple[str, ...]
    matrices: Mapping[str, Floats]


def read_published(
    path: Path, known: PairMap = NO_MAP
) -> tuple[PublishedPair | PublishedMatrices, str]:
    """Return what a file holds, and a note about how its name was understood, or "".

    Args:
        known: the model map beside the file.

    Raises:
        CheckpointError: it is no result of mega_cmp, or contradicts itself.
    """
    document = load_json(path)
    keys = set(document) if isinstance(document, dict) else set()
    if "kv" in keys:
        names = pair_names(path, known)
        layers = _read_layers(path, document)
        return PublishedPair(names.group, names.model_a, names.model_b, layers), names.note
    if {"ml", "dm"} <= keys:
        return _read_matrices(path, document), ""
    if isinstance(document, list) or "cm" in keys:
        raise CheckpointError(
            path, "a model map, which holds no distances", "import the results, not their map"
        )
    raise CheckpointError(
        path, "not a result of mega_cmp", "these have the keys kv, da, db and err, or ml and dm"
    )


# Version 1


def _read_layers(path: Path, document: Mapping[str, Any]) -> tuple[PublishedLayer, ...]:
    kv = document["kv"]
    if not isinstance(kv, dict):
        refuse(path, "kv is not an object of keys and distances")
    only_a, only_b, err = (_read_keys(path, document, name) for name in ("da", "db", "err"))
    layers = []
    for key, value in kv.items():
        checked_text(path, key)
        key_a, key_b = _spellings(key, only_a, only_b) or (key, key)
        status, l2 = _judge(path, key, value)
        layers.append(PublishedLayer(key_a, key_b, status, l2))
        if key_a != key_b:
            # The lists also name both spellings of a key that was compared under a new name.
            only_a.pop(key_a, None)
            only_b.pop(key_b, None)
    for key in err:
        # A key of a renamed text encoder without a counterpart is listed here and in da or db.
        lone = key in only_a or key in only_b
        pair = _spellings(_RENAMED + key if lone else key, only_a, only_b)
        if pair is not None and pair[0] in only_a and pair[1] in only_b:
            del only_a[pair[0]], only_b[pair[1]]
            layers.append(PublishedLayer(*pair, "shape_mismatch", None))
        elif not lone:
            layers.append(PublishedLayer(*(pair or (key, key)), "shape_mismatch", None))
    layers += [PublishedLayer(key, None, "missing_b", None) for key in only_a]
    layers += [PublishedLayer(None, key, "missing_a", None) for key in only_b]
    if not layers:
        refuse(path, "it names no keys")
    for side in ([it.key_a for it in layers], [it.key_b for it in layers]):
        twice = repeated(key for key in side if key is not None)
        if twice is not None:
            refuse(path, "listed twice: compared, missing and mismatched exclude each other", twice)
    return tuple(layers)


def _read_keys(path: Path, document: Mapping[str, Any], name: str) -> dict[str, None]:
    """Return a list of keys, in order; the oldest files have no `err`."""
    keys = document.get(name, [])
    if not isinstance(keys, list):
        refuse(path, f"{name} is not a list of keys")
    for key in keys:
        checked_text(path, key)
    found = dict.fromkeys(keys)
    if len(found) < len(keys):
        refuse(path, f"{name} lists a key twice")
    return found


def _judge(path: Path, key: str, value: object) -> tuple[str, float | None]:
    if value == "nan":  # what the oldest files say of keys of another shape
        return "shape_mismatch", None
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        refuse(path, "its value in kv is not a distance", key)
    try:
        l2 = float(value)
    except OverflowError:
        l2 = math.inf
    if not abs(l2) <= _LARGEST:
        return "non_finite", None
    if l2 < 0:
        refuse(path, "its distance is negative", key)
    return ("changed", l2) if l2 > 0 else ("identical", 0.0)


def other_spelling(key: str) -> str | None:
    """Return how the other of the two layouts spells a key of CLIP, with or without `text_model.`.

    >>> other_spelling("cond_stage_model.transformer.encoder.x")
    'cond_stage_model.transformer.text_model.encoder.x'
    """
    if not key.startswith(_TEXT):
        return None
    rest = key.removeprefix(_TEXT)
    return _TEXT + (rest.removeprefix(_INNER) if rest.startswith(_INNER) else _INNER + rest)


def renamed_key(key_a: str, key_b: str) -> str | None:
    """Return how version 1 writes a pair of spellings: `nai.` and the shorter one; else None."""
    return _RENAMED + min(key_a, key_b, key=len) if other_spelling(key_a) == key_b else None


def _spellings(key: str, only_a: Iterable[str], only_b: Iterable[str]) -> tuple[str, str] | None:
    """Return how each side spells a key marked `nai.`; None where it is not one."""
    spelled = key.removeprefix(_RENAMED)
    other = other_spelling(spelled)
    if spelled == key or other is None:
        return None
    if spelled in only_a or (spelled not in only_b and other in only_b):
        return spelled, other
    return other, spelled


# Version 2


def _read_matrices(path: Path, document: Mapping[str, Any]) -> PublishedMatrices:
    files, published = document["ml"], document["dm"]
    if not isinstance(files, list) or len(files) < 2:
        refuse(path, "ml is not a list of two models or more")
    if not isinstance(published, dict):
        refuse(path, "dm is not an object of components and matrices")
    models = [_model_name(checked_text(path, file)) for file in files]
    if "" in models:
        refuse(path, "a model in ml has no name")
    twice = repeated(models)
    if twice is not None:
        refuse(path, f"two models in ml have the same name, {printable(twice)!r}")
    matrices = {
        checked_text(path, component): _read_matrix(path, component, rows, len(models))
        for component, rows in published.items()
    }
    return PublishedMatrices(tuple(models), matrices)


def _model_name(file: str) -> str:
    """Return a file name without folder and ending.

    >>> _model_name("models/anything-v4.5-pruned.safetensors")
    'anything-v4.5-pruned'
    """
    name = re.split(r"[/\\]", file)[-1]
    ending = next((e for e in _ENDINGS if name.lower().endswith(e)), "")
    return name[: len(name) - len(ending)]


def _read_matrix(path: Path, component: str, rows: object, n: int) -> Floats:
    def bad(problem: str) -> NoReturn:
        refuse(path, f"the matrix of {printable(component)!r} {problem}")

    if not isinstance(rows, list) or len(rows) != n:
        bad(f"has not one row for each of the {n} models")
    values = np.empty((n, n))
    for i, row in enumerate(rows):
        if not isinstance(row, list) or len(row) != n:
            bad(f"is not square: row {i} has not {n} values")
        if not all(type(value) in (int, float, type(None)) for value in row):
            bad(f"has a value in row {i} that is not a number")
        try:
            values[i] = row
        except OverflowError:
            bad(f"has a number in row {i} that is too large")
    values[~(np.abs(values) <= _LARGEST)] = np.nan
    if (values < 0).any():
        bad("has a negative distance")
    if (np.diagonal(values) > 0).any():
        bad("has a model that differs from itself")
    gaps = np.isnan(values)
    worst = np.abs(values - values.T) > _SYMMETRY * np.maximum(values, values.T)
    if worst.any() or (gaps != gaps.T).any():
        i, j = np.argwhere(worst | (gaps != gaps.T))[0]
        bad(f"is not symmetric: {values[i, j]} and {values[j, i]} at {i}, {j}")
    values = np.maximum(values, values.T)
    np.fill_diagonal(values, 0.0)
    return values
