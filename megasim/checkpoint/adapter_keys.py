"""Keys of a file → the layers that an adapter changes, and what stands for the change of each.

An adapter holds no weights: it holds factors, of which the change of a weight is made. Here the
spellings of them are told apart, by their keys alone: those of kohya's scripts and LyCORIS
(`.lora_down.weight`, `.alpha`, `.hada_w1_a` …), of PEFT (`.lora_A.weight`), of diffusers before it
(`.lora.down.weight`, `.processor.to_q_lora.down.weight`), of XLabs (`.processor.qkv_lora1`), of MLX
(`.lora_a`), and of whole differences (`.diff`).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final


class AdapterKind(StrEnum):
    """How the change of one weight is made of what the file holds."""

    LORA = "LoRA"  # up · down; with `mid`, a Tucker decomposition of a convolution (LoCon)
    LOHA = "LoHa"  # (a₁ b₁) ∘ (a₂ b₂), element by element
    LOKR = "LoKr"  # w₁ ⊗ w₂, each whole or of two factors
    OFT = "OFT"  # a rotation of the rows of the weight, block by block
    BOFT = "BOFT"  # several such rotations, one after another, of rows in other orders
    DIFFERENCE = "difference"  # the change itself
    UNKNOWN = "unknown"  # recognised, and not computed


# What an adapter calls a factor, and what it is here. The first that fits decides. The adapter of
# PEFT has a name of its own in a state dict that was saved whole (`default`).
_SPELLINGS: Final = tuple(
    (re.compile(pattern), role)
    for pattern, role in (
        (r"(?P<m>.+)\.lora_(?P<r>up|down|mid)(\.weight)?", ""),
        (r"(?P<m>.+)\.lora_A(\.[^.]+)?\.weight", "down"),
        (r"(?P<m>.+)\.lora_B(\.[^.]+)?\.weight", "up"),
        # MLX multiplies by them from the other side: (in, r) and (r, out)
        (r"(?P<m>.+)\.lora_a", "turned_down"),
        (r"(?P<m>.+)\.lora_b", "turned_up"),
        (r"(?P<m>.+)\.lora_B(\.[^.]+)?\.bias", "bias"),
        (r"(?P<m>.+)\.lora_embedding_A(\.[^.]+)?", "embedding_down"),
        (r"(?P<m>.+)\.lora_embedding_B(\.[^.]+)?", "embedding_up"),
        (r"(?P<m>.+)\.lora(_linear_layer)?\.(?P<r>up|down)\.weight", ""),
        (r"(?P<m>.+_lora[12]?)\.(?P<r>up|down)\.weight", ""),
        (r"(?P<m>.+)\.alpha", "alpha"),
        (r"(?P<m>.+)\.dora_scale", "magnitude"),
        (r"(?P<m>.+)\.lora_magnitude_vector(\.[^.]+)*", "row_magnitude"),
        (r"(?P<m>.+)\.hada_(?P<r>w1_a|w1_b|w2_a|w2_b|t1|t2)", ""),
        (r"(?P<m>.+)\.lokr_(?P<r>w1|w1_a|w1_b|w2|w2_a|w2_b|t2)", "lokr_"),
        (r"(?P<m>.+)\.oft_blocks", "oft_blocks"),
        (r"(?P<m>.+)\.rescale", "rescale"),
        (r"(?P<m>.+)\.(diff|w_norm)", "diff"),
        (r"(?P<m>.+)\.(diff_b|b_norm)", "diff_b"),
        (
            r"(?P<m>.+)\.(oft_R|oft_S|boft_R|boft_s|oft_diag|vera_lambda_[bd]|ia3_l|"
            r"lora_[ABE]|ranknum)(\..+)?",  # the last two: AdaLoRA
            "unknown",
        ),
        (r"(?P<m>.+)\.(?P<r>[ab][12]\.weight)", "other"),  # GLoRA
        (r"(?P<m>.+)\.on_input", "other"),  # IA³, as LyCORIS saves it
    )
)
# Each of them has one of these texts in it, and most keys of models have none: looking for them
# takes a tenth of the time of trying the patterns.
_MARKS: Final = (
    *("lora", ".alpha", ".dora_scale", ".hada_", ".lokr_", "oft_", ".rescale", ".diff"),
    *(".w_norm", ".b_norm", ".vera_lambda_", ".ia3_l", ".on_input", ".ranknum"),
    *(".a1.weight", ".a2.weight", ".b1.weight", ".b2.weight"),
)
# Roles whose names models have too; they are an adapter's where its layers are called so.
_SHARED: Final = frozenset({"alpha", "rescale", "diff", "diff_b", "other"})
_PREFIXES: Final = ("lora_", "lycoris_", "base_model.model.", "diffusion_model.", "text_encoders.")
# Roles of which the others of a layer are missing.
_HALVES: Final = frozenset(
    {"up", "mid", "down", "embedding_up", "embedding_down", "magnitude", "row_magnitude"}
    | {"turned_up", "turned_down"}
    | {"w1_a", "w1_b", "w2_a", "w2_b", "t1", "t2", "lokr_w1", "lokr_w1_a", "lokr_w1_b"}
    | {"lokr_w2", "lokr_w2_a", "lokr_w2_b", "lokr_t2"}
)
# What stood between a module and its factors, while attention processors held the adapters: of
# diffusers, of its text encoders, and of XLabs' Flux, whose image is 1 and whose text is 2.
_MODULES: Final = tuple(
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r"\.self_attn\.to_(q|k|v|out)_lora$", r".self_attn.\1_proj"),
        (r"(\.processor)?\.to_out_lora$", ".to_out.0"),
        (r"\.processor\.qkv_lora1$", ".img_attn.qkv"),
        (r"\.processor\.proj_lora1$", ".img_attn.proj"),
        (r"\.processor\.qkv_lora2$", ".txt_attn.qkv"),
        (r"\.processor\.proj_lora2$", ".txt_attn.proj"),
        (r"(single_blocks\.[0-9]+)\.processor\.proj_lora$", r"\1.linear2"),
        (r"(\.processor)?\.(\w+)_lora$", r".\2"),
        (r"\.processor\.(to_\w+)$", r".\1"),
    )
)
# Words that an adapter brings with it, as files for image models bundle them.
_EMBEDDINGS: Final = ("bundle_emb.", "bundle_emb_")


@dataclass(frozen=True)
class AdapterLayer:
    """One weight that an adapter changes.

    Attributes:
        module: the layer, as the file names it.
        kind: how its change is made.
        factors: what each key holds (up, down, alpha …) → the key.
        why: for an unknown kind, what is not computed; else "".
    """

    module: str
    kind: AdapterKind
    factors: Mapping[str, str]
    why: str = ""

    @property
    def is_decomposed(self) -> bool:
        """Whether the rows of the changed weight are given a length of their own (DoRA)."""
        return "magnitude" in self.factors or "row_magnitude" in self.factors

    @property
    def needs_base(self) -> bool:
        """Whether the change depends on the weight that is changed."""
        return self.is_decomposed or self.kind in (AdapterKind.OFT, AdapterKind.BOFT)


@dataclass(frozen=True)
class AdapterKeys:
    """What the keys of an adapter say.

    Attributes:
        layers: what it changes, in the order of the file.
        others: keys that belong to no change, as whole weights that were trained beside it.
    """

    layers: tuple[AdapterLayer, ...]
    others: tuple[str, ...] = field(default=())

    @property
    def kinds(self) -> tuple[str, ...]:
        """The kinds of its layers, each once, "DoRA" for a LoRA with magnitudes."""
        names = (
            "DoRA" if layer.kind is AdapterKind.LORA and layer.is_decomposed else str(layer.kind)
            for layer in self.layers
        )
        return tuple(dict.fromkeys(names))


def parse_adapter_key(key: str) -> tuple[str, str] | None:
    """Return the module and the role of a factor; None for a key of no adapter.

    >>> parse_adapter_key("lora_unet_mid_block_attentions_0_proj_in.lora_down.weight")
    ('lora_unet_mid_block_attentions_0_proj_in', 'down')
    >>> parse_adapter_key("base_model.model.h.0.attn.c_attn.lora_B.default.weight")
    ('base_model.model.h.0.attn.c_attn', 'up')
    >>> parse_adapter_key("up_blocks.1.attn1.processor.to_out_lora.up.weight")
    ('up_blocks.1.attn1.to_out.0', 'up')
    >>> parse_adapter_key("model.layers.0.mlp.up_proj.weight")
    """
    if len(key) > 512:
        return None
    for mark in _MARKS:
        if mark in key:
            break
    else:
        return None
    for pattern, role in _SPELLINGS:
        if (found := pattern.fullmatch(key)) is None:
            continue
        groups = found.groupdict()
        module = groups["m"]
        if "_lora" in module or ".processor" in module:
            module = _without_processor(module)
        return module, role + groups["r"] if groups.get("r") else role
    return None


def _without_processor(module: str) -> str:
    for pattern, replacement in _MODULES:
        module, count = pattern.subn(replacement, module)
        if count:
            break
    return module


def adapter_keys(shapes: Mapping[str, tuple[int, ...]]) -> AdapterKeys:
    """Return which layers the keys of an adapter change, and how.

    >>> found = adapter_keys(
    ...     {"q.lora_A.weight": (4, 8), "q.lora_B.weight": (8, 4), "head.weight": (8, 8)})
    >>> [(layer.module, str(layer.kind)) for layer in found.layers], found.others
    ([('q', 'LoRA')], ('head.weight',))
    """
    modules: dict[str, dict[str, str]] = {}
    others: list[str] = []
    has_sure = any(is_factor(key) for key in shapes)
    for key in shapes:
        parsed = None if key.startswith(_EMBEDDINGS) else parse_adapter_key(key)
        if parsed is None:
            others.append(key)
            continue
        module, role = parsed
        # a role that is there already is a second adapter in one file, which is not computed
        held = modules.setdefault(module, {})
        held["unknown" if role in held else role] = key
    layers: list[AdapterLayer] = []
    for module, roles in modules.items():
        for part in _split_bias(module, roles):
            kind, why = _kind(part.factors, shapes, has_sure)
            if kind is None:
                others += part.factors.values()
            else:
                layers.append(AdapterLayer(part.module, kind, part.factors, why))
    return AdapterKeys(tuple(layers), tuple(others))


def _split_bias(module: str, roles: dict[str, str]) -> Iterable[AdapterLayer]:
    """Give the change of a bias a layer of its own."""
    bias, scaled = roles.pop("diff_b", None), roles.pop("bias", None)
    if roles:
        yield AdapterLayer(module, AdapterKind.UNKNOWN, roles)
    if bias is not None:
        yield AdapterLayer(f"{module}.bias", AdapterKind.DIFFERENCE, {"diff": bias})
    if scaled is not None:
        yield AdapterLayer(f"{module}.bias", AdapterKind.UNKNOWN, {"unknown": scaled})


def _kind(
    factors: Mapping[str, str], shapes: Mapping[str, tuple[int, ...]], has_sure: bool
) -> tuple[AdapterKind | None, str]:
    """Return how a change is made of some factors; None where they are no adapter's.

    `has_sure`: whether others of the file are factors beyond doubt.
    """
    held = set(factors)
    if "unknown" in held:
        return AdapterKind.UNKNOWN, f"{_last_name(factors['unknown'])}: not computed"
    if "other" in held and is_factor(factors["other"]):
        return AdapterKind.UNKNOWN, f"{_last_name(factors['other'])}: not computed"
    if any(held >= {f"{way}up", f"{way}down"} for way in ("", "embedding_", "turned_")):
        return AdapterKind.LORA, ""
    if held >= {"w1_a", "w1_b", "w2_a", "w2_b"}:
        return AdapterKind.LOHA, ""
    if _whole_or_factored("lokr_w1", held) and _whole_or_factored("lokr_w2", held):
        return AdapterKind.LOKR, ""
    if "oft_blocks" in held:
        dims = len(shapes[factors["oft_blocks"]])
        kind = {3: AdapterKind.OFT, 4: AdapterKind.BOFT}.get(dims)
        return (AdapterKind.UNKNOWN, f"oft_blocks of {dims} dimensions") if not kind else (kind, "")
    if "diff" in held and (has_sure or is_factor(factors["diff"])):
        return AdapterKind.DIFFERENCE, ""
    if held & _HALVES:
        return AdapterKind.UNKNOWN, "a factor is missing"
    return None, ""


def _last_name(key: str) -> str:
    """The last name of a key that says what it is.

    >>> _last_name("h.0.c_attn.oft_R.default.weight")
    'oft_R'
    """
    names = [n for n in key.split(".") if n not in ("weight", "default", "bias")]
    return names[-1] if names else key


def _whole_or_factored(name: str, held: set[str]) -> bool:
    return name in held or {f"{name}_a", f"{name}_b"} <= held


def is_factor(key: str) -> bool:
    """Whether a key is that of a factor of a change, or of its strength.

    >>> is_factor("base_model.model.h.0.attn.c_attn.lora_A.weight")
    True
    >>> is_factor("lora_unet_mid_block_attentions_0_proj_in.alpha")
    True
    >>> is_factor("net.blocks.0.alpha"), is_factor("explora_head.weight")
    (False, False)
    """
    module, role = parse_adapter_key(key) or ("", "")
    return bool(role) and (role not in _SHARED or module.startswith(_PREFIXES))


def factor_keys(keys: Iterable[str]) -> frozenset[str]:
    """Return the keys that are factors of changes, or strengths, given all keys of a file.

    A name that models have too, such as `alpha`, is one where its layer has other factors.

    >>> sorted(factor_keys(["q.lora_up.weight", "q.lora_down.weight", "q.alpha", "net.alpha"]))
    ['q.alpha', 'q.lora_down.weight', 'q.lora_up.weight']
    """
    sure: set[str] = set()
    found: list[str] = []
    unsure: list[tuple[str, str]] = []
    for key in keys:
        module, role = parse_adapter_key(key) or ("", "")
        if role in _SHARED and not module.startswith(_PREFIXES):
            unsure.append((key, module))
        elif role:
            sure.add(module)
            found.append(key)
    return frozenset((*found, *(key for key, module in unsure if module in sure)))


def is_adapter(keys: Iterable[str]) -> bool:
    """Whether four keys of five at least are factors of changes.

    A name that models have too, such as `alpha`, counts where its layer has other factors. Words
    that come with an adapter are no reason against it.

    >>> is_adapter(["q.lora_A.weight", "q.lora_B.weight"]), is_adapter(["q.weight", "net.alpha"])
    (True, False)
    >>> is_adapter(["q.lora_up.weight", "q.lora_down.weight", "q.alpha"])
    True
    """
    named = [key for key in keys if not key.startswith(_EMBEDDINGS)]
    others = 0
    sure: set[str] = set()
    unsure: list[str] = []
    for key in named:
        module, role = parse_adapter_key(key) or ("", "")
        if role in _SHARED and not module.startswith(_PREFIXES):
            unsure.append(module)
        elif role:
            sure.add(module)
        else:
            others += 1
        if 5 * others > len(named):  # of a model, mostly after a fifth of its keys
            return False
    others += sum(module not in sure for module in unsure)
    return bool(sure) and 5 * others <= len(named)
