"""The checks of a store, one after another: SQL over the rows, and what SQL cannot say.

Most checks are statements of `sql/doctor.sql`. The triangle inequality, the sums of components and
the estimates are computed here, by what compare and estimate compute them with.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from megasim.checkpoint.dtypes import STORAGE_DTYPES
from megasim.compare.pairs import METRIC_VERSION, summed_batches
from megasim.compare.tiered_pairs import split_by_tier
from megasim.errors import NoAnswerError
from megasim.estimate.pairs import estimate_component
from megasim.fingerprint.sketch import LENGTH_FACTORS
from megasim.fingerprint.tensor import FINGERPRINT_VERSION
from megasim.progress import NO_PROGRESS, Progress
from megasim.store.batches import pair_table, table_of
from megasim.store.rows import Pair, Store
from megasim.store.statements import statement

# Keys whose distances are in memory at a time, and contents that triangles are sought through.
_KEYS_AT_ONCE = 64
_MOST_PIVOTS = 64
_PAIRS_AT_ONCE = 2000
_ROUNDING = 1e-5

Observation = tuple[str, int | None, int | None]


class About(StrEnum):
    """What the two numbers beside a fault are the ids of."""

    MODEL = "model"
    CONTENT = "content"
    MODELS = "models"
    CONTENTS = "contents"
    NOTHING = "nothing"


class Cure(StrEnum):
    """What `repair` makes of a fault, and who has to go on."""

    SUM_UP = "sums are made again"
    COMPARE = "distances are dropped; `megasim compare` computes them again"
    PAIR = "the pair is dropped; `megasim compare` takes it up again"
    INGEST = "models are marked; `megasim ingest` of their files reads them again"
    FORGET = "the model is dropped; `megasim ingest` of its file takes it up again"
    ESTIMATE = "estimates are dropped; they are made again when asked for"
    DROP = "rows of no use are dropped"
    IMPORT = "import the published file again"


class Check(NamedTuple):
    """What a check is about, and what becomes of what it finds."""

    about: About
    cure: Cure


# Each check by its name, which is that of its statement; in the order in which they run.
CHECKS = {
    "models_of_no_file": Check(About.MODEL, Cure.FORGET),
    "models_that_cannot_be": Check(About.MODEL, Cure.INGEST),
    "models_without_contents": Check(About.MODEL, Cure.INGEST),
    "models_that_lost_rows": Check(About.MODEL, Cure.INGEST),
    "keys_of_no_content": Check(About.MODEL, Cure.INGEST),
    "keys_held_twice": Check(About.MODEL, Cure.INGEST),
    "shapes_that_do_not_fit": Check(About.MODEL, Cure.INGEST),
    "rows_of_no_model": Check(About.NOTHING, Cure.DROP),
    "rows_of_no_content": Check(About.NOTHING, Cure.DROP),
    "contents_that_were_altered": Check(About.CONTENT, Cure.INGEST),
    "contents_that_cannot_be": Check(About.CONTENT, Cure.INGEST),
    "sketches_that_do_not_fit": Check(About.CONTENT, Cure.INGEST),
    "distances_out_of_order": Check(About.CONTENTS, Cure.COMPARE),
    "distances_held_twice": Check(About.CONTENTS, Cure.COMPARE),
    "distances_that_cannot_be": Check(About.CONTENTS, Cure.COMPARE),
    "distances_against_sketches": Check(About.CONTENTS, Cure.COMPARE),
    "distances_against_triangles": Check(About.CONTENTS, Cure.COMPARE),
    "linfs_that_cannot_be": Check(About.CONTENTS, Cure.COMPARE),
    "cossims_that_cannot_be": Check(About.CONTENTS, Cure.COMPARE),
    "roundings_that_cannot_be": Check(About.CONTENTS, Cure.COMPARE),
    "pairs_that_cannot_be": Check(About.MODELS, Cure.PAIR),
    "renames_that_cannot_be": Check(About.MODELS, Cure.PAIR),
    "done_without_distances": Check(About.MODELS, Cure.COMPARE),
    "sums_that_do_not_follow": Check(About.MODELS, Cure.SUM_UP),
    "samples_that_cannot_be": Check(About.MODELS, Cure.PAIR),
    "sampled_sums_that_do_not_follow": Check(About.MODELS, Cure.SUM_UP),
    "imported_sums_that_do_not_follow": Check(About.MODELS, Cure.SUM_UP),
    "estimates_that_do_not_follow": Check(About.MODELS, Cure.ESTIMATE),
    "imported_that_cannot_be": Check(About.MODELS, Cure.IMPORT),
}


@dataclass(frozen=True)
class Fault:
    """What one check found.

    Attributes:
        check: its name in `CHECKS`.
        found: each thing that is wrong, in words.
        ids: for each of them, two ids; `CHECKS` says of what.
    """

    check: str
    found: tuple[str, ...]
    ids: tuple[tuple[int | None, int | None], ...]

    @property
    def cure(self) -> Cure:
        """What `repair` makes of it."""
        return CHECKS[self.check].cure

    def to_json(self) -> dict[str, Any]:
        """Return what `megasim doctor --json` promises of a fault."""
        return {"check": self.check, "found": list(self.found), "cure": str(self.cure)}


def find_faults(store: Store, *, progress: Progress = NO_PROGRESS) -> list[Fault]:
    """Return what is wrong with the rows of a store, a fault for each check that found something.

    Reads no checkpoint and changes nothing. Time and memory are those of `compare`'s summing up and
    of one estimate of all pairs that are known by estimates.
    """
    faults = []
    store.keep()
    progress.start("Checking", len(CHECKS), "checks")
    try:
        for name in CHECKS:
            found = list(_COMPUTED[name](store) if name in _COMPUTED else _asked(store, name))
            if found:
                texts, a, b = zip(*found, strict=True)
                faults.append(Fault(name, texts, tuple(zip(a, b, strict=True))))
            progress.advance(1)
    finally:
        progress.finish()
    return faults


def _asked(store: Store, name: str) -> list[Observation]:
    """Return what a statement finds."""
    values: Mapping[str, Any] = {
        "dtypes": list(STORAGE_DTYPES),
        "fingerprint_version": FINGERPRINT_VERSION,
        "metric_version": METRIC_VERSION,
    }
    factors = table_of(["elements", "factor"], LENGTH_FACTORS)
    asks = {word: value for word, value in values.items() if f"${word}" in statement(name)}
    return store.rows(name, tables={"length_factors": factors}, **asks)


def _against_triangles(store: Store) -> Iterator[Observation]:
    """Exact L2 under one key: no distance exceeds the way round by a third content.

    All three sides are reported: the inequality does not say which one is wrong.
    """
    keys = [key for (key,) in store.rows("keys_of_triangles")]
    seen: set[tuple[int, int]] = set()
    for start in range(0, len(keys), _KEYS_AT_ONCE):
        some = keys[start : start + _KEYS_AT_ONCE]
        batch = {"canonical_key": some, "position": np.arange(len(some))}
        found = store.arrays("triangle_distances", tables={"batch": batch}, version=METRIC_VERSION)
        cuts = np.searchsorted(found["position"], np.arange(len(some) + 1))
        for key, begin, end in zip(some, cuts[:-1], cuts[1:], strict=True):
            sides = {name: found[name][begin:end] for name in ("tensor_a", "tensor_b", "l2")}
            for a, b, c in _broken_triangles(sides):
                for pair in ((a, b), (a, c), (b, c)):
                    low, high = sorted(pair)
                    if (low, high) not in seen:
                        seen.add((low, high))
                        yield f"{key}: contents {a}, {b} and {c} make no triangle", low, high


def _broken_triangles(sides: Mapping[str, npt.NDArray[Any]]) -> Iterator[tuple[int, int, int]]:
    """Yield three contents for each distance that is longer than the way round."""
    ids = np.unique(np.concatenate([sides["tensor_a"], sides["tensor_b"]]))
    if len(ids) < 3:
        return
    i, j = np.searchsorted(ids, sides["tensor_a"]), np.searchsorted(ids, sides["tensor_b"])
    square = np.full((len(ids), len(ids)), np.nan)
    square[i, j] = square[j, i] = sides["l2"]
    # through contents spread over all, where they are many
    for k in np.unique(np.linspace(0, len(ids) - 1, _MOST_PIVOTS).astype(int)):
        way = square[:, k, None] + square[None, k, :]
        with np.errstate(invalid="ignore"):
            broken = np.argwhere(np.triu(square > way * (1 + _ROUNDING)))
        for x, y in broken:
            yield int(ids[x]), int(ids[y]), int(ids[k])


def _sums(store: Store) -> Iterator[Observation]:
    """Rows of component_distance beside the same sums made anew from the layers."""
    yield from _asked(store, "components_that_cannot_be")
    pairs, _ = split_by_tier(store, _done_pairs(store))
    for some in summed_batches(store, pairs):
        yield from store.rows("sums_that_do_not_follow", tables={"batch": pair_table(some)})


def _sums_of_samples(store: Store) -> Iterator[Observation]:
    """The same of pairs of which a model was not read in full, from what samples say of keys."""
    _, pairs = split_by_tier(store, _done_pairs(store))
    for start in range(0, len(pairs), _PAIRS_AT_ONCE):
        batch = {"batch": pair_table(pairs[start : start + _PAIRS_AT_ONCE])}
        store.write("sum_tiered", tables=batch)
        yield from store.rows("sampled_sums_that_do_not_follow", tables=batch)


def _done_pairs(store: Store) -> list[Pair]:
    known = store.pairs()
    done = zip(known["model_a"][known["done"]], known["model_b"][known["done"]], strict=True)
    return sorted({(int(a), int(b)) for a, b in done if a < b})


def _estimates(store: Store) -> Iterator[Observation]:
    """Estimates in the store beside the same made anew from the sketches."""
    for (component,) in store.rows("estimated_components"):
        try:
            frame = estimate_component(store, component)
        except NoAnswerError:  # of an older version; they are left out anyway
            continue
        yield from store.rows(
            "estimates_that_do_not_follow", tables={"batch": frame}, component=component
        )


_COMPUTED: Mapping[str, Callable[[Store], Iterator[Observation]]] = {
    "distances_against_triangles": _against_triangles,
    "sums_that_do_not_follow": _sums,
    "sampled_sums_that_do_not_follow": _sums_of_samples,
    "estimates_that_do_not_follow": _estimates,
}
