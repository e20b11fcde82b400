"""Distances of components from the sketches in the store, with no file read.

Of one key, ‖S(a) − S(b)‖² estimates ‖a − b‖² without bias and with a relative standard error of
√(2/m) (see `sketch`); a tensor of m elements or fewer is kept whole and gives no error. Over the
keys of a component the squares add, so with dₖ the estimate of key k,

    L2 = √Σ dₖ²,   standard error of L2 = √(Σ 2 dₖ⁴ / m) / (2 L2).

Counts of identical and changed keys come from the hashes and are exact.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import pandas as pd

from megasim.errors import NoAnswerError, printable
from megasim.kernels import loops
from megasim.kernels.state import COUNTED
from megasim.progress import NO_PROGRESS, Progress
from megasim.store.batches import table_of
from megasim.store.matrices import member_names
from megasim.store.rows import Store

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int32]

# Sketches that are in memory at a time: 64 keys of 1,000 models are 66 MB.
_SKETCHES_AT_ONCE = 64_000
# Bytes of the store that are in memory meanwhile: each batch reads through all sketches there are.
_STORE_BYTES = 300 << 20


@dataclass(frozen=True)
class KeyContents:
    """What N models hold under one key, C contents in all.

    Attributes:
        key: the canonical key.
        place: (N,) int32, the row of `sketches` that each model holds; -1 where it lacks the key.
        name: (N,) int32, codes of the keys as the files spell them.
        sketches: (C, m) float32, one row for each distinct content.
        relative_variance: (C,) float64, of a squared distance: 2/m for a sketch of m numbers, 0
            for a tensor that is kept whole.
        codes: (C, 4) int32, codes of shape, value, fp16 and bf16 hash: equal codes mean equal
            shapes or hashes, negative fp16 and bf16 codes equal nothing.
        finite: (C,) bool, whether a content has neither NaN nor inf.
        measured: (C,) bool, whether a content is of a nature that enters distances.
    """

    key: str
    place: Ints
    name: Ints
    sketches: npt.NDArray[np.float32]
    relative_variance: npt.NDArray[np.float64]
    codes: Ints
    finite: npt.NDArray[np.bool_]
    measured: npt.NDArray[np.bool_]


@dataclass
class ComponentEstimate:
    """Sums over the keys of a component, of R models against N; each pair stands once.

    Attributes:
        squared: (R, N) float64, sum of squared estimates.
        variance: (R, N) float64, variance of `squared`.
        counted: (R, N, 8) int32, keys of each status of `COUNTED`.
        holds: for each key so far, (N,) which models hold it.
        rows: (R,) the models of the rows.
    """

    rows: npt.NDArray[np.int64]
    squared: Floats
    variance: Floats
    counted: Ints
    holds: list[npt.NDArray[np.bool_]] = field(default_factory=list)

    @classmethod
    def zeros(cls, rows: npt.NDArray[np.int64], models: int) -> ComponentEstimate:
        """Return sums over no key yet."""
        shape = (len(rows), models)
        counted = np.zeros((*shape, len(COUNTED)), dtype=np.int32)
        return cls(rows, np.zeros(shape), np.zeros(shape), counted)

    def counts(self) -> dict[str, Ints]:
        """Return status → (R, N) how many keys, of every status and of those renamed."""
        holding = np.array(self.holds, dtype=np.float32)
        both = (holding[:, self.rows].T @ holding).astype(np.int32)
        total = holding.sum(axis=0, dtype=np.int32)
        counts = {status: self.counted[..., i] for i, status in enumerate(COUNTED)}
        equal = self.counted.sum(axis=-1, dtype=np.int32)
        equal -= counts["renamed"] + counts["keys_measured"]
        return {
            **counts,
            "changed": both - equal,
            "missing_a": total[None, :] - both,
            "missing_b": total[self.rows][:, None] - both,
            "keys_compared": both - counts["shape_mismatch"] - counts["non_finite"],
        }

    @property
    def l2(self) -> Floats:
        """(R, N) the estimate; 0 also where no key was compared."""
        return np.asarray(np.sqrt(self.squared), dtype=np.float64)

    @property
    def l2_error(self) -> Floats:
        """(R, N) its standard error."""
        root, spread = np.sqrt(self.squared), np.sqrt(self.variance)
        error = np.divide(spread, 2 * root, out=np.zeros_like(root), where=root > 0)
        return np.asarray(error, dtype=np.float64)

    def add(self, key: KeyContents) -> None:
        """Add one key: the models of the rows against all."""
        first = np.zeros(len(key.place), dtype=np.bool_)
        first[self.rows] = True
        loops.tally_key(
            self.rows,
            first,
            key.place,
            key.name,
            key.codes,
            key.finite,
            key.measured,
            key.sketches,
            key.relative_variance,
            self.squared,
            self.variance,
            self.counted,
        )
        self.holds.append(key.place >= 0)


@dataclass
class Estimates:
    """Estimated distances of some models against all, component by component."""

    models: tuple[int, ...]
    rows: npt.NDArray[np.int64]
    components: dict[str, ComponentEstimate] = field(default_factory=dict)

    def to_frame(self) -> pd.DataFrame:
        """Return one row for each pair, smaller id first, and component that either holds."""
        ids = np.array(self.models, dtype=np.int64)
        # each pair once, also where both models are among the rows
        once = self.rows[:, None] != np.arange(len(ids))
        once[:, self.rows] &= self.rows[:, None] < self.rows[None, :]
        frames = []
        for component, estimate in self.components.items():
            counts = estimate.counts()
            keys = counts["keys_compared"] + counts["missing_a"] + counts["missing_b"]
            r, j = np.nonzero(once & (keys + counts["shape_mismatch"] + counts["non_finite"] > 0))
            i = self.rows[r]
            swap = ids[i] > ids[j]
            data = {status: count[r, j] for status, count in counts.items()}
            a, b = data["missing_a"], data["missing_b"]
            data["missing_a"], data["missing_b"] = np.where(swap, b, a), np.where(swap, a, b)
            nothing = data["keys_measured"] == 0
            frames.append(
                pd.DataFrame(
                    {
                        "model_a": np.minimum(ids[i], ids[j]),
                        "model_b": np.maximum(ids[i], ids[j]),
                        "component": component,
                        **data,
                        "l2": pd.arrays.FloatingArray(estimate.l2[r, j], nothing),
                        "l2_error": pd.arrays.FloatingArray(estimate.l2_error[r, j], nothing),
                    }
                )
            )
        return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame()


def estimate_distances(
    models: Sequence[int],
    rows: Sequence[int],
    keys: Iterator[tuple[str, KeyContents]],
) -> Estimates:
    """Return the estimates of the models at `rows` against all, over (component, key) pairs.

    Time is C²·m for each key of C contents, memory 48·R·N bytes for each component. The next key
    is taken from `keys` while one is computed.
    """
    found = Estimates(tuple(models), np.array(sorted(rows), dtype=np.int64))
    with ThreadPoolExecutor(1) as background:
        last: Future[None] | None = None
        for component, key in keys:
            if last is not None:
                last.result()
            if component not in found.components:
                found.components[component] = ComponentEstimate.zeros(found.rows, len(models))
            last = background.submit(found.components[component].add, key)
        if last is not None:
            last.result()
    return found


def check_current(store: Store, models: Iterable[int]) -> None:
    """Refuse models whose sketches are of another version: they give no distances.

    Raises:
        NoAnswerError: there are some; says which.
    """
    members = {"members": {"model_id": sorted(set(models))}}
    old = [name for (name,) in store.rows("models_of_other_versions", tables=members)]
    if old:
        some = ", ".join(printable(name, 80) for name in old[:3])
        raise NoAnswerError(
            f"{len(old)} {'models were' if len(old) > 1 else 'model was'} fingerprinted by another "
            f"version, whose sketches cannot be compared: {some}{', …' if len(old) > 3 else ''}",
            "run `megasim ingest` on their files again, or `megasim forget` on them",
        )


def read_key_contents(
    store: Store,
    models: Sequence[int],
    components: Sequence[str],
    *,
    most: int | None = None,
    progress: Progress = NO_PROGRESS,
) -> Iterator[tuple[str, KeyContents]]:
    """Yield (component, contents) of every key of `components`, some keys in memory at a time.

    Args:
        most: how many keys to read, spread evenly over all; every key when None.

    Raises:
        NoAnswerError: the fingerprints of some models are of an older version.
    """
    check_current(store, models)
    batch, members = {"component": list(components)}, {"model_id": list(models)}
    wanted = store.rows("sketch_keys", tables={"batch": batch, "members": members})
    keys = [(c, key) for key, c, _ in wanted]
    if most is not None:
        keys = keys[:: max(-(-len(keys) // most), 1)]
    progress.start("Estimating", len(keys), "keys")
    try:
        step = max(_SKETCHES_AT_ONCE // max(len(models), 1), 1)
        for start in range(0, len(keys), step):
            some = keys[start : start + step]
            for found in _read_batch(store, np.array(models), some):
                yield found
                progress.advance(1)
    finally:
        progress.finish()


def _read_batch(
    store: Store, models: npt.NDArray[np.int64], keys: Sequence[tuple[str, str]]
) -> Iterator[tuple[str, KeyContents]]:
    """Yield (component, contents) of some keys that are asked for at once."""
    batch = {**table_of(["component", "canonical_key"], keys), "position": np.arange(len(keys))}
    members = {"model_id": models}
    with store.capped(_STORE_BYTES):
        held = store.arrays("sketch_holders", tables={"batch": batch, "members": members})
        order = np.argsort(models)
        at = order[np.searchsorted(models, held["model_id"], sorter=order)]
        contents = {"tensor_id": np.unique(held["tensor_id"])}
        prints = store.arrays("contents_of_holders", tables={"batch": contents})
        sketch = store.arrays("sketches_of", tables={"batch": contents})["sketch"]
    row = np.searchsorted(prints["id"], held["tensor_id"])
    begins = np.searchsorted(held["position"], np.arange(len(keys) + 1))
    for (component, key), begin, end in zip(keys, begins[:-1], begins[1:], strict=True):
        here = slice(begin, end)
        if begin == end:
            continue
        # a content in two shapes, or of two natures, counts as two
        (rows, shapes, measured), code = np.unique(
            np.stack([row[here], held["shape"][here], held["is_measured"][here]]),
            axis=1,
            return_inverse=True,
        )
        place = np.full(len(models), -1, dtype=np.int32)
        name = np.full(len(models), -1, dtype=np.int32)
        place[at[here]], name[at[here]] = code, held["name"][here]
        sketches = _as_matrix(sketch[rows])
        codes = [shapes, *(prints[n][rows] for n in ("value", "fp16", "bf16"))]
        yield (
            component,
            KeyContents(
                key=key,
                place=place,
                name=name,
                sketches=sketches,
                relative_variance=_relative_variances(prints["numel"][rows], sketch[rows]),
                codes=np.stack(codes, axis=1).astype(np.int32),
                finite=prints["is_finite"][rows],
                measured=measured.astype(np.bool_),
            ),
        )


def _relative_variances(
    numels: npt.NDArray[np.int64], sketches: npt.NDArray[np.object_]
) -> npt.NDArray[np.float64]:
    lengths = np.array([len(sketch) for sketch in sketches], dtype=np.int64)
    return np.where(numels <= lengths, 0.0, 2.0 / np.maximum(lengths, 1))


def _as_matrix(sketches: npt.NDArray[np.object_]) -> npt.NDArray[np.float32]:
    """Return sketches, (C,) arrays, as the rows of one; those that are shorter end in zeros."""
    lengths = {len(sketch) for sketch in sketches}
    if len(lengths) == 1 and lengths != {0}:
        return np.stack(list(sketches))
    rows = np.zeros((len(sketches), max(lengths | {1})), dtype=np.float32)
    for row, sketch in zip(rows, sketches, strict=True):
        row[: len(sketch)] = sketch
    return rows


def save_estimates(
    store: Store,
    components: Sequence[str],
    *,
    of: int | None = None,
    among: Collection[int] | None = None,
    progress: Progress = NO_PROGRESS,
) -> int:
    """Estimate every pair that holds a component and is not known yet; return how many rows.

    `components` may name groups, such as "vae" or "all". Only the models that take part in such
    a pair are computed against the others.

    Args:
        of: a model whose pairs alone are wanted, by its id; all pairs when None.
        among: ids of the only models that are looked at, in the order of the store; all that hold
            the component when None.
    """
    members = dict.fromkeys(c for name in components for c in member_names(store, name))
    return sum(_save_component(store, component, of, among, progress) for component in members)


def estimate_component(store: Store, component: str) -> pd.DataFrame:
    """Return the estimates of all pairs of a component, whatever else is known of them.

    Raises:
        NoAnswerError: the fingerprints of some models are of an older version.
    """
    batch = {"batch": pd.DataFrame({"component": [component]})}
    ids = [int(i) for (i,) in store.rows("tensor_holders", tables=batch)]
    keys = read_key_contents(store, ids, [component])
    return estimate_distances(ids, range(len(ids)), keys).to_frame()


def _save_component(
    store: Store,
    component: str,
    of: int | None,
    among: Collection[int] | None,
    progress: Progress,
) -> int:
    batch = {"batch": {"component": [component]}}
    if among is None:
        ids = [int(i) for (i,) in store.rows("tensor_holders", tables=batch)]
    else:
        ids = sorted(among)
    known = store.rows("known_pairs", tables=batch, of=of)
    new = _open_rows(ids, known) if of is None else _open_row(ids, known, of)
    if not new:
        return 0
    keys = read_key_contents(store, ids, [component], progress=progress)
    frame = estimate_distances(ids, new, keys).to_frame()
    with store.transaction():
        store.write("add_estimates", tables={"batch": frame})
    return len(frame)


def _open_rows(ids: Sequence[int], known: Iterable[tuple[int, int]]) -> list[int]:
    """Return places of models that touch every pair that is not known."""
    place = {model_id: i for i, model_id in enumerate(ids)}
    unknown = ~np.eye(len(ids), dtype=bool)
    for a, b in known:
        if a in place and b in place:
            unknown[place[a], place[b]] = unknown[place[b], place[a]] = False
    return _cover(unknown)


def _open_row(ids: Sequence[int], known: Iterable[tuple[int, int]], of: int) -> list[int]:
    """Return the place of a model if any pair of it is not known."""
    met = {model_id for pair in known for model_id in pair}
    return [ids.index(of)] if of in ids and not met.issuperset({*ids} - {of}) else []


def _cover(open_pairs: npt.NDArray[np.bool_]) -> list[int]:
    """Return models that touch every open pair; few of them where few models are new."""
    open_pairs = open_pairs.copy()
    chosen = []
    counts = open_pairs.sum(axis=1)
    while counts.any():
        best = int(np.argmax(counts))
        chosen.append(best)
        counts = counts - open_pairs[best]
        counts[best] = 0
        open_pairs[best] = open_pairs[:, best] = False
    return sorted(chosen)
