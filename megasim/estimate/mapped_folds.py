"""Folds in files beside the store, laid out to be mapped into memory: they find candidates.

Reading the folds of 100,000 models out of the database takes ten seconds, and a question about one
model needs 40 of them. So they are kept a second time in a folder beside the store, with a short
form before them: the 4,096 numbers of a fold added up eight by eight are 512, again with hashed
signs and places, so that ‖short(a) − short(b)‖ is a distance with a standard error of
1/√1024 = 3.1 % beside that of the fold. All short forms are looked at (2 KB a model), and the folds
themselves of those alone that may be among the nearest.

These files are a cache: no distance that is told comes out of them, and who deletes the folder
loses nothing. A row belongs to what a model holds, by the digest that the store keeps of that,
never to a name or an id; a model whose row is missing has it added. A file whose head or size is
not as it was written, or a row that does not match its own hash, is not used, and written anew.
"""

from __future__ import annotations

import os
import struct
import threading
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from blake3 import blake3

from megasim.fingerprint.folded import FOLD_VERSION, LENGTH

Singles = npt.NDArray[np.float32]
Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Keys = npt.NDArray[np.uint64]

SHORT = 512
# Four standard errors above over four below: who is nearer than another by folds is, by the short
# forms, not farther than the other by more than this.
_FOUR_ERRORS = 4 / (2 * SHORT) ** 0.5
_MARGIN = (1 + _FOUR_ERRORS) / (1 - _FOUR_ERRORS)
_MAGIC = b"megasim folds 1\n"
_HEAD = struct.Struct("<16sQQ32s")  # magic, version of the fold, rows, hash of keys and checks
_PAGE = 4096
_PART = ".part"  # ends the name of what is being written
# Short forms that are compared at a time: 16 MB.
_AT_ONCE = 8192
# Of a model that is equally far from very many no more folds are looked at: 67 MB.
_MOST_CANDIDATES = 4096
# Of more files than this, and of more rows that no model needs than those in use, all are written
# anew as one.
_MOST_FILES = 8


