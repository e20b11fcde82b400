"""A model as the sum of another and the change of an adapter: base + s · adapter."""

from __future__ import annotations

from dataclasses import replace

from megasim.answers.adapter_joint import JointBaking
from megasim.answers.adapters_in_model import adapters_in_model
from megasim.errors import NoAnswerError, printable
from megasim.lineage.recipe_result import AdapterTerm, Recipe
from megasim.progress import NO_PROGRESS, Progress
from megasim.store.matrices import adapter_names
from megasim.store.rows import Store
from megasim.wording.sentences import counted


def with_adapter_term(store: Store, recipe: Recipe, progress: Progress = NO_PROGRESS) -> Recipe:
    """Return a recipe that names an adapter, where one is in the model and it is no merge.

    The files of the model, of the adapters and of the base are read. Of several adapters that are
    in it together, each is a summand; one that makes the change of another is named in a note.
    """
    if recipe.claimed or recipe.same or not adapter_names(store):
        return recipe
    try:
        answer = adapters_in_model(store, recipe.model, progress=progress)
    except NoAnswerError:
        return recipe
    found = [(name, baked) for name, baked in answer.tried if baked.is_found]
    if not found:
        return recipe
    name, baked = found[0]
    same = answer.same or {}
    notes = [
        f"{printable(other, 80)} makes the same change as {printable(kept, 80)}, but for its "
        "strength at most"
        for other, kept in same.items()
    ]
    if answer.together is not None and answer.together.found:
        term = _joint_term(answer.together)
        notes += [line for line in answer.together.sentences()[1:] if "not in it" not in line]
    else:
        whole = baked.whole
        term = AdapterTerm(
            base=baked.base,
            adapter=name,
            strength=whole.value,
            error=whole.error,
            unexplained=1 - whole.explained,
            exact=whole.exact,
        )
        notes += [
            f"{printable(other, 80)} is in it too, taken alone"
            for other, _ in found[1:]
            if other not in same
        ]
    notes += [
        f"beside the adapter, {counted(change.changed, 'key')} of {change.component} changed"
        for change in baked.others
        if change.changed
    ]
    return replace(
        recipe,
        adapter=term,
        rivals=(),
        notes=(*recipe.notes, *notes),
        reason=f"it is {printable(baked.base, 80)} with an adapter baked in",
    )


def _joint_term(together: JointBaking) -> AdapterTerm:
    """Return the sum of a base and the adapters that were found in a model together."""
    named = zip(together.adapters, together.whole.each, strict=True)
    terms = [(name, one.value, one.error) for name, one in named if name in together.found]
    (name, strength, error), *more = sorted(terms, key=lambda term: -abs(term[1]))
    return AdapterTerm(
        base=together.base,
        adapter=name,
        strength=strength,
        error=error,
        unexplained=1 - together.whole.explained,
        exact=together.whole.exact,
        more=tuple(more),
    )
