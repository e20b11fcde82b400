"""Which models are of one origin, by the order of their hidden units."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import Executor
from functools import cached_property

import numpy as np
import pandas as pd

from megasim.compare.weight_files import open_weights
from megasim.errors import MegasimError, NoAnswerError, printable
from megasim.estimate.file_profiles import FileProfiles
from megasim.estimate.kinship import (
    ERROR_RATE,
    PERMUTED_SHARE,
    KinshipTest,
    kinship_test,
    shared_units,
)
from megasim.estimate.layer_origins import layer_origins
from megasim.estimate.layouts import is_other_layout, matched_layouts
from megasim.estimate.profiles import MatrixProfile, model_profiles
from megasim.progress import NO_PROGRESS, Progress
from megasim.store.matrices import component_names
from megasim.store.rows import Store
from megasim.words import Kinship, Tier

COLUMNS = ("component", "model", "other", "kinship", "p_value", "log10_p", "correlation", "units")


def kinship_table(
    store: Store,
    model: str,
    others: Sequence[str] | None = None,
    components: Sequence[str] | None = None,
    *,
    executor: Executor,
    progress: Progress = NO_PROGRESS,
) -> pd.DataFrame:
    """Return the test of a model against others, the surest kin first.

    No file is read but those of models that were read as samples: of these the matrices that the
    test needs are read whole, for it needs the norms of whole rows and columns. Under "read" of its
    `attrs` the frame has how many such models there are, and the bytes that were read.

    Columns: component; model; other; kinship, a `Kinship` at a chance of 1 % of any false one among
    the pairs of a component; p_value, of the pair by itself, 0 where it is below 1e-308; log10_p;
    correlation, -1 to 1, of the norms that belong to the hidden units; units, how many were
    compared. NULL where there are none. A model whose units are not found at their places may hold
    the same matrices in another layout, or the same layers under other numbers.

    Args:
        others: all other models when None.
        components: "all", the whole model, when None; with one other each component as well.
        executor: reads from files.

    Raises:
        UsageError: an unknown model.
        NoAnswerError: a named model of which only a header was read.
        MegasimError: the file of a named model that was read as a sample is gone, has changed, or
            cannot be read; without names such models are not testable.
    """
    named = {model, *(others or ())}
    models = store.models()
    for held in models:
        if held.name in named and held.tier == Tier.HEADER:
            raise NoAnswerError(
                f"{printable(held.name)} was read as a header: its values are not known",
                "run `megasim ingest` on its file without --header",
            )
    names = list(store.model_ids(others)) if others is not None else list(store.model_ids())
    names = [name for name in names if name != model]
    wanted = list(components or ["all"])
    if components is None and len(names) == 1:
        wanted += component_names(store, model)
    tested = {model, *names}
    sampled = [m.id for m in models if m.name in tested and m.tier == Tier.SAMPLE]
    failed: list[MegasimError] = []
    opened = open_weights(store, [(i, i) for i in sampled], executor, failed) if sampled else {}
    files = FileProfiles(store, opened, executor) if sampled else None
    asked = {m.id for m in models if m.name in named}
    if any(i not in opened for i in sampled if i in asked):
        raise failed[0]
    elsewhere = _Elsewhere(store, model)
    rows = []
    for component in wanted:
        test = kinship_test(
            store, component, models=[model, *names], files=files, progress=progress
        )
        found = _rows_of(elsewhere, component, test, files)
        rows += sorted(found, key=lambda row: (np.inf if row[5] is None else row[5], row[2]))
    frame = pd.DataFrame(rows, columns=list(COLUMNS))
    if files is not None:
        frame.attrs["read"] = sum(i in files for i in sampled), files.bytes_read
    return frame


class _Elsewhere:
    """Whether other models hold the matrices of one under other names, or in other layers."""

    def __init__(self, store: Store, model: str) -> None:
        self.store, self._model = store, model

    @cached_property
    def _profiles(self) -> Mapping[str, MatrixProfile]:
        try:
            return model_profiles(self.store, self._model)
        except NoAnswerError:
            return {}

    def kinship(self, other: str) -> Kinship | None:
        """Return how they are kin, of whole models; None where they are not in these ways."""
        if not self._profiles:
            return None
        try:
            theirs = model_profiles(self.store, other)
        except NoAnswerError:
            return None
        if is_other_layout(self._profiles, theirs, matched_layouts(self._profiles, theirs)):
            return Kinship.OTHER_LAYOUT
        origins = layer_origins(theirs, self._profiles, self._model)
        return Kinship.OTHER_LAYERS if origins is not None and origins.moved else None


def _rows_of(
    elsewhere: _Elsewhere, component: str, test: KinshipTest, files: FileProfiles | None
) -> list[tuple[object, ...]]:
    """Return a row for each of the test's models but the first, against which it stands."""
    tested = int((test.units[0, 1:] > 0).sum())
    related, unrelated = test.related(ERROR_RATE, tested), test.unrelated(ERROR_RATE, tested)
    model = test.models[0]
    rows: list[tuple[object, ...]] = []
    for i, other in enumerate(test.models[1:], 1):
        units = int(test.units[0, i])
        if not units:
            found = elsewhere.kinship(other) if component == "all" else None
            nothing = (found or Kinship.NOT_TESTABLE, None, None, None, 0)
            rows.append((component, model, other, *nothing))
            continue
        if related[0, i]:
            kinship = Kinship.RELATED
        else:
            kinship = Kinship.NOT_FOUND if unrelated[0, i] else Kinship.UNDECIDED
            held, again = shared_units(elsewhere.store, model, other, component, files)
            if again >= PERMUTED_SHARE * held:
                kinship = Kinship.PERMUTED
            elif component == "all":
                kinship = elsewhere.kinship(other) or kinship
        log_p = float(test.log_p[0, i])
        numbers = (float(np.exp(log_p)), log_p / np.log(10), float(test.correlation[0, i]), units)
        rows.append((component, model, other, kinship, *numbers))
    return rows
