"""Relations that the norms of rows and columns tell: units in another order, rows added.

Both follow from the profiles in the store; no file is read.
"""

from __future__ import annotations

import math

import numpy as np

from megasim.errors import NoAnswerError
from megasim.estimate.kinship import PERMUTED_SHARE, shared_units
from megasim.estimate.profiles import model_profiles
from megasim.findings.containment import held_alone
from megasim.findings.differing_keys import DifferingKey, name_differing
from megasim.findings.identity import Counts
from megasim.findings.kinship import ordered
from megasim.findings.pair_comparison import LEAST_COSINE, PairComparison, Relation, titles
from megasim.findings.small_differences import is_equal_elsewhere
from megasim.words import MISSING, RelationKind, Source, Status

# Another order of hidden units leaves the norm of a component as it was, but for sums in half
# precision.
_ONE_NORM = 1e-4
# Two norms kept as float16 may be the same where they differ by this share at most.
_SAME_NORM = 2.0**-10
# So many rows of a table must have the norms of before for the others to be called new.
_KEPT_ROWS = 0.99


def permuted(pair: PairComparison) -> Relation | None:
    """Return the relation when one model is the other with its hidden units in another order.

    The changed matrices have the norms of before and point elsewhere, and of nearly all hidden
    units there is one with the same norms on every axis.
    """
    cosine = pair.cosine()
    if not pair.altered or pair.other_networks or cosine is None or cosine >= LEAST_COSINE:
        return None
    if any(f.source != Source.EXACT for f in pair.altered) or pair.only_a or pair.only_b:
        return None
    store, units, again = pair.kinship.reader.store, 0, 0
    names = pair.model(pair.a).name, pair.model(pair.b).name
    for finding in pair.altered:
        norms = pair.norms.get((*ordered(pair.a, pair.b), finding.component))
        if norms is None or not math.isclose(*norms, rel_tol=2 * _ONE_NORM):
            return None
        held, found = shared_units(store, *names, finding.component)
        if not held or found < PERMUTED_SHARE * held:
            return None
        units, again = units + held, again + found
    text = f"{pair.name(pair.b)} is {pair.name(pair.a)} with hidden units in another order in the "
    text += f"{titles(pair.altered)}: {again:,} of {units:,} units have the same norms on every "
    text += "axis; the files were not read"
    return pair.relation(RelationKind.PERMUTED, pair.b, pair.a, text, directed=False)


def rows_added(pair: PairComparison) -> Relation | None:
    """Return the relation when one is the other with rows added to tables, as to a vocabulary."""
    if not is_equal_elsewhere(pair) or any(not _only_shapes(f.counts) for f in pair.altered):
        return None
    keys = [key for key in pair.differing_in(pair.altered) if key.status not in MISSING]
    added = {_rows_added(key) for key in keys}
    if len(added) != 1 or 0 in added:
        return None
    more = added.pop()
    wide = pair.b if more > 0 else pair.a
    narrow = pair.opposite(wide)
    kept = _kept_rows(pair, narrow, wide, [key.key for key in keys])
    if kept is None or kept[0] < _KEPT_ROWS * kept[1]:
        return None
    count, rows = abs(more), f"{kept[0]:,} of the {kept[1]:,} rows of before have their norms"
    if kept[0] == kept[1]:
        rows = "all rows of before have their norms"
    text = f"{pair.name(wide)} is {pair.name(narrow)} with {count:,} "
    text += f"{'rows' if count > 1 else 'row'} more in {name_differing(keys)}; {rows}"
    text += held_alone(pair)
    return pair.relation(RelationKind.ROWS_ADDED, wide, narrow, text, directed=False)


def _only_shapes(counts: Counts | None) -> bool:
    """Whether all keys that differ in a component differ in their shapes."""
    return counts is not None and counts.read - counts.unchanged == counts.shape_mismatch > 0


def _rows_added(key: DifferingKey) -> int:
    """Return how many rows more a matrix has in b, negative for less; 0 where else it differs."""
    if key.a is None or key.b is None or key.status != Status.SHAPE_MISMATCH:
        return 0
    before, after = key.a.shape.split("x"), key.b.shape.split("x")
    if len(before) != 2 or len(after) != 2 or before[1] != after[1]:
        return 0
    return int(after[0]) - int(before[0])


def _kept_rows(
    pair: PairComparison, narrow: int, wide: int, keys: list[str]
) -> tuple[int, int] | None:
    """Return how many rows of the narrower tables have their norms in the wider, and of how many.

    None where norms are not known.
    """
    store = pair.kinship.reader.store
    try:
        before, after = (model_profiles(store, pair.model(m).name) for m in (narrow, wide))
    except NoAnswerError:
        return None
    kept = rows = 0
    for key in keys:
        if key not in before or key not in after:
            return None
        old, new = before[key].rows, after[key].rows
        if old is None or new is None:
            return None
        same = np.abs(new[: len(old)] - old) <= _SAME_NORM * np.maximum(old, new[: len(old)])
        kept, rows = kept + int(same.sum()), rows + len(old)
    return kept, rows
