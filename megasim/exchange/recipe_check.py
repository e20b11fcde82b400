"""A recipe that somebody claims, held against the weights: confirmed or contradicted."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from megasim.errors import NoAnswerError, printable
from megasim.exchange.claimed_recipe import ClaimedRecipe, read_claimed_recipe, value_for
from megasim.lineage.angular_methods import slerp_left
from megasim.lineage.claims import resolve_name
from megasim.lineage.equal_layers import equal_layers
from megasim.lineage.evidence import rounding_of
from megasim.lineage.facts import load_layer_norms, load_model_facts
from megasim.lineage.from_store import load_recipe
from megasim.lineage.inner_products import Floats
from megasim.lineage.recipe_result import Recipe, percent
from megasim.lineage.settings import SETTINGS
from megasim.lineage.stacks import find_stack
from megasim.progress import NO_PROGRESS, Progress
from megasim.store.matrices import load_layers
from megasim.store.rows import Store
from megasim.words import ClaimVerdict, MergeMethod


@dataclass(frozen=True)
class CheckedRecipe:
    """A claimed recipe and what the weights say of it.

    Attributes:
        reason: why, with the numbers.
        recipe: what the claimed models explain, where that was asked.
    """

    model: str
    component: str
    file: str
    verdict: ClaimVerdict
    reason: str
    recipe: Recipe | None = None

    def sentence(self) -> str:
        """Return the answer in one line."""
        return (
            f"{printable(self.file, 80)} of {printable(self.model, 80)} "
            f"({printable(self.component)}): {self.verdict}: {self.reason}"
        )

    def to_json(self) -> dict[str, object]:
        """Return plain data."""
        return {
            "model": self.model,
            "component": self.component,
            "file": self.file,
            "verdict": self.verdict,
            "reason": self.reason,
            "recipe": self.recipe.to_json() if self.recipe else None,
        }


def check_recipe(
    store: Store,
    model: str,
    file: Path,
    component: str,
    *,
    progress: Progress = NO_PROGRESS,
) -> CheckedRecipe:
    """Return whether a model was made as a recipe file says.

    A weighted sum or slerp is computed with the claimed numbers, from distances by layer: they must
    leave no more than rounding does. Other methods are sought in the files, and their parameters
    compared.

    Raises:
        UsageError: an unknown model, or a file that is no recipe.
        NoAnswerError: a method or values that cannot be checked, or models that were not compared.
    """
    claimed = read_claimed_recipe(file)
    named = _resolved(store, claimed)
    absent = [printable(name, 60) for name, found in named.items() if found is None]

    def answer(verdict: ClaimVerdict, reason: str, recipe: Recipe | None = None) -> CheckedRecipe:
        return CheckedRecipe(model, component, file.name, verdict, reason, recipe)

    if absent:
        return answer(ClaimVerdict.UNDECIDED, f"not among the models: {', '.join(absent)}")
    known = {name: str(found) for name, found in named.items()}
    if model in known.values():
        return answer(ClaimVerdict.UNDECIDED, "the recipe names the model itself as an input")
    if claimed.method == MergeMethod.STACK:
        return answer(*_check_stack(store, model, claimed, known))
    if claimed.method in (MergeMethod.WEIGHTED_SUM, MergeMethod.SLERP):
        named_models = sorted(set(known.values()))
        recipe = load_recipe(store, model, component, parents=named_models, progress=progress)
        return answer(*_check_numbers(store, model, claimed, known, component, recipe), recipe)
    recipe = load_recipe(
        store, model, component, parents=sorted(set(known.values())), progress=progress
    )
    verdict, reason = _check_parameters(recipe, claimed, known)
    return answer(verdict, reason, recipe)


def _resolved(store: Store, claimed: ClaimedRecipe) -> dict[str, str | None]:
    """Return what each written model is called in the store, by its path or its name."""
    models = store.models()
    names = [model.name for model in models]
    found: dict[str, str | None] = {}
    for written in claimed.models:
        path = Path(written).absolute()
        at = [m.name for m in models if m.path and path in (Path(m.path), Path(m.path).parent)]
        found[written] = at[0] if len(at) == 1 else resolve_name(written, names)
    return found


def _check_numbers(
    store: Store,
    model: str,
    claimed: ClaimedRecipe,
    known: Mapping[str, str],
    component: str,
    found: Recipe,
) -> tuple[ClaimVerdict, str]:
    """Return whether a weighted sum or slerp by the claimed numbers is the model."""
    written = list(claimed.models)
    rows = [model, *(known[name] for name in written)]
    if len(set(rows)) < len(rows):
        return ClaimVerdict.UNDECIDED, "the recipe names a model twice"
    layers = load_layers(store, component, models=rows)
    layers = layers.keep(np.asarray(np.isfinite(layers.values).all(axis=(1, 2))))
    if not layers.keys:
        raise NoAnswerError(
            f"{printable(model)} and the models of the recipe have no distances by layer",
            "run `megasim compare`",
        )
    squared = np.square(layers.values)
    norms = load_layer_norms(store, component, rows)
    sizes = np.array([[norms[name].get(key, np.nan) for name in rows] for key in layers.keys])
    total = squared.sum(axis=0)
    rounding = rounding_of(load_model_facts(store, component), component).get(model, 0.0)
    noise = rounding**2 + SETTINGS.precision["exact"] * float(total.max())
    nearest = float(total[0, 1:].min())
    most = max(SETTINGS.clear_of_noise * noise, SETTINGS.nearly_all * nearest)
    if claimed.method == MergeMethod.SLERP:
        left = _slerp_by(claimed, layers.keys, squared, sizes)
        return _verdict(left, most, nearest, claimed, found, "the claimed slerp")
    weights = np.array([[_weight(claimed, name, key) for name in written] for key in layers.keys])
    if claimed.normalised:
        weights /= _sum_of(claimed, written, weights)[:, None]
    shares = _with_base(claimed, written, weights, layers.keys)
    left = _sum_by(shares, squared, sizes)
    verdict, reason = _verdict(left, most, nearest, claimed, found, "the claimed sum")
    sums = weights.sum(axis=1)
    if not claimed.base and np.abs(sums - 1).max() > SETTINGS.claim_tolerance:
        normalised = _sum_by(weights / sums[:, None], squared, sizes)
        if normalised <= most < left:
            told = ", ".join(f"{w:.4g}" for w in (weights / sums[:, None])[0])
            reason = (
                f"the claimed weights add up to {sums[0]:.4g} and were normalised: the model is "
                f"the sum by {told}, which leaves {percent(normalised / nearest)}"
            )
    return verdict, reason


def _verdict(
    left: float, most: float, nearest: float, claimed: ClaimedRecipe, found: Recipe, what: str
) -> tuple[ClaimVerdict, str]:
    share = percent(left / nearest) if nearest > 0 else "nothing"
    if left <= most:
        note = ""
        if claimed.normalised and not claimed.base:
            note = "; mergekit normalised them to " + ", ".join(
                f"{p.weight:.4g} × {printable(p.model, 60)}" for p in found.parents
            )
        return ClaimVerdict.CONFIRMED, f"{what} leaves {share} unexplained{note}"
    reason = f"{what} leaves {share} unexplained; found: {found.sentence()}"
    return ClaimVerdict.CONTRADICTED, reason


def _weight(claimed: ClaimedRecipe, name: str, key: str) -> float:
    if name not in claimed.weights:
        return 0.0 if name == claimed.base else 1.0
    value = value_for(claimed.weights[name], key)
    return 0.0 if np.isnan(value) else value


def _sum_of(claimed: ClaimedRecipe, written: list[str], weights: Floats) -> Floats:
    """Return the (K,) sums that the tool divides by; a base has no weight."""
    counted = [i for i, name in enumerate(written) if name != claimed.base]
    sums = weights[:, counted].sum(axis=1)
    return np.where(np.abs(sums) > 1e-8, sums, 1.0)


def _with_base(
    claimed: ClaimedRecipe, written: list[str], weights: Floats, keys: tuple[str, ...]
) -> Floats:
    """Return the weights of a weighted sum: changes from a base leave the rest to it."""
    if not claimed.base:
        return weights
    factor = claimed.numbers.get("lambda", (("", 1.0),))
    scaled = weights * np.array([[value_for(factor, key)] for key in keys])
    at = written.index(claimed.base)
    scaled[:, at] = 0.0
    scaled[:, at] = 1 - scaled.sum(axis=1)
    return np.asarray(scaled)


def _sum_by(shares: Floats, squared: Floats, norms: Floats) -> float:
    """Return the squared distance from the model, row 0, to the sums of the others.

    ‖m − Σ w p‖² = −½ cᵀ D² c with c = (1, −w) where the weights sum to 1. Where they do not, the
    origin takes the rest: it is as far from each model as this is long.
    """
    keys, count = shares.shape
    rest = 1 - shares.sum(axis=1)
    coefficients = np.concatenate([np.ones((keys, 1)), -shares, -rest[:, None]], axis=1)
    if np.abs(rest).max() < 1e-6:
        norms = np.zeros(norms.shape)
    whole = np.zeros((keys, count + 2, count + 2))
    whole[:, :-1, :-1] = squared
    whole[:, -1, :-1] = whole[:, :-1, -1] = np.square(norms)
    left = -np.einsum("ki,kij,kj->k", coefficients, whole, coefficients) / 2
    return float(np.maximum(left, 0.0).sum())


def _slerp_by(
    claimed: ClaimedRecipe, keys: tuple[str, ...], squared: Floats, norms: Floats
) -> float:
    if len(claimed.models) != 2 or "t" not in claimed.numbers:
        raise NoAnswerError("a slerp has two models and a t", "name both, and t")
    first = claimed.models.index(claimed.base) if claimed.base else 0
    rows = [0, 1 + first, 2 - first]
    t = np.array([[value_for(claimed.numbers["t"], key)] for key in keys])
    left = slerp_left(squared[:, rows][:, :, rows], norms[:, rows], np.where(np.isnan(t), 0.5, t))
    return float(np.maximum(left, 0.0).sum())


def _check_parameters(
    recipe: Recipe, claimed: ClaimedRecipe, known: Mapping[str, str]
) -> tuple[ClaimVerdict, str]:
    """Return whether the method found is the claimed one, by the same models and parameters."""
    if not recipe.claimed:
        unread = [note for note in recipe.notes if "were not sought" in note]
        if unread:
            return ClaimVerdict.UNDECIDED, unread[0]
        return (
            ClaimVerdict.CONTRADICTED,
            f"it is not {claimed.method} of these: {recipe.sentence()}",
        )
    if recipe.method != claimed.method:
        return ClaimVerdict.CONTRADICTED, f"claimed {claimed.method}, found {recipe.sentence()}"
    off: list[str] = []
    base = known.get(claimed.base, "")
    if recipe.base != base:
        off.append(f"the base is {printable(recipe.base, 60)}")
    weights = {known[name]: value_for(w, "") for name, w in claimed.weights.items()}
    scale = value_for(claimed.numbers.get("lambda", (("", 1.0),)), "")
    if claimed.normalised and weights:
        scale /= sum(weights.values())
    found = {p.model: p.weight for p in recipe.parents if p.model != recipe.base}
    missing = {known[n] for n in claimed.models} - {*found, base}
    off += [f"{printable(name, 60)} is not in it" for name in sorted(missing)]
    numbers = dict(recipe.numbers)
    told = [(f"weight of {n}", w * scale, found.get(n)) for n, w in weights.items()]
    told += [
        (f"density of {known[n]}", value_for(d, ""), numbers.get(f"density of {known[n]}"))
        for n in claimed.models
        for d in [claimed.numbers.get(f"density of {n}")]
        if d is not None
    ]
    off += [
        f"{printable(what, 80)}: found {value:.4g}, claimed {wanted:.4g}"
        for what, wanted, value in told
        if value is not None and abs(value - wanted) > SETTINGS.claim_tolerance
    ]
    if off:
        return ClaimVerdict.CONTRADICTED, "; ".join(off)
    return ClaimVerdict.CONFIRMED, recipe.sentence()


def _check_stack(
    store: Store, model: str, claimed: ClaimedRecipe, known: Mapping[str, str]
) -> tuple[ClaimVerdict, str]:
    found = find_stack(store, model)
    classes = equal_layers(store)
    held = classes.get(model, {})
    wanted = [
        classes.get(known[name], {}).get(layer)
        for name, first, stop in claimed.slices
        for layer in range(first, stop)
    ]
    if held and wanted == [held[number] for number in sorted(held)]:
        told = found.sentence() if found else "every layer is the one that is named"
        return ClaimVerdict.CONFIRMED, told
    if found is None:
        return ClaimVerdict.CONTRADICTED, "its layers are not those of models in the store"
    return ClaimVerdict.CONTRADICTED, found.sentence()
