"""Fingerprints: one as a value, and those of many tensors as a table, in a tenth of the memory."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Generic, TypeVar, overload

import numpy as np
import numpy.typing as npt

from megasim.fingerprint.profile import NO_NORMS, Norms
from megasim.kernels import state
from megasim.kernels.state import Counts, Doubles, Singles

Number = TypeVar("Number", bound=np.generic)
Hashes = npt.NDArray[np.uint8]
Flags = npt.NDArray[np.bool_]

# The hashes of a fingerprint and their bytes; its moments; its counts.
HASHES: Final[Mapping[str, int]] = {
    "content_hash": 32, "value_hash": 16, "fp16_hash": 16, "bf16_hash": 16,
}  # fmt: skip
MOMENTS: Final = ("l1", "l2", "linf", "mean", "std", "kurtosis")
COUNTS: Final = ("zeros", "nans", "infs")
_L2 = MOMENTS.index("l2")
_NO_SKETCH: Singles = np.empty(0, dtype=np.float32)


@dataclass(frozen=True, slots=True, eq=False)
class Fingerprint:
    """What megasim keeps of one tensor.

    Attributes:
        content_hash: 64 hex digits, BLAKE3 over the dtype's name and the elements' bytes, row-major
            and little-endian. The shape is not in it. Of decoded values it is of the codes, scales
            … that are stored, with all that their values depend on beside.
        value_hash: 32 hex digits, equal if and only if the numbers are equal, whatever the dtype;
            −0 equals 0, and all NaNs are equal. Same as `fp16_hash` or `bf16_hash` if the numbers
            fit that dtype.
        fp16_hash, bf16_hash: 32 hex digits, of the numbers rounded to that dtype, to nearest with
            ties to even; of float64 and integers by way of float32, as torch rounds them.
        dtype: torch's name; float32 of decoded values. numel: number of elements.
        l1, l2, linf: norms; None where some element is NaN or inf, or l2 leaves float64's range.
            0 for an empty tensor.
        mean, std, kurtosis: of the elements as a population (ddof 0), the kurtosis as excess over
            the normal distribution's 3. None like the norms, and when empty; kurtosis also
            when the elements are all equal.
        zeros, nans, infs: how many elements are so.
        is_constant: whether all elements are equal; so with one element or none.
        sketch: (`sketch_length(numel, m)`,) float32, see `megasim.fingerprint.sketch`; empty with
            NaN or inf, or when the numbers leave the range of float32.
        row_norms, column_norms: float16, see `megasim.fingerprint.profile`; empty where none are
            kept. Unlike all else they depend on the shape.

    Norms and moments are good to about 1e-6 relative (the mean: to 1e-6 of the mean magnitude).
    """

    content_hash: str
    value_hash: str
    fp16_hash: str
    bf16_hash: str
    dtype: str
    numel: int
    l1: float | None
    l2: float | None
    linf: float | None
    mean: float | None
    std: float | None
    kurtosis: float | None
    zeros: int
    nans: int
    infs: int
    is_constant: bool
    sketch: Singles
    row_norms: Norms = field(default_factory=lambda: NO_NORMS)
    column_norms: Norms = field(default_factory=lambda: NO_NORMS)


class Lists(Generic[Number]):
    """Lists of numbers of unequal lengths, one after another in one array."""

    __slots__ = ("lengths", "starts", "values")

    def __init__(self, lengths: Sequence[int], dtype: type[Number]) -> None:
        """Make lists of zeros.

        Args:
            lengths: of each list; where nothing is kept after all, `lengths` is set to 0.
        """
        self.lengths: Counts = np.array(lengths, dtype=np.int64)
        ends = np.cumsum(self.lengths)
        self.starts: Counts = ends - self.lengths
        self.values: npt.NDArray[Number] = np.zeros(int(ends[-1]) if len(ends) else 0, dtype)

    def __getitem__(self, i: int) -> npt.NDArray[Number]:
        start = self.starts[i]
        return self.values[start : start + self.lengths[i]]

    def append_to(self, other: Lists[Number], first: int) -> None:
        """Copy all lists into those of another from the `first` on, which have their lengths."""
        if int(self.lengths.sum()) == len(self.values):  # nothing was left out
            start = int(other.starts[first]) if len(self.lengths) else 0
            other.values[start : start + len(self.values)] = self.values
            return
        for i, (start, length) in enumerate(
            zip(self.starts.tolist(), self.lengths.tolist(), strict=True)
        ):
            there = int(other.starts[first + i])
            other.values[there : there + length] = self.values[start : start + length]


class FingerprintTable(Sequence[Fingerprint]):
    """The fingerprints of some tensors, in order; each is made of its row when it is asked for.

    Attributes:
        dtypes: torch's names. numel: (n,) int64.
        hashes: by their names, (n, 32) or (n, 16) bytes.
        moments: (n, 6) in the order of `MOMENTS`; NaN for None.
        counts: (n, 3) in the order of `COUNTS`. is_constant: (n,).
        sketches, row_norms, column_norms: see `Fingerprint`.
    """

    __slots__ = (
        "column_norms", "counts", "dtypes", "hashes", "is_constant", "moments", "numel",
        "row_norms", "sketches",
    )  # fmt: skip

    def __init__(
        self,
        dtypes: Iterable[str],
        numel: Sequence[int],
        sketch_lengths: Sequence[int],
        rows: Sequence[int],
        columns: Sequence[int],
    ) -> None:
        """Make room for tensors of some dtypes and sizes, whose fingerprints are still all 0.

        Args:
            sketch_lengths, rows, columns: how many numbers there are of each tensor, at most.
        """
        count = len(numel)
        self.dtypes = list(dtypes)
        self.numel: Counts = np.array(numel, dtype=np.int64)
        self.hashes: dict[str, Hashes] = {
            name: np.zeros((count, size), dtype=np.uint8) for name, size in HASHES.items()
        }
        self.moments: Doubles = np.full((count, len(MOMENTS)), math.nan)
        self.counts: Counts = np.zeros((count, len(COUNTS)), dtype=np.int64)
        self.is_constant: Flags = np.zeros(count, dtype=np.bool_)
        self.sketches = Lists(sketch_lengths, np.float32)
        self.row_norms = Lists(rows, np.float16)
        self.column_norms = Lists(columns, np.float16)

    @classmethod
    def of(cls, prints: Sequence[Fingerprint]) -> FingerprintTable:
        """Return a table of fingerprints."""
        table = cls(
            [p.dtype for p in prints],
            [p.numel for p in prints],
            *([len(getattr(p, name)) for p in prints]
              for name in ("sketch", "row_norms", "column_norms")),
        )  # fmt: skip
        for i, p in enumerate(prints):
            for name, rows in table.hashes.items():
                rows[i] = np.frombuffer(bytes.fromhex(getattr(p, name)), dtype=np.uint8)
            values = [getattr(p, name) for name in MOMENTS]
            table.moments[i] = [math.nan if value is None else value for value in values]
            table.counts[i] = [getattr(p, name) for name in COUNTS]
            table.is_constant[i] = p.is_constant
            table.sketches[i][:] = p.sketch
            table.row_norms[i][:] = p.row_norms
            table.column_norms[i][:] = p.column_norms
        return table

    @classmethod
    def joined(cls, tables: Sequence[FingerprintTable]) -> FingerprintTable:
        """Return the rows of some tables one after another."""
        if len(tables) == 1:
            return tables[0]
        lists = ("sketches", "row_norms", "column_norms")
        together = cls(
            itertools.chain.from_iterable(t.dtypes for t in tables),
            [n for t in tables for n in t.numel.tolist()],
            *([n for t in tables for n in getattr(t, name).lengths.tolist()] for name in lists),
        )
        first = 0
        for table in tables:
            here = slice(first, first + len(table))
            for name, rows in table.hashes.items():
                together.hashes[name][here] = rows
            for name in ("moments", "counts", "is_constant"):
                getattr(together, name)[here] = getattr(table, name)
            for name in lists:
                getattr(table, name).append_to(getattr(together, name), first)
            first += len(table)
        return together

    def __len__(self) -> int:
        return len(self.numel)

    @overload
    def __getitem__(self, i: int) -> Fingerprint: ...
    @overload
    def __getitem__(self, i: slice) -> list[Fingerprint]: ...
    def __getitem__(self, i: int | slice) -> Fingerprint | list[Fingerprint]:
        if isinstance(i, slice):
            return [self[place] for place in range(*i.indices(len(self)))]
        i = range(len(self))[i]  # IndexError where there is none, and from the end
        said: dict[str, Any] = {name: rows[i].tobytes().hex() for name, rows in self.hashes.items()}
        said |= zip(COUNTS, self.counts[i].tolist(), strict=True)
        moments = self.moments[i].tolist()
        said |= {name: None if x != x else x for name, x in zip(MOMENTS, moments, strict=True)}
        return Fingerprint(
            **said,
            dtype=self.dtypes[i],
            numel=int(self.numel[i]),
            is_constant=bool(self.is_constant[i]),
            sketch=self.sketches[i],
            row_norms=self.row_norms[i],
            column_norms=self.column_norms[i],
        )

    def hex_of(self, name: str, rows: Iterable[int] | None = None) -> list[str]:
        """Return a hash of some tensors, or of all, as text."""
        size = 2 * HASHES[name]
        chosen = self.hashes[name] if rows is None else self.hashes[name][list(rows)]
        text = chosen.tobytes().hex()
        return [text[i : i + size] for i in range(0, len(text), size)]

    def columns_of(self, rows: Sequence[int]) -> dict[str, Any]:
        """Return some rows as columns under the names of `Fingerprint`, but for the profiles."""
        chosen = np.array(rows, dtype=np.int64)
        found: dict[str, Any] = {name: self.hex_of(name, rows) for name in HASHES}
        found["dtype"] = [self.dtypes[i] for i in rows]
        found["numel"] = self.numel[chosen]
        for place, name in enumerate(MOMENTS):
            values = self.moments[chosen, place]
            found[name] = [None if x != x else x for x in values.tolist()]
        for place, name in enumerate(COUNTS):
            found[name] = self.counts[chosen, place].copy()
        found["is_constant"] = self.is_constant[chosen]
        found["sketch"] = [self.sketches[i] for i in rows]
        return found

    # How a walk fills it

    def take_sums(
        self,
        rows: Sequence[int],
        moments: Doubles,
        counts: Counts,
        is_one_value: Flags,
    ) -> None:
        """Fill in moments and counts of some rows out of the sums of a walk (see `Sums`).

        What has NaN or inf, or leaves the range, keeps neither sketch nor profile.
        """
        where = np.array(rows, dtype=np.int64)
        numel = self.numel[where]
        constant = (numel == 0) | is_one_value | (counts[:, state.ZEROS] == numel)
        finite = (counts[:, state.NANS] == 0) & (counts[:, state.INFS] == 0)
        self.is_constant[where] = constant
        self.counts[where] = counts[:, [state.ZEROS, state.NANS, state.INFS]]
        found = _moments(moments, numel, constant)
        found[~np.isfinite(found)] = math.nan
        found[~finite] = math.nan
        self.moments[where] = found
        lost_sketch = ~finite | (counts[:, state.UNFIT_SKETCH] != 0)
        self.sketches.lengths[where[lost_sketch]] = 0
        without_norms = where[np.isnan(found[:, _L2])]
        self.row_norms.lengths[without_norms] = 0
        self.column_norms.lengths[without_norms] = 0

    def take_hashes(self, rows: Sequence[int], hashes: bytes) -> None:
        """Fill in the hashes of some rows, those of one after those of another."""
        where = np.array(rows, dtype=np.int64)
        together = np.frombuffer(hashes, dtype=np.uint8).reshape(len(where), -1)
        begin = 0
        for name, size in HASHES.items():
            self.hashes[name][where] = together[:, begin : begin + size]
            begin += size


def _moments(sums: Doubles, numel: Counts, is_constant: Flags) -> Doubles:
    """Return (n, 6) moments out of (n, 8) sums; inf and NaN where there are none."""
    mean, m2, m4 = sums[:, state.MEAN], sums[:, state.M2], sums[:, state.M4]
    with np.errstate(all="ignore"):
        m2 = np.where(is_constant, 0.0, np.maximum(m2, 0.0))
        spread = np.sqrt(m2 / numel)
        kurtosis = np.where(m2 > 0, m4 / m2 / m2 * numel - 3.0, math.nan)
        l2 = np.sqrt(m2 + numel * mean * mean)
    mean = np.where(numel > 0, mean, math.nan)
    values = (sums[:, state.L1], l2, sums[:, state.LINF], mean, spread, kurtosis)
    return np.stack(values, axis=1)
