"""A model that was saved with adapters inside it → the model, and the adapters beside it.

PEFT puts a layer that it adapts into one of its own: the weight `q_proj.weight` is then
`q_proj.base_layer.weight`, and the factors stand beside it. So it is in the state dict of such a
model, and in what diffusers saves after `fuse_lora`, where the base layer has the change within.
Checked against peft 0.21.2 and diffusers 0.42.1.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Final, TypeVar

from megasim.checkpoint.adapter_keys import factor_keys, parse_adapter_key

_BASE: Final = ".base_layer."
_ORIGINAL: Final = ".original_module."
_TRAINED: Final = ".modules_to_save."
_WRAPPER: Final = "base_model.model."

T = TypeVar("T")


def model_and_adapter_keys(
    keys: Collection[str],
) -> tuple[dict[str, str], dict[str, str]] | None:
    """Return the keys of the model and of the adapters in it, each with its new name.

    None where the keys are those of no such model: an adapter alone may hold the base layer of an
    embedding, but not of all that it changes.

    >>> model, adapters = model_and_adapter_keys([
    ...     "base_model.model.q.base_layer.weight", "base_model.model.q.lora_A.default.weight",
    ...     "base_model.model.q.lora_B.default.weight", "base_model.model.norm.weight"])
    >>> list(model.values()), list(adapters.values())
    (['q.weight', 'norm.weight'], ['q.lora_A.default.weight', 'q.lora_B.default.weight'])
    """
    bases = {key.rpartition(_BASE)[0].partition(_BASE)[0] for key in keys if _BASE in key}
    if not bases:
        return None
    factors = factor_keys(keys)
    changed = {parsed[0] for key in factors if (parsed := parse_adapter_key(key)) is not None}
    if 2 * len(bases) < len(changed):
        return None
    wrapper = _WRAPPER if all(key.startswith(_WRAPPER) for key in keys) else ""
    model: dict[str, str] = {}
    adapters: dict[str, str] = {}
    for key in keys:
        bare = key.removeprefix(wrapper)
        if key in factors or _TRAINED in key:
            adapters[key] = bare
        else:
            model[key] = bare.replace(_BASE, ".").replace(_ORIGINAL, ".")
    if len(set(model.values())) < len(model):
        return None
    return model, adapters


def renamed(values: Mapping[str, T], names: Mapping[str, str]) -> dict[str, T]:
    """Return the values whose keys have a new name, under it.

    >>> renamed({"a": 1, "b": 2}, {"a": "c"})
    {'c': 1}
    """
    return {names[key]: value for key, value in values.items() if key in names}