def short_folds(folds: Singles) -> Singles:
    """Return the (N, 512) short forms of (N, 4096) folds: every 512th number added up.

    >>> short_folds(np.ones((1, 4096), dtype=np.float32)).sum()
    np.float32(4096.0)
    """
    parts = folds.reshape(len(folds), LENGTH // SHORT, SHORT)
    return np.asarray(parts.sum(axis=1), dtype=np.float32)


@dataclass(frozen=True, eq=False)
class _FoldFile:
    """One file, mapped: (N,) keys in ascending order, the row of each, and what is in the rows."""

    keys: Keys
    rows: Ints
    checks: Keys
    shorts: Singles
    folds: Singles

    @classmethod
    def opened(cls, path: Path) -> _FoldFile | None:
        """Map a file; None where it is not whole, or of another version."""
        try:
            with path.open("rb") as file:
                magic, version, rows, digest = _HEAD.unpack(file.read(_HEAD.size))
                if magic != _MAGIC or version != FOLD_VERSION:
                    return None
                begin = _begin_of_rows(rows)
                if os.fstat(file.fileno()).st_size != begin + rows * 4 * (SHORT + LENGTH):
                    return None
                columns = file.read(16 * rows)
                if blake3(columns).digest() != digest:
                    return None
                shorts = np.asarray(np.memmap(file, np.float32, "r", begin, (rows, SHORT)))
                begin += rows * 4 * SHORT
                folds = np.asarray(np.memmap(file, np.float32, "r", begin, (rows, LENGTH)))
        except (OSError, ValueError, struct.error):
            return None
        keys, checks = np.frombuffer(columns, dtype=np.uint64).reshape(2, rows)
        order = np.argsort(keys, kind="stable")
        return cls(keys[order], order, checks, shorts, folds)

    def places(self, keys: Keys) -> Ints:
        """Return the rows of some keys, which are all there."""
        return np.asarray(self.rows[np.searchsorted(self.keys, keys)])


class MappedFolds:
    """The folds of one component that are kept beside a store."""

    def __init__(self, store: Path, component: str) -> None:
        """Map what is there.

        Args:
            store: the file of the store.
        """
        self._folder = store.with_name(f"{store.name}.folds")
        # names of components come from files, and are no names for files
        name = blake3(component.encode("utf-8", "surrogatepass")).hexdigest(8)
        self._pattern = f"{name}-{FOLD_VERSION}"
        self._paths: list[Path] = []
        self._files: list[_FoldFile] = []
        self._open()

    def _open(self) -> None:
        self._paths, self._files = [], []
        for path in sorted(self._folder.glob(f"{self._pattern}-*.folds")):
            self._paths.append(path)
            found = _FoldFile.opened(path)
            if found is not None:
                self._files.append(found)

    def lacking(self, keys: Keys) -> Keys:
        """Return those of some keys that have no row, in ascending order."""
        missing = np.unique(keys)
        for file in self._files:
            missing = missing[~_held(file.keys, missing)]
        return missing

    def is_worn(self, keys: Keys) -> bool:
        """Whether there are many files, unusable ones, or far more rows than these keys need."""
        rows = sum(len(file.keys) for file in self._files)
        unused = len(self._paths) - len(self._files)
        return unused > 0 or len(self._paths) > _MOST_FILES or rows > 2 * len(keys) + _AT_ONCE

    def add(self, keys: Keys, folds: Iterable[Singles]) -> bool:
        """Write folds to a file of their own; whether it could be written.

        Args:
            keys: each once. folds: (n, 4096) each, in the order of the keys.
        """
        path = self._path_of(keys)
        # not the name of another thread or process that writes the same
        part = path.with_name(f"{path.name}.{os.getpid()}-{threading.get_ident()}{_PART}")
        try:
            self._folder.mkdir(exist_ok=True)
            _write(part, keys, folds)
            part.replace(path)
        except OSError:
            return False
        finally:
            with suppress(OSError):
                part.unlink(missing_ok=True)
        self._open()
        return True

    def _path_of(self, keys: Keys) -> Path:
        return self._folder / f"{self._pattern}-{blake3(keys.tobytes()).hexdigest(8)}.folds"

    def renew(self, keys: Keys) -> None:
        """Write the rows of these keys, each once, to one file, and remove all others."""
        old, folds = self._paths, self._rows_of(keys)
        if self.add(keys, folds):
            self._remove([path for path in old if path != self._path_of(keys)])

    def _rows_of(self, keys: Keys) -> Iterator[Singles]:
        for start in range(0, len(keys), _AT_ONCE // 8):
            yield self.rows(keys[start : start + _AT_ONCE // 8])

    def discard(self) -> None:
        """Remove all that is kept of the component: some of it is not what was written."""
        self._remove(self._paths)

    def _remove(self, paths: Iterable[Path]) -> None:
        for path in paths:
            with suppress(OSError):
                path.unlink(missing_ok=True)
        self._open()

    def rows(self, keys: Keys) -> Singles:
        """Return the (N, 4096) folds of some keys, which all have one.

        Raises:
            ValueError: one is not what was written.
        """
        found = np.zeros((len(keys), LENGTH), dtype=np.float32)
        left = np.ones(len(keys), dtype=np.bool_)
        for file in self._files:
            here = np.nonzero(left & _held(file.keys, keys))[0]
            places = file.places(keys[here])
            for at, place in zip(here.tolist(), places.tolist(), strict=True):
                found[at] = file.folds[place]
                if _check(found[at], file.shorts[place]) != file.checks[place]:
                    raise ValueError("a fold beside the store is not what was written")
            left[here] = False
        return found

    def squares(self, keys: Keys, fold: Singles) -> Floats:
        """Return (N,) squared distances of the folds of some keys from one.

        Raises:
            ValueError: one is not what was written.
        """
        squared = np.zeros(len(keys))
        for start in range(0, len(keys), _AT_ONCE // 8):
            some = slice(start, start + _AT_ONCE // 8)
            apart = (self.rows(keys[some]) - fold).astype(np.float64)
            squared[some] = np.einsum("ij,ij->i", apart, apart)
        return squared

    def short_squares(self, keys: Keys, fold: Singles) -> Floats:
        """Return (N,) squared distances of the short forms of some keys from that of a fold."""
        squared = np.zeros(len(keys))
        left = np.ones(len(keys), dtype=np.bool_)
        short = short_folds(fold[None])[0]
        for file in self._files:
            here = np.nonzero(left & _held(file.keys, keys))[0]
            places = file.places(keys[here])
            # in the order of the file, most of all where nearly all rows are asked for
            order = np.argsort(places, kind="stable")
            for start in range(0, len(order), _AT_ONCE):
                some = order[start : start + _AT_ONCE]
                at = places[some]
                is_run = len(at) and at[-1] - at[0] == len(at) - 1
                block = file.shorts[at[0] : at[-1] + 1] if is_run else file.shorts[at]
                apart = block - short
                squared[here[some]] = np.einsum("ij,ij->i", apart, apart)
            left[here] = False
        return squared


def candidates(squared: Floats, many: int) -> Ints:
    """Return the places of those that may be among the nearest, by squared short distances.

    As many as are asked for, and all that the error of the short forms may have put behind them; of
    more than 4,096, as for a model that is equally far from all others, the nearest of these.

    >>> candidates(np.array([1.0, 1.1, 9.0]), 1).tolist()
    [0, 1]
    """
    if len(squared) <= many:
        return np.arange(len(squared))
    last = np.partition(squared, many - 1)[many - 1]
    found = np.nonzero(squared <= last * _MARGIN**2)[0]
    if len(found) > max(_MOST_CANDIDATES, many):
        most = max(_MOST_CANDIDATES, many)
        found = np.sort(found[np.argpartition(squared[found], most - 1)[:most]])
    return found


def _held(held: Keys, keys: Keys) -> npt.NDArray[np.bool_]:
    """Return which of some keys are among those held, which ascend."""
    if not len(held):
        return np.zeros(len(keys), dtype=np.bool_)
    places = np.minimum(np.searchsorted(held, keys), len(held) - 1)
    return np.asarray(held[places] == keys)


def _begin_of_rows(rows: int) -> int:
    return -(-(_HEAD.size + 16 * rows) // _PAGE) * _PAGE


def _write(path: Path, keys: Keys, folds: Iterable[Singles]) -> None:
    rows = len(keys)
    begin = _begin_of_rows(rows)
    checks = np.zeros(rows, dtype=np.uint64)
    with path.open("wb") as file:
        done = 0
        for some in folds:
            whole = np.ascontiguousarray(some, dtype=np.float32)
            shorts = short_folds(whole)
            for i, (fold, short) in enumerate(zip(whole, shorts, strict=True), done):
                checks[i] = _check(fold, short)
            file.seek(begin + done * 4 * SHORT)
            file.write(shorts.tobytes())
            file.seek(begin + rows * 4 * SHORT + done * 4 * LENGTH)
            file.write(whole.tobytes())
            done += len(whole)
        if done != rows:
            raise OSError(f"{done} folds of {rows}")
        columns = keys.tobytes() + checks.tobytes()
        file.seek(0)
        file.write(_HEAD.pack(_MAGIC, FOLD_VERSION, rows, blake3(columns).digest()))
        file.write(columns)


def _check(fold: npt.NDArray[Any], short: npt.NDArray[Any]) -> int:
    """Return a number that changes with a row."""
    digest = blake3(np.ascontiguousarray(fold).view(np.uint8).data)
    digest.update(np.ascontiguousarray(short).view(np.uint8).data)
    return int.from_bytes(digest.digest(8), "little")
