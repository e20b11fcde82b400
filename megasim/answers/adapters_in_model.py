"""Which of the known adapters are baked into a model, each alone and all together."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from megasim.answers.adapter_baking import Baked, measure_baking
from megasim.answers.adapter_files import AdapterFile, open_adapter
from megasim.answers.adapter_joint import JointBaking, measure_together
from megasim.answers.adapter_models import AdapterTargets
from megasim.answers.adapter_pairs import compare_adapters
from megasim.answers.adapters import open_named_adapter, open_named_weights
from megasim.checkpoint.locations import located
from megasim.errors import CheckpointError, NoAnswerError, printable
from megasim.progress import NO_PROGRESS, Progress
from megasim.store.rows import Store
from megasim.wording.html import html_lines
from megasim.wording.sentences import counted, listed
from megasim.words import PartRole

# What an adapter must show alone to be tried together with others: of several in one model, each
# is seen alone beside the others, only less clearly.
_ERRORS = 3
_LEAST_EXPLAINED = 1e-4
_MOST_TOGETHER = 8


@dataclass(frozen=True)
class AdaptersInModel:
    """Which known adapters are baked into a model.

    Attributes:
        tried: each adapter with what was found of it alone, the one that explains most first.
        untried: those that could not be measured, with the reason.
        together: those that may be in it, measured together; None for fewer than two.
        same: adapters that make the change of another one, to that one's name; they are measured,
            but not together with it.
    """

    model: str
    tried: tuple[tuple[str, Baked], ...]
    untried: Mapping[str, str]
    together: JointBaking | None = None
    same: Mapping[str, str] | None = None

    def __repr__(self) -> str:
        return f"<adapters in {printable(self.model, 80)}>"

    def _repr_html_(self) -> str:
        return html_lines(self.sentences())

    def sentences(self) -> list[str]:
        """Return what was found, a sentence each."""
        same = self.same or {}
        found = [(name, baked) for name, baked in self.tried if baked.is_found]
        if self.together is not None:
            lines = self.together.sentences()
        elif found:
            lines = [
                f"{printable(n, 80)}: {baked.sentence()}" for n, baked in found if n not in same
            ]
        else:
            tried = counted(len(self.tried), "known adapter")
            lines = [f"no adapter known here is in {printable(self.model, 80)} ({tried} tried)"]
        if found:
            for kept in dict.fromkeys(same.values()):
                others = [name for name, other in same.items() if other == kept]
                lines.append(
                    f"{listed(others, 6)}: the same change as {printable(kept, 80)}, but for its "
                    "strength at most"
                )
        if self.untried:
            why = Counter(self.untried.values()).most_common(1)[0][0]
            lines.append(f"not tried: {counted(len(self.untried), 'adapter')} ({why})")
        return lines

    def to_json(self) -> dict[str, Any]:
        """Return plain numbers and strings."""
        return {
            "model": self.model,
            "adapters": [{"adapter": name, **baked.to_json()} for name, baked in self.tried],
            "untried": dict(self.untried),
            "together": None if self.together is None else self.together.to_json(),
            "same": dict(self.same or {}),
            "sentences": self.sentences(),
        }


def adapters_in_model(
    store: Store, model: str, *, base: str | None = None, progress: Progress = NO_PROGRESS
) -> AdaptersInModel:
    """Return which adapters of the store are baked into one of its models.

    Each is measured alone. Those that may be in it are then measured together, as far as they were
    found on one base.

    Raises:
        UsageError: an unknown name.
        NoAnswerError: the store knows no adapter.
    """
    (name,) = store.model_names([model])
    adapters = [m for m in store.models() if m.part_role == PartRole.ADAPTER and m.path]
    if not adapters:
        raise NoAnswerError("the store knows no adapter", "run `megasim ingest` on some")
    known = AdapterTargets(store)
    ours = open_named_weights(name, store)
    found: list[tuple[AdapterFile, Baked]] = []
    untried: dict[str, str] = {}
    for held in adapters:
        adapter = open_adapter(located(held.path or ""), held.name)
        before = base or known.best_base(adapter, name)
        if before is None:
            untried[held.name] = "no known base"
            continue
        theirs = open_named_weights(before, store)
        try:
            baked = measure_baking(adapter, ours, theirs, with_others=False, progress=progress)
        except NoAnswerError:
            untried[held.name] = "no layer in common"
            continue
        found.append((adapter, baked))
    found.sort(key=lambda item: -item[1].whole.explained)
    together, same = _together(found, name, store, progress)
    tried = tuple((adapter.name, baked) for adapter, baked in found)
    return AdaptersInModel(name, tried, untried, together, same)


def _together(
    found: Sequence[tuple[AdapterFile, Baked]], model: str, store: Store, progress: Progress
) -> tuple[JointBaking | None, dict[str, str]]:
    """Return what the adapters that may be in a model are in it together, and which are one."""
    likely = [(a, b) for a, b in found if _may_be_there(b)][:_MOST_TOGETHER]
    chosen: list[AdapterFile] = []
    same: dict[str, str] = {}
    for adapter, baked in likely:
        if chosen and baked.base != likely[0][1].base:
            continue
        kept = next((other for other in chosen if _are_one(other, adapter)), None)
        if kept is None:
            chosen.append(adapter)
        else:
            same[adapter.name] = kept.name
    if len(chosen) < 2:
        return None, same
    ours = open_named_weights(model, store)
    theirs = open_named_weights(likely[0][1].base, store)
    baking = measure_together(chosen, ours, theirs, progress=progress)
    is_several = len(baking.found) > 1 or bool(baking.undecided)
    return (baking if is_several else None), same


def _may_be_there(baked: Baked) -> bool:
    strengths = (baked.whole, *(block.strength for block in baked.blocks))
    return baked.is_found or any(
        math.isfinite(s.value)
        and abs(s.value) > _ERRORS * s.error
        and s.explained > _LEAST_EXPLAINED
        for s in strengths
    )


def _are_one(a: AdapterFile, b: AdapterFile) -> bool:
    """Whether two adapters make one change, but for its strength."""
    try:
        pair = compare_adapters(a, b)
    except CheckpointError:
        return False
    return pair.is_same or pair.is_rescaled


def adapters_together(
    store: Store | None,
    named: Sequence[str | Path],
    model: str | Path,
    *,
    base: str | Path | None = None,
    progress: Progress = NO_PROGRESS,
) -> JointBaking:
    """Return how strongly each of several adapters is in a model, measured together.

    Args:
        named: files, folders, or adapters of the store; at least two.
        base: as for `load_adapter`.

    Raises:
        UsageError: an unknown name.
        NoAnswerError: no known base, or no layer in common.
        CheckpointError: a file cannot be read.
    """
    adapters = [open_named_adapter(name, store) for name in named]
    ours = open_named_weights(model, store)
    if base is None and store is not None:
        known = AdapterTargets(store)
        bases = (known.best_base(adapter, ours.name) for adapter in adapters)
        base = next((found for found in bases if found is not None), None)
    if base is None:
        raise NoAnswerError(
            f"no known base of {printable(ours.name)}",
            "name the model that it was made of with --base, or ingest both",
        )
    return measure_together(adapters, ours, open_named_weights(base, store), progress=progress)
