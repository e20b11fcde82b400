"""What can be computed again is dropped or made again; the rest is marked for who can."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from megasim.compare.pairs import sum_up_pairs
from megasim.compare.tiered_pairs import split_by_tier, sum_up_tiered
from megasim.doctor.checks import CHECKS, About, Cure, Fault
from megasim.progress import NO_PROGRESS, Progress
from megasim.store.batches import pair_table, table_of
from megasim.store.rows import Pair, Store


def repair(store: Store, faults: Sequence[Fault], *, progress: Progress = NO_PROGRESS) -> None:
    """Take what is wrong out of a store, in one transaction for each kind of fault.

    Where it is killed, what was repaired is kept, and another run does the rest. Nothing is
    invented: a distance, a fingerprint or a name that is wrong goes, or is marked; only sums are
    computed here, from the layers.
    """
    for fault in faults:
        with store.transaction():
            _cure(store, fault)
    with store.transaction():
        store.write("drop_old_rows")
        store.write("drop_unheld_tensors")
        store.write("drop_unheld_distances")
    _sum_up(store, faults, progress)


def _cure(store: Store, fault: Fault) -> None:
    about, cure = CHECKS[fault.check]
    batch = {"batch": table_of(["a", "b"], fault.ids)}
    if cure is Cure.DROP:
        store.write("drop_rows_of_no_model")
    elif cure is Cure.INGEST:
        ids = {"batch": {"id": sorted({a for a, _ in fault.ids if a is not None})}}
        store.write("mark_models" if about is About.MODEL else "mark_contents", tables=ids)
    elif cure is Cure.FORGET:
        store.remove_models({a for a, _ in fault.ids if a is not None})
        store.write("drop_rows_of_no_model")
    elif cure is Cure.PAIR:
        store.write("drop_pairs", tables=batch)
    elif cure is Cure.ESTIMATE:
        store.write("drop_estimates", tables=batch)
    elif cure is Cure.COMPARE:
        pairs: Iterable[tuple[int | None, ...]] = fault.ids
        if about is About.CONTENTS:
            pairs = store.rows("pairs_of_contents", tables=batch)
            store.write("drop_distances", tables=batch)
        open_again = table_of(["a", "b"], sorted(set(pairs)))
        store.write("reopen_pairs", tables={"batch": open_again})


def _sum_up(store: Store, faults: Sequence[Fault], progress: Progress) -> None:
    """Make the sums anew that do not follow from layers, exact and published ones."""
    pairs = {
        (int(a), int(b))
        for fault in faults
        if fault.cure is Cure.SUM_UP
        for a, b in fault.ids
        if a is not None and b is not None
    }
    if not pairs:
        return
    wrong = {"batch": table_of(["a", "b"], sorted(pairs))}
    known = store.pairs()
    columns = [known[name].tolist() for name in ("model_a", "model_b", "done", "linf", "cossim")]
    done = {(a, b): (linf, cossim) for a, b, ok, linf, cossim in zip(*columns, strict=True) if ok}
    with store.transaction():
        store.write("drop_exact_components", tables=wrong)
        published: set[Pair] = set(store.rows("pairs_with_published_layers")) & pairs
        batch = {"batch": pair_table(published)}
        store.write("drop_sums_of_layers", tables=batch)
        store.write("add_imported_components", tables=batch)
    full, others = split_by_tier(store, sorted(pairs & done.keys()))
    if others:
        sum_up_tiered(store, others)
    for linf, cossim in sorted(set(done.values())):
        some = [pair for pair in full if done[pair] == (linf, cossim)]
        if some:
            sum_up_pairs(store, some, linf=linf, cossim=cossim, progress=progress)
