"""The layers that an adapter names → the keys of the weights they are in a model.

Adapters name layers in many ways: after diffusers or after the original code, behind a prefix of
their own, with dots or with `_` for them. Both are undone here by tables: `data/adapter_places.csv`
for the prefixes, and for the dots the names that have a `_` in the rules of the anatomy and in
`data/adapter_words.csv`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

from megasim.anatomy.classification import CanonicalPlace, canonical_places
from megasim.anatomy.rules import Rules, load_rules
from megasim.anatomy.tables import read_table
from megasim.resources import resource_path

Shape = tuple[int, ...]

_DENOISER = "denoiser"
_KNOWN_DENOISER = "known denoiser"
_WRAPPER = "base_model.model."
_ORIGINAL = "model.diffusion_model."
# Layouts of the tables whose names are those of a denoiser of diffusers → where it stands there.
_LAYOUTS = {"diffusers-unet": "unet/", "diffusers-transformer": "transformer/"}
_ORIGINAL_LAYOUTS = {"bare-unet": _ORIGINAL, "bare-transformer": _ORIGINAL}
# Words of a name longer than this are not searched for.
_MOST_WORDS = 64


@dataclass(frozen=True)
class ChangedLayer:
    """A layer that an adapter changes, as a model names it.

    Attributes:
        key: of its weight, where only the adapter's own name was undone: "unet/….weight".
        place: the canonical tensor of a known family that it is, or is part of.
    """

    key: str
    place: CanonicalPlace


def changed_layers(
    shapes: Mapping[str, Shape], rules: Rules | None = None
) -> tuple[str, dict[str, ChangedLayer]]:
    """Return the family that an adapter is for, and what each layer is called in a model.

    Args:
        shapes: the shape of the weight by the layer's name in the adapter. A name that ends on
            ".bias" is that of a bias.

    >>> family, layers = changed_layers(
    ...     {"lora_unet_down_blocks_0_attentions_0_proj_in": (320, 320, 1, 1)})
    >>> layers["lora_unet_down_blocks_0_attentions_0_proj_in"].place.canonical_key
    'model.diffusion_model.input_blocks.1.1.proj_in.weight'
    """
    rules = load_rules() if rules is None else rules
    keys: dict[str, str] = {}
    taken: set[str] = set()
    for module in shapes:
        key = weight_key(module, rules)
        # two names for one layer are two changes of it: the second keeps its own name
        keys[module] = key if key not in taken else module
        taken.add(keys[module])
    family, places = canonical_places({key: shapes[m] for m, key in keys.items()}, rules)
    return family, {module: ChangedLayer(key, places[key]) for module, key in keys.items()}


def weight_key(module: str, rules: Rules | None = None) -> str:
    """Return the key of the weight of a layer that an adapter names.

    >>> weight_key("lora_te_text_model_encoder_layers_0_self_attn_q_proj")
    'text_encoder/text_model.encoder.layers.0.self_attn.q_proj.weight'
    >>> weight_key("lora_unet_double_blocks_0_img_attn_qkv")
    'model.diffusion_model.double_blocks.0.img_attn.qkv.weight'
    >>> weight_key("base_model.model.model.layers.0.mlp.up_proj")
    'model.layers.0.mlp.up_proj.weight'
    """
    rules = load_rules() if rules is None else rules
    ending = "" if module.endswith((".weight", ".bias")) else ".weight"
    bare = module.removeprefix(_WRAPPER)
    for prefix, place, is_flat in _places():
        if not bare.startswith(prefix):
            continue
        is_first = _is_first_name(prefix)
        if bare != module and not is_first:
            break  # behind PEFT's wrapper stand the names of the model itself
        name = bare if is_first else bare.removeprefix(prefix)
        if is_flat:
            flat, dot, rest = name.partition(".")
            name = with_dots(flat, rules) + dot + rest
        if place in (_DENOISER, _KNOWN_DENOISER):
            place = _denoiser(name, rules, "" if place == _KNOWN_DENOISER else _ORIGINAL)
        return place + name + ending
    return bare + ending


def _is_first_name(prefix: str) -> bool:
    """Whether a prefix is itself the first name of a layer, as `down_blocks.` is."""
    return prefix.endswith(("blocks.", "block."))


def _denoiser(name: str, rules: Rules, unknown: str) -> str:
    """Where the denoiser stands that has a layer of this name; `unknown` for one of no layout."""
    first = name.partition(".")[0]
    for places in (_LAYOUTS, _ORIGINAL_LAYOUTS):
        for layout in rules.layouts:
            if layout.name in places and first in layout.names:
                return places[layout.name]
    return unknown


def with_dots(flat: str, rules: Rules | None = None) -> str:
    """Return a name whose dots were written as `_`, with its dots.

    Where two names could be meant, the longer known one is taken.

    >>> with_dots("down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_out_0")
    'down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_out.0'
    """
    words = flat.split("_")
    if len(words) > _MOST_WORDS:
        return flat
    known = _known_words(load_rules() if rules is None else rules)
    names: list[str] = []
    place = 0
    while place < len(words):
        for end in range(min(len(words), place + 5), place, -1):
            joined = "_".join(words[place:end])
            if end == place + 1 or joined in known:
                names.append(joined)
                place = end
                break
    return ".".join(names)


def flat_name(key: str) -> str:
    """Return the key of a weight as adapters that have no dots write it.

    >>> flat_name("model.layers.0.self_attn.q_proj.weight")
    'model_layers_0_self_attn_q_proj'
    """
    return key.removesuffix(".weight").replace("/", "_").replace(".", "_")


@lru_cache(maxsize=2)
def _known_words(rules: Rules) -> frozenset[str]:
    """Return the names with a `_` that the rules of the anatomy speak of, and the table's."""
    columns = (rules.canonical, rules.component, rules.block, rules.role)
    texts = [rule.pattern.text for column in columns for rule in column]
    texts += [
        piece for rule in rules.canonical for piece in rule.value.pieces if isinstance(piece, str)
    ]
    words = {word for text in texts for word in re.split(r"[./(|){}*]+", text) if "_" in word}
    words |= {name for layout in rules.layouts for name in layout.names if "_" in name}
    table = resource_path("data", "adapter_words.csv")
    return frozenset(words | {row["word"] for row in read_table(table, ("word",), ("word",))})


@lru_cache(maxsize=1)
def _places() -> tuple[tuple[str, str, bool], ...]:
    columns = ("prefix", "place", "flat")
    table = read_table(resource_path("data", "adapter_places.csv"), columns, columns)
    return tuple((row["prefix"], row["place"], row["flat"] == "yes") for row in table)
