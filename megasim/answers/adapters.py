"""What an adapter is: what it changes, which models it is for, and where it is baked in."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from megasim.anatomy.classification import component_title
from megasim.anatomy.rules import OTHER_FAMILIES
from megasim.answers.adapter_baking import Baked, measure_baking
from megasim.answers.adapter_files import AdapterFile, TouchedLayer, open_adapter
from megasim.answers.adapter_models import AdapterTargets, SeenIn, seen_in
from megasim.answers.adapter_places import AdapterFit, ModelWeights, fit_of, weights_in_file
from megasim.checkpoint.locations import located
from megasim.checkpoint.opening import TensorReader, default_name
from megasim.errors import CheckpointError, NoAnswerError, UsageError, printable
from megasim.progress import NO_PROGRESS, Progress
from megasim.representation.adapter_algebra import norm_of, rank_of
from megasim.representation.opening import open_model
from megasim.store.rows import Store
from megasim.wording.html import html_lines
from megasim.wording.sentences import counted, four_digits, joined, listed

# Models, or places, that are named in a sentence.
_MOST_NAMED = 6


@dataclass(frozen=True)
class LayerView:
    """One layer that an adapter changes.

    Attributes:
        module: its name in the adapter. key: of the weight in a model, as its family calls it.
        rank: as its factors are wide. found_rank: the rank of the change itself.
        alpha: as the file says it. scale: what the product of the factors is multiplied by.
        norm: of the change. The last four are None where the change depends on the weight.
    """

    module: str
    key: str
    component: str
    block: str | None
    role: str | None
    kind: str
    shape: tuple[int, ...]
    rank: int
    found_rank: int | None
    alpha: float | None
    scale: float | None
    norm: float | None


@dataclass(frozen=True)
class AdapterAnswer:
    """What is known of an adapter.

    Attributes:
        name, kinds, family: what it is.
        layers: what it changes.
        unread: layer or key to why its change is not computed.
        others: keys that are no part of a change.
        said: what the file says of its base.
        fits: how it goes with the models of the store that have most of its layers.
        seen: where its change is seen in the sketches of two known models.
        baked: how it is in a model that was asked for.
        unused_patterns: settings of PEFT that were not applied.
    """

    name: str
    kinds: tuple[str, ...]
    family: str
    layers: tuple[LayerView, ...]
    unread: Mapping[str, str]
    others: tuple[str, ...]
    said: Mapping[str, str]
    fits: tuple[AdapterFit, ...] = ()
    seen: tuple[SeenIn, ...] = ()
    baked: Baked | None = None
    unused_patterns: tuple[str, ...] = ()

    def __repr__(self) -> str:
        return f"<adapter {printable(self.name, 80)}>"

    def _repr_html_(self) -> str:
        return html_lines(self.sentences())

    @property
    def norm(self) -> float | None:
        """Of the whole change; None where a part of it depends on the weights."""
        norms = [layer.norm for layer in self.layers]
        known = [norm for norm in norms if norm is not None]
        return math.sqrt(sum(n * n for n in known)) if len(known) == len(norms) and norms else None

    def sentences(self) -> list[str]:
        """Return all that is known, a sentence each."""
        lines = [self._what(), self._strength()]
        if self.unread:
            why = Counter(self.unread.values()).most_common(1)[0][0]
            lines.append(f"not computed: {counted(len(self.unread), 'layer')} ({printable(why)})")
        if self.others:
            keys = counted(len(self.others), "key")
            lines.append(f"beside the change: {keys}, as {listed(self.others, 2)}")
        if self.unused_patterns:
            lines.append(
                f"{counted(len(self.unused_patterns), 'pattern')} of its settings not applied, as "
                f"{listed(self.unused_patterns, 2)}: the strength of those layers may be another"
            )
        if self.said:
            told = ", ".join(f"{name} {value}" for name, value in self.said.items())
            lines.append(f"it says of itself: {printable(told, 300)}")
        if self.fits:
            lines += self._fit_lines()
        lines += [seen.sentence() for seen in self.seen]
        if self.baked is not None:
            lines.append(self.baked.sentence())
        return [line for line in lines if line]

    def _what(self) -> str:
        name = printable(self.name, 80)
        if not self.layers:
            return f"{name}: an adapter of which no change is computed"
        counts = Counter(layer.component for layer in self.layers)
        changed = counted(len(self.layers), "weight")
        if len(counts) == 1:
            (component,) = counts
            places = f"{changed}, in the {component_title(component)}"
        else:
            each = [f"{n} in the {component_title(c)}" for c, n in counts.most_common()]
            shown = listed(each, _MOST_NAMED) if len(each) > _MOST_NAMED else joined(each)
            places = f"{changed}: {shown}"
        of = "" if self.family in OTHER_FAMILIES else f" for {self.family}"
        return f"{name}: {' and '.join(self.kinds)}{of}, changes {places}{self._names()}"

    def _names(self) -> str:
        """Return what the changed weights are called, where these are few names."""
        names = list(dict.fromkeys(_last_name(layer.key) for layer in self.layers))
        return (
            f" ({joined([printable(n, 40) for n in names])})" if len(names) <= _MOST_NAMED else ""
        )

    def _strength(self) -> str:
        ranks = sorted({layer.rank for layer in self.layers if layer.rank})
        parts = []
        if ranks:
            parts.append(f"rank {_range([float(r) for r in ranks])}")
            less = [y for y in self.layers if y.found_rank is not None and y.found_rank < y.rank]
            if less:
                found = [float(y.found_rank or 0) for y in less]
                parts.append(f"as found {_range(found)} in {counted(len(less), 'layer')}")
        alphas = sorted({y.alpha for y in self.layers if y.alpha is not None and y.rank})
        scales = sorted({y.scale for y in self.layers if y.scale is not None and y.rank})
        if alphas:
            parts.append(f"alpha {_range(alphas)}")
        elif ranks:
            parts.append("alpha not in the file, so taken as the rank")
        if scales:
            parts.append(f"strength {_range(scales)}")
        norm = self.norm
        if norm is not None:
            parts.append(f"norm of the change {four_digits(norm)}")
        return ", ".join(parts)

    def _fit_lines(self) -> list[str]:
        whole = [fit.model for fit in self.fits if fit.is_whole]
        lines = []
        if whole:
            lines.append(
                f"fits all its layers: {counted(len(whole), 'known model')}: "
                f"{listed(whole, _MOST_NAMED)}"
            )
        for fit in [f for f in self.fits if not f.is_whole][:_MOST_NAMED]:
            total = fit.layers + len(fit.missing) + len(fit.mismatched)
            lines.append(
                f"fits {fit.layers} of {counted(total, 'layer')} of {printable(fit.model, 80)}"
                f" ({len(fit.missing)} not there, {len(fit.mismatched)} of another shape)"
            )
        return lines

    def to_json(self) -> dict[str, Any]:
        """Return plain numbers and strings."""
        return {
            "name": self.name,
            "kinds": list(self.kinds),
            "family": self.family,
            "norm": self.norm,
            "layers": [{**vars(layer), "shape": list(layer.shape)} for layer in self.layers],
            "unread": dict(self.unread),
            "others": list(self.others),
            "said": dict(self.said),
            "fits": [
                {
                    "model": fit.model,
                    "layers": fit.layers,
                    "missing": list(fit.missing),
                    "of_another_shape": list(fit.mismatched),
                }
                for fit in self.fits
            ],
            "seen": [seen.to_json() for seen in self.seen],
            "baked": self.baked.to_json() if self.baked is not None else None,
            "sentences": self.sentences(),
        }


def _last_name(key: str) -> str:
    """Return the last name of a weight, with a number behind it.

    >>> _last_name("model.layers.0.mlp.up_proj.weight"), _last_name("blocks.3.ffn.2.weight")
    ('up_proj', 'ffn.2')
    """
    names = key.removesuffix(".weight").split(".")
    first = next((i for i in range(len(names) - 1, -1, -1) if not names[i].isdecimal()), 0)
    return ".".join(names[first:])


def _range(values: Sequence[float]) -> str:
    """Return one number, or the smallest and the largest of several.

    >>> _range([4.0]), _range([4.0, 0.5])
    ('4', '0.5 to 4')
    """
    low, high = min(values), max(values)
    return f"{low:.4g}" if low == high else f"{low:.4g} to {high:.4g}"


def describe_adapter(
    adapter: AdapterFile, known: AdapterTargets | None = None, baked: Baked | None = None,
    *, progress: Progress = NO_PROGRESS,
) -> AdapterAnswer:  # fmt: skip
    """Return what an adapter is, and how it goes with the models of a store.

    Raises:
        CheckpointError: its file cannot be read.
    """
    layers: list[LayerView] = []
    unread = dict(adapter.unread)
    progress.start("Reading the adapter", len(adapter.layers), "layers")
    try:
        with TensorReader() as reader:
            for touched in adapter.layers:
                try:
                    layers.append(_view(adapter, touched, reader))
                except CheckpointError as error:
                    if not error.key:
                        raise
                    unread[touched.module] = error.problem
                progress.advance(1)
    finally:
        progress.finish()
    fits: tuple[AdapterFit, ...] = ()
    seen: tuple[SeenIn, ...] = ()
    if known is not None:
        fits = known.fits_of(adapter)
        seen = seen_in(known, adapter, fits, progress=progress)
    return AdapterAnswer(
        name=adapter.name,
        kinds=adapter.kinds,
        family=adapter.family,
        layers=tuple(layers),
        unread=unread,
        others=adapter.others,
        said=adapter.said,
        fits=fits,
        seen=seen,
        baked=baked,
        unused_patterns=adapter.settings.unused,
    )


def _view(adapter: AdapterFile, touched: TouchedLayer, reader: TensorReader) -> LayerView:
    made = adapter.load(reader, touched)
    change = None if touched.layer.needs_base else made.change
    place = touched.place.place
    kind = str(touched.layer.kind)
    return LayerView(
        module=touched.module,
        key=place.canonical_key,
        component=place.component,
        block=place.block,
        role=place.role,
        kind="DoRA" if touched.layer.is_decomposed and kind == "LoRA" else kind,
        shape=touched.shape,
        rank=made.rank,
        found_rank=None if change is None or not made.rank else rank_of(change),
        alpha=made.alpha,
        scale=None if change is None else made.scale,
        norm=None if change is None else norm_of(change),
    )


# The sources of an answer


def open_named_adapter(named: str | Path, store: Store | None) -> AdapterFile:
    """Return the adapter in a file or folder of that name, else that of a model of the store.

    Raises:
        UsageError: there is none of that name.
        CheckpointError: it cannot be read, or is no adapter.
    """
    if located(named).exists():
        return open_adapter(located(named), default_name(located(named)))
    name, path = _in_store(named, store)
    return open_adapter(path, name)


def open_named_weights(named: str | Path, store: Store | None) -> ModelWeights:
    """Return the weights in a file or folder of that name, else those of a model of the store.

    Raises as `open_named_adapter`.
    """
    if located(named).exists():
        return weights_in_file(open_model(located(named)), default_name(located(named)))
    name, path = _in_store(named, store)
    return weights_in_file(open_model(path), name)


def _in_store(named: str | Path, store: Store | None) -> tuple[str, Path]:
    if store is None:
        raise UsageError(f"nothing at {printable(named, 400)}", "check the path")
    (name,) = store.model_names([str(named)])
    model = next(model for model in store.models() if model.name == name)
    if model.path is None or not located(model.path).exists():
        raise NoAnswerError(
            f"the weights of {printable(name)} are not here", "name a file, or put it back"
        )
    return name, located(model.path)


def load_adapter(
    store: Store | None,
    named: str | Path,
    *,
    base: str | Path | None = None,
    model: str | Path | None = None,
    progress: Progress = NO_PROGRESS,
) -> AdapterAnswer:
    """Return what is known of an adapter, and whether it is baked into a model.

    Args:
        store: the models that it may be for; None for none.
        base: the model before it was added. Where it is not named, and `model` is one of the
            store, the known model that explains it best by the sketches.
        model: in which it is sought.

    Raises:
        UsageError: an unknown name, or a base without a model.
        NoAnswerError: no known base, or no layer in common.
        CheckpointError: a file cannot be read.
    """
    adapter = open_named_adapter(named, store)
    known = None if store is None else AdapterTargets(store)
    baked = None
    if model is not None:
        ours = open_named_weights(model, store)
        before = base
        if before is None:
            before = None if known is None else known.best_base(adapter, ours.name)
            if before is None:
                raise NoAnswerError(
                    f"no known base of {printable(ours.name)}",
                    "name the model that it was made of with --base, or ingest both",
                )
        theirs = open_named_weights(before, store)
        baked = measure_baking(adapter, ours, theirs, progress=progress)
    elif base is not None:
        theirs = open_named_weights(base, store)
        answer = describe_adapter(adapter, progress=progress)
        return replace(answer, fits=(fit_of(adapter, theirs),))
    return describe_adapter(adapter, known, baked, progress=progress)
