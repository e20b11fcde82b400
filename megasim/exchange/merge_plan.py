"""How a model can be made again out of others: which share of which file each key takes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from megasim.anatomy.block_order import block_place
from megasim.anatomy.classification import DENOISERS, component_members, component_title
from megasim.errors import NoAnswerError, printable
from megasim.estimate.layer_runs import LayerRun
from megasim.findings.verdicts import NEVER_USED, component_order
from megasim.lineage.recipe_result import Recipe
from megasim.lineage.weight_levels import group_of
from megasim.store.matrices import component_names, member_names
from megasim.store.rows import Model, Store
from megasim.words import MergeMethod, ModelSource, WeightLevel

# Weights are written with so many digits, and with two where that explains the model as well.
_DIGITS = 4
_COARSE = 2

# What weights by key tell; those of a model stock are the same as weights in each tensor.
_BY_WEIGHTS = (MergeMethod.WEIGHTED_SUM, MergeMethod.MODEL_STOCK, MergeMethod.SLERP)

Weights = tuple[float, ...]


@dataclass(frozen=True)
class MergedKey:
    """One tensor of the model: what its parents call it, and their weights in it.

    Attributes:
        keys: in the files, more than one where megasim sees several as one tensor.
        weights: one for each source; they sum to 1.
    """

    keys: tuple[str, ...]
    canonical_key: str
    component: str
    block: str
    weights: Weights


@dataclass(frozen=True)
class MergePlan:
    """A model as a merge of files.

    Attributes:
        model, family: what is made.
        dtype: its commonest dtype: the result is stored in it.
        sources: the models that it is made of, the heaviest of the first component first.
        merged: its tensors, as the model has them, without training state and EMA copy.
        notes: how each component is made, a sentence each.
        method: how the sources are put together; the weights of a slerp are 1 − t and t. Merges
            that are neither a weighted sum nor a slerp have no weights by key: see `method_plan`.
        base: the name of the source that changes are counted from, where the method has one.
        parameters: of each source by name, as weight and density.
        normalised: whether the weights of those taken in an element are divided by their sum.
        runs: of a stack, where its layers come from.
    """

    model: str
    family: str
    dtype: str
    sources: tuple[Model, ...]
    merged: tuple[MergedKey, ...]
    notes: tuple[str, ...]
    method: MergeMethod = MergeMethod.WEIGHTED_SUM
    base: str = ""
    parameters: tuple[Mapping[str, float], ...] = ()
    normalised: bool = False
    runs: tuple[LayerRun, ...] = ()

    def by_block(self, component: str) -> dict[str, Weights]:
        """Return the weights of each block of a component, in the order of the network."""
        found = {key.block: key.weights for key in self.merged if key.component == component}
        return {block: found[block] for block in sorted(found, key=block_place)}

    def of_component(self, component: str) -> Weights | None:
        """Return the weights of a component, where all of its keys have the same."""
        found = {key.weights for key in self.merged if key.component == component}
        return found.pop() if len(found) == 1 else None


def whole_components(store: Store, model: str) -> list[str]:
    """Return what recipes of a model are sought for: its components, the VAE as a whole.

    Of an unknown architecture the whole model at once: its components are the names of its keys,
    and some hold next to nothing.
    """
    held = [c for c in component_names(store, model) if c not in NEVER_USED]
    known = [c for c in held if c in (*DENOISERS, "depth_model") or _is_known(c)]
    if not known:
        return ["all"]
    vae, order = component_members("vae"), component_order()
    wholes = dict.fromkeys("vae" if c in vae else c for c in known)
    return sorted(wholes, key=lambda c: order[c])


def _is_known(component: str) -> bool:
    return component in (*component_members("text_encoder"), *component_members("vae"))


def merge_plan(store: Store, model: str, recipes: Sequence[Recipe], rest: str = "") -> MergePlan:
    """Return how a model is made of the parents of its recipes.

    A component that is no merge is taken from a model that holds the same, a parent if one does.

    Args:
        recipes: one for each component.
        rest: the parent that components come from that no recipe is of, or explains.

    Raises:
        NoAnswerError: a component that no recipe explains and no model holds; or a parent that
            has no file of its own, or names keys otherwise than the model.
    """
    models = {m.name: m for m in store.models()}
    parents = [p.model for recipe in recipes for p in recipe.parents]
    takes: dict[str, dict[str, Mapping[str, float]]] = {}
    levels: dict[str, WeightLevel] = {}
    notes = []
    for recipe in recipes:
        if recipe.claimed:
            if recipe.method not in _BY_WEIGHTS:
                raise NoAnswerError(
                    f"{printable(recipe.model)} is made by {recipe.method} in a part of it alone",
                    "merge tools use one method for a file; `megasim recipe` without -o says how",
                )
            by_block = _block_shares(recipe)
            notes.append(recipe.sentence())
        else:
            donor = _donor(recipe, parents, models) or rest
            if not donor:
                raise NoAnswerError(
                    f"{printable(recipe.model)} ({component_title(recipe.component)}) cannot be "
                    f"made of these models: {recipe.reason}",
                    "name the component that a recipe explains with -c; the rest then comes from "
                    "the heaviest parent",
                )
            by_block = {"": {donor: 1.0}}
            why = "which holds the same" if donor in recipe.same else "which may differ"
            title = component_title(recipe.component)
            notes.append(f"{title}: from {printable(donor, 80)}, {why}")
        for member in member_names(store, recipe.component):
            takes[member] = {group: dict(shares) for group, shares in by_block.items()}
            levels[member] = recipe.level
    names = list(
        dict.fromkeys([*parents, *(n for t in takes.values() for s in t.values() for n in s)])
    )
    methods = {recipe.method for recipe in recipes if recipe.claimed}
    if MergeMethod.SLERP in methods and (len(methods) > 1 or len(names) != 2):
        raise NoAnswerError(
            f"{printable(model)} is a slerp of other models in each part, or in some parts alone",
            "name one component with -c",
        )
    sources = tuple(with_file(models[name]) for name in names)
    spellings = {name: _spellings(store, name) for name in names}
    merged = []
    for canonical, component, block, role, keys in store.rows("keys_to_merge", id=models[model].id):
        of_component = takes.get(component, {"": {rest: 1.0}} if rest in names else {})
        if not of_component or component in NEVER_USED:
            continue
        level = levels.get(component, WeightLevel.COMPONENT)
        group = group_of(level, canonical, block or "", role or "")
        shares = of_component.get(group, of_component.get("", {}))
        weights = tuple(shares.get(name, 0.0) for name in names)
        for name, weight in zip(names, weights, strict=True):
            if weight and spellings[name].get(canonical) != tuple(keys):
                raise NoAnswerError(
                    f"{printable(name)} and {printable(model)} name {printable(canonical)} in "
                    "different ways, or one lacks it",
                    "merge tools go by the names of keys: convert the file to the layout of the "
                    "others first",
                )
        merged.append(MergedKey(tuple(keys), canonical, component, block or "", weights))
    return MergePlan(
        model=model,
        family=models[model].family or "",
        dtype=commonest_dtype(store, models[model]),
        sources=sources,
        merged=tuple(merged),
        notes=tuple(notes),
        method=MergeMethod.SLERP if MergeMethod.SLERP in methods else MergeMethod.WEIGHTED_SUM,
    )


def commonest_dtype(store: Store, model: Model) -> str:
    """Return the dtype of most elements of a model."""
    dtypes = [dtype for (dtype,) in store.rows("commonest_dtype", id=model.id)]
    return dtypes[0] if dtypes else "float32"


def _spellings(store: Store, model: str) -> dict[str, tuple[str, ...]]:
    rows = store.rows("keys_to_merge", id=store.require_model(model))
    return {canonical: tuple(keys) for canonical, *_, keys in rows}


def _donor(recipe: Recipe, parents: Iterable[str], models: Mapping[str, Model]) -> str:
    """Return a model that holds the same as the one asked about and has a file; "" if none."""
    same = [n for n in recipe.same if models[n].source == ModelSource.CHECKPOINT]
    wanted = set(parents)
    return next((n for n in same if n in wanted), same[0] if same else "")


def with_file(model: Model) -> Model:
    """Return a model that has a file of its own.

    Raises:
        NoAnswerError: it has none.
    """
    if model.source != ModelSource.CHECKPOINT or not model.path or model.part:
        raise NoAnswerError(
            f"{printable(model.name)} is not a file of its own",
            "ingest its checkpoint, or name other parents with --from",
        )
    return model


def _block_shares(recipe: Recipe) -> dict[str, Mapping[str, float]]:
    """Return block → parent → weight; the weights of the whole under "" """
    names = [p.model for p in recipe.parents]
    whole = rounded([p.weight for p in recipe.parents], _least_error(recipe))
    shares: dict[str, Mapping[str, float]] = {"": dict(zip(names, whole, strict=True))}
    if recipe.blockwise:
        for b in recipe.blocks:
            if all(w == w for w in b.weights):
                told = rounded(b.weights, _block_error(b.weights, b.unexplained))
                shares[b.block] = dict(zip(names, told, strict=True))
    return shares


def _least_error(recipe: Recipe) -> float:
    known = 3 * max((p.error for p in recipe.parents if p.error == p.error), default=0.0)
    if recipe.blockwise:  # what is left unexplained is then left by the weights of the blocks
        return known
    return max(known, _block_error([p.weight for p in recipe.parents], recipe.unexplained))


def _block_error(weights: Sequence[float], unexplained: float) -> float:
    """Return how far two weights can be moved until twice as much is left unexplained.

    What is left grows by (w' − w)² D² for parents at a distance D; the nearer of them is at
    min(w, 1 − w) D. 0 where there are more parents, or nothing is left.
    """
    if len(weights) != 2 or not unexplained > 0:
        return 0.0
    return float(min(map(abs, weights)) * unexplained**0.5)


def rounded(weights: Sequence[float], error: float) -> Weights:
    """Return weights as people write them, in hundredths where `error` allows; their sum is 1.

    >>> rounded([0.70004, 0.29996], 0.001), rounded([0.5151, 0.4849], 0.00001)
    ((0.7, 0.3), (0.5151, 0.4849))
    """
    coarse = [round(w, _COARSE) for w in weights]
    is_near = all(abs(c - w) <= error for c, w in zip(coarse, weights, strict=True))
    digits = _COARSE if is_near else _DIGITS
    others = [round(w, digits) + 0.0 for w in weights[1:]]
    return (round(1 - sum(others), digits), *others)


def file_of(model: Model) -> Path:
    """Return where the file or folder of a model is, whole."""
    return Path(str(model.path)).absolute()
