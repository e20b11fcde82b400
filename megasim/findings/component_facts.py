"""What each model has of each component, with signatures that are equal for equal components."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from megasim.anatomy.classification import unused_reason
from megasim.findings.details import LayerRow
from megasim.store.batches import table_of
from megasim.store.rows import Store
from megasim.words import MISSING, Nature

POSITIONS_REASON = "whole position_ids are the numbers 0, 1, 2 …, made anew where they are missing"
COUNTER_REASON = "counters of training steps enter no computation"


@dataclass(frozen=True, slots=True)
class ComponentFacts:
    """One component of one model.

    A signature is a hash over the canonical keys, shapes and contents; equal signatures mean equal
    components (collisions aside). The `used` ones leave out what the family never uses, and are
    None where it uses nothing of the component. `telling` counts the tensors that are evidence:
    not constant, and of 64 elements or more; `non_finite` those that hold NaN or inf.
    """

    model_id: int
    component: str
    keys: int
    parameters: int
    telling: int
    non_finite: int
    dtypes: tuple[str, ...]
    same_bytes: str
    same_values: str
    same_at_fp16: str
    same_at_bf16: str
    used_values: str | None
    used_at_fp16: str | None
    used_at_bf16: str | None

    def same_where_used(self, other: ComponentFacts) -> bool:
        """Return whether what the family uses of both is equal, at least once rounded."""
        return self.used_values is not None and (
            self.used_values == other.used_values
            or self.used_at_fp16 == other.used_at_fp16
            or self.used_at_bf16 == other.used_at_bf16
        )


Facts = Mapping[tuple[int, str], ComponentFacts]


def load_component_facts(
    store: Store, about: Collection[int] | None = None
) -> dict[tuple[int, str], ComponentFacts]:
    """Return the facts of all models that have tensors here, by model id and component.

    Args:
        about: only of these models, and of what may be equal to a component of them.
    """
    if about is None:
        components = store.rows("model_components")
    else:
        components = store.rows("components_like", tables={"batch": {"model_id": list(about)}})
    wanted = table_of(["model_id", "component"], components)
    unused = [
        (family, component, key)
        for family, component, key in store.rows("component_keys")
        if family is not None and unused_reason(family, component, key) is not None
    ]
    batch = table_of(["family", "component", "canonical_key"], unused)
    rows = store.rows("component_facts", tables={"unused": batch, "wanted": wanted})
    found = {}
    for model_id, component, keys, parameters, telling, non_finite, dtypes, *signatures in rows:
        found[model_id, component] = ComponentFacts(
            model_id, component, keys, parameters, telling, non_finite, tuple(dtypes), *signatures
        )
    return found


def why_unused(families: tuple[str, ...], layer: LayerRow) -> str | None:
    """Return why the families of two models never use a key that differs; None when they do."""
    if layer.nature == Nature.COUNTER:
        return COUNTER_REASON
    if layer.key.endswith("position_ids") and layer.status in MISSING:
        return POSITIONS_REASON
    reasons = [unused_reason(family, layer.component, layer.key) for family in families]
    return reasons[0] if reasons and None not in reasons else None
