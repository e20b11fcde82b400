"""What a recipe says: parents and weights, blocks, rivals; in words and as plain data."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from megasim.errors import printable
from megasim.wording.html import html_lines, html_table
from megasim.wording.sentences import joined, listed, number_or_none
from megasim.words import MergeMethod, RecipeVerdict, WeightLevel

_LAYER = re.compile(r"layer \d+$")
# Weights of so many layers tell a line, within so much of it, that rises by so much.
_FEWEST_ON_A_LINE = 4
_ON_A_LINE = 0.01
_RISES = 0.05


@dataclass(frozen=True)
class Parent:
    """One parent's share.

    Attributes:
        weight: in the component as a whole; the weights of a recipe sum to 1.
        error: standard error of the weight; NaN where nothing tells it.
        spread: standard deviation of the weight over layers, each counted by how much the
            parents differ in it; NaN without layers.
    """

    model: str
    weight: float
    error: float
    spread: float = float("nan")


@dataclass(frozen=True)
class BlockWeights:
    """The weights of the same parents inside one block; NaN where they do not differ there."""

    block: str
    weights: tuple[float, ...]
    unexplained: float


@dataclass(frozen=True)
class Rival:
    """Another set of parents that explains nearly as much.

    Attributes:
        parents: names and weights.
        unexplained: the squared distance it leaves, over that to its nearest parent.
        spread: the largest standard deviation of its weights over layers; NaN without layers.
    """

    parents: tuple[tuple[str, float], ...]
    unexplained: float
    spread: float = float("nan")


@dataclass(frozen=True)
class AdapterTerm:
    """A model as another plus the change of an adapter.

    Attributes:
        base, adapter: their names.
        strength, error: of the adapter, by least squares or by rounding.
        unexplained: the share of the squared change of the adapter's layers that is left.
        exact: the share of the elements that are what the sum rounds to; None where that does not
            fit, and rounding is not all that is left.
        more: further adapters of the sum: name, strength and error of each.
    """

    base: str
    adapter: str
    strength: float
    error: float
    unexplained: float
    exact: float | None
    more: tuple[tuple[str, float, float], ...] = ()

    def sentence(self) -> str:
        """Return the sum, and what it leaves."""
        text = printable(self.base, 80)
        for name, strength, error in ((self.adapter, self.strength, self.error), *self.more):
            sign = "−" if strength < 0 else "+"
            text += f" {sign} {abs(strength):.4g} × {printable(name, 80)}"
            text += f" (± {max(error, 0.0001):.2g})"
        if self.exact is not None:
            return f"{text}; {self.exact:.1%} of the elements looked at are what that rounds to"
        return f"{text}; {percent(self.unexplained)} of the change of its layers unexplained"


@dataclass(frozen=True)
class Recipe:
    """What a model is made of, as far as distances tell.

    Attributes:
        model, component: what was asked.
        verdict: what the model is.
        parents: the heaviest first; empty when nothing is claimed.
        unexplained: the squared distance the recipe leaves, over that to the nearest parent
            (the nearest model, when nothing is claimed): 0 explains all, 1 nothing. It counts
            rounding.
        rounding: the part of `unexplained` that storing the model in its precision leaves;
            NaN when not told.
        blockwise: whether weights differ within the component; `unexplained` is then of those.
        blocks: the weights of each block, in the order of the network, or of what else has
            weights of its own (see `level`); empty without layers.
        rivals: other sets that leave nearly as little, or no more than 3 %, the simplest first;
            of an unclaimed recipe with what came nearest.
        same: models that hold the same weights, or a cast or quantised copy of them, and so were
            no candidates.
        source: "exact", "estimated" or "imported".
        notes: what else a reader should know, one sentence each.
        reason: why nothing is claimed; empty where something is.
        decides: what would tell the rivals apart; empty where there are none.
        near_copies: models so near to this one that they were no candidates either.
        method: how the parents were put together.
        level: what has weights of its own; `blocks` are then those groups.
        likeliest: of four models of which any may be the sum, whether none is likelier than this.
        numbers: further parameters by name, as densities.
        pieces: of a stack, where its layers come from, a text each.
        adapter: the sum of another model and an adapter that it is, where it is no merge.
        base: the parent that changes are counted from, where the method has one.
        normalised: whether the weights of the parents taken in an element were divided by their
            sum, as TIES does.
    """

    model: str
    component: str
    verdict: RecipeVerdict
    parents: tuple[Parent, ...]
    unexplained: float
    rounding: float
    blockwise: bool
    blocks: tuple[BlockWeights, ...]
    rivals: tuple[Rival, ...]
    same: tuple[str, ...]
    source: str
    notes: tuple[str, ...]
    reason: str = ""
    decides: str = ""
    near_copies: tuple[str, ...] = ()
    method: MergeMethod = MergeMethod.WEIGHTED_SUM
    level: WeightLevel = WeightLevel.COMPONENT
    base: str = ""
    likeliest: bool = True
    numbers: tuple[tuple[str, float], ...] = ()
    pieces: tuple[str, ...] = ()
    adapter: AdapterTerm | None = None
    normalised: bool = False

    def __repr__(self) -> str:
        return f"<recipe, {self.sentence()}>"

    def _repr_html_(self) -> str:
        import pandas as pd

        weights = pd.DataFrame(
            [(p.model, p.weight, p.error, p.spread) for p in self.parents],
            columns=["parent", "weight", "standard error", "spread over layers"],
        )
        blocks = pd.DataFrame(
            [(b.block or "others", *b.weights, b.unexplained) for b in self.blocks],
            columns=["block", *(p.model for p in self.parents), "unexplained"],
        )
        tables = [html_table(table) for table in (weights, blocks) if len(table)]
        return "".join([html_lines([self.sentence()]), *tables, html_lines(self.notes)])

    @property
    def claimed(self) -> bool:
        """Whether a recipe is claimed at all."""
        return self.verdict != RecipeVerdict.NONE

    def sentence(self) -> str:
        """Return the answer in one line."""
        estimated = ", estimated" if self.source == "estimated" else ""
        asked = f"{printable(self.model, 80)} ({self.component}{estimated})"
        if self.adapter is not None:
            return f"{asked} = {self.adapter.sentence()}"
        if not self.claimed and self.same:
            return (
                f"{asked}: the same weights as {listed(self.same, 4, 60)}, cast or quantised at "
                "most, and no merge of others"
            )
        if not self.claimed:
            return f"{asked}: no merge of these models: {self.reason}"
        left = f"{percent(self.unexplained)} unexplained{self._differing()}"
        if self.method == MergeMethod.SLERP:
            return f"{asked} = slerp of {self._arc()}; {left}"
        if self.method == MergeMethod.STACK:
            return f"{asked} = a stack: {joined(list(self.pieces))}"
        if self.method == MergeMethod.MODEL_STOCK:
            mixed = listed([p.model for p in self.parents if p.model != self.base], 4, 60)
            return f"{asked} = model stock of {mixed} on {printable(self.base, 80)}; {left}"
        if self.method != MergeMethod.WEIGHTED_SUM:
            return f"{asked} = {self.method} of {self._shares()}; {left}"
        terms = weighted_sum([(p.model, p.weight) for p in self.parents])
        doubt = (
            "; any of these four may be the others' sum"
            if self.verdict == RecipeVerdict.AMBIGUOUS
            else ""
        )
        return f"{asked} = {terms}; {left}{doubt}"

    def _differing(self) -> str:
        if not self.blockwise or self.method == MergeMethod.MODEL_STOCK:
            return ""
        along = self.gradient()
        if along is not None:
            model, first, last = along
            text = f"{first:.2g} in the first layer to {last:.2g} in the last"
            return f", weights differ by layer along a line: of {printable(model, 60)} from {text}"
        what = {WeightLevel.BLOCK_ROLE: "by block and role", WeightLevel.TENSOR: "in each tensor"}
        return f", weights differ {what.get(self.level, f'by {self.level}')}"

    def gradient(self) -> tuple[str, float, float] | None:
        """Return a parent and its weights in the first layer and the last, if they lie on a line.

        Only of two parents whose weights differ by block, and where all layers are within 0.01.
        """
        if len(self.parents) != 2 or self.level != WeightLevel.BLOCK or not self.blockwise:
            return None
        layers = [b for b in self.blocks if _LAYER.match(b.block)]
        layers.sort(key=lambda b: int(b.block.split()[1]))
        if len(layers) < _FEWEST_ON_A_LINE:
            return None
        rising = int(layers[-1].weights[1] > layers[0].weights[1])
        told = [b.weights[rising] for b in layers]
        first, last = told[0], told[-1]
        steps = len(told) - 1
        off = [abs(w - first - (last - first) * i / steps) for i, w in enumerate(told)]
        if not max(off) <= _ON_A_LINE or last - first < _RISES:
            return None
        return self.parents[rising].model, first, last

    def _shares(self) -> str:
        mixed = [p for p in self.parents if p.model != self.base]
        told = joined([f"{p.weight:.4g} × {printable(p.model, 80)}" for p in mixed])
        where = f" on {printable(self.base, 80)}" if self.base else ""
        named = [f"{printable(name, 80)} {value:.3g}" for name, value in self.numbers]
        return told + where + (f" ({', '.join(named)})" if named else "")

    def _arc(self) -> str:
        first, second = (printable(p.model, 80) for p in self.parents)
        at = f" at t = {self.parents[1].weight:.4g}" if not self.blockwise else ""
        return f"{first} and {second}{at}"

    def to_json(self) -> dict[str, object]:
        """Return plain data; NaN becomes None."""
        return {
            "model": self.model,
            "component": self.component,
            "verdict": self.verdict,
            "parents": [
                {
                    "model": p.model,
                    "weight": number_or_none(p.weight),
                    "error": number_or_none(p.error),
                    "spread": number_or_none(p.spread),
                }
                for p in self.parents
            ],
            "unexplained": number_or_none(self.unexplained),
            "rounding": number_or_none(self.rounding),
            "method": self.method,
            "base": self.base or None,
            "normalised": self.normalised,
            "likeliest": self.likeliest,
            "pieces": list(self.pieces),
            "adapter": _term_json(self.adapter),
            "numbers": {name: number_or_none(value) for name, value in self.numbers},
            "level": self.level,
            "blockwise": self.blockwise,
            "blocks": [
                {
                    "block": b.block,
                    "weights": [number_or_none(w) for w in b.weights],
                    "unexplained": number_or_none(b.unexplained),
                }
                for b in self.blocks
            ],
            "rivals": [
                {
                    "parents": [{"model": m, "weight": w} for m, w in r.parents],
                    "unexplained": number_or_none(r.unexplained),
                    "spread": number_or_none(r.spread),
                }
                for r in self.rivals
            ],
            "same": list(self.same),
            "near_copies": list(self.near_copies),
            "reason": self.reason,
            "decides": self.decides,
            "source": self.source,
            "sentence": self.sentence(),
            "notes": list(self.notes),
        }


def _term_json(term: AdapterTerm | None) -> dict[str, object] | None:
    if term is None:
        return None
    return {
        "base": term.base,
        "adapter": term.adapter,
        "strength": number_or_none(term.strength),
        "error": number_or_none(term.error),
        "unexplained": number_or_none(term.unexplained),
        "share_exact": term.exact,
        "more": [
            {"adapter": name, "strength": number_or_none(s), "error": number_or_none(e)}
            for name, s, e in term.more
        ],
    }


def weighted_sum(parents: Sequence[tuple[str, float]]) -> str:
    """Return weights and models as a sum.

    >>> weighted_sum([("a", 1.0), ("b", 0.25), ("c", -0.25)])
    '1 × a + 0.25 × b − 0.25 × c'
    """
    terms = ""
    for model, weight in parents:
        sign = (" − " if weight < 0 else " + ") if terms else ""
        terms += f"{sign}{abs(weight) if terms else weight:.4g} × {printable(model, 80)}"
    return terms


def percent(share: float) -> str:
    """Return a share as percent, two digits or more.

    >>> percent(0.00012345), percent(0.9987)
    ('0.012 %', '99.9 %')
    """
    return f"{100 * share:.2g} %" if share < 0.1 else f"{100 * share:.1f} %"
