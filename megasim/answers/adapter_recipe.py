"""A model as the sum of another and the change of an adapter: base + s · adapter."""

from __future__ import annotations

from dataclasses import replace

from megasim.answers.adapters import adapters_in_model
from megasim.errors import NoAnswerError, printable
from megasim.lineage.recipe_result import AdapterTerm, Recipe
from megasim.progress import NO_PROGRESS, Progress
from megasim.store.matrices import adapter_names
from megasim.store.rows import Store
from megasim.wording.sentences import counted


def with_adapter_term(store: Store, recipe: Recipe, progress: Progress = NO_PROGRESS) -> Recipe:
    """Return a recipe that names an adapter, where one is in the model and it is no merge.

    The files of the model, of the adapters and of the base are read. Of several adapters the one
    is named that accounts for most of the change; the others are named in a note.
    """
    if recipe.claimed or recipe.same or not adapter_names(store):
        return recipe
    try:
        found = [
            (name, baked)
            for name, baked in adapters_in_model(store, recipe.model, progress=progress).tried
            if baked.is_found
        ]
    except NoAnswerError:
        return recipe
    if not found:
        return recipe
    name, baked = found[0]
    whole = baked.whole
    term = AdapterTerm(
        base=baked.base,
        adapter=name,
        strength=whole.value,
        error=whole.error,
        unexplained=1 - whole.explained,
        exact=whole.exact,
    )
    notes = [f"{printable(other, 80)} is in it too, taken alone" for other, _ in found[1:]]
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
