"""Keys of a file → the layers that an adapter changes, and what stands for the change of each.

An adapter holds no weights: it holds factors, of which the change of a weight is made. Here the
spellings of them are told apart, by their keys alone: those of kohya's scripts and LyCORIS
(`.lora_down.weight`, `.alpha`, `.hada_w1_a` …), of PEFT (`.lora_A.weight`), of diffusers before it
(`.lora.down.weight`, `.processor.to_q_lora.down.weight`), and of whole differences (`.diff`).
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
        (r"(?P<m>.+)\.lora_B(\.[^.]+)?\.bias", "bias"),
        (r"(?P<m>.+)\.lora_embedding_A(\.[^.]+)?", "embedding_down"),
        (r"(?P<m>.+)\.lora_embedding_B(\.[^.]+)?", "embedding_up"),
        (r"(?P<m>.+)\.lora(_linear_layer)?\.(?P<r>up|down)\.weight", ""),
        (r"(?P<m>.+)_lora\.(?P<r>up|down)\.weight", ""),
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
            r"(?P<m>.+)\.(oft_R|oft_S|boft_R|boft_s|oft_diag|vera_lambda_[bd]|ia3_l)(\..+)?",
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
    *(".w_norm", ".b_norm", ".vera_lambda_", ".ia3_l", ".on_input"),
    *(".a1.weight", ".a2.weight", ".b1.weight", ".b2.weight"),
)
# Roles whose names models have too; they are an adapter's where its layers are called so.
_SHARED: Final = frozenset({"alpha", "rescale", "diff", "diff_b", "other"})
_PREFIXES: Final = ("lora_", "lycoris_", "base_model.model.", "diffusion_model.", "text_encoders.")
# Roles of which the others of a layer are missing.
_HALVES: Final = frozenset(
    {"up", "mid", "down", "embedding_up", "embedding_down", "magnitude", "row_magnitude"}
    | {"w1_a", "w1_b", "w2_a", "w2_b", "t1", "t2", "lokr_w1", "lokr_w1_a", "lokr_w1_b"}
    | {"lokr_w2", "lokr_w2_a", "lokr_w2_b", "lokr_t2"}
)
# Between the module and the factor, where attention processors held the adapters.
_PROCESSOR: Final = re.compile(r"\.processor\.(to_(?:q|k|v|out))$")


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
        module = _PROCESSOR.sub(_behind_processor, groups["m"])
        return module, role + groups["r"] if groups.get("r") else role
    return None


def _behind_processor(found: re.Match[str]) -> str:
    return "." + ("to_out.0" if found[1] == "to_out" else found[1])


def adapter_keys(shapes: Mapping[str, tuple[int, ...]]) -> AdapterKeys:
    """Return which layers the keys of an adapter change, and how.

    >>> found = adapter_keys(
    ...     {"q.lora_A.weight": (4, 8), "q.lora_B.weight": (8, 4), "head.weight": (8, 8)})
    >>> [(layer.module, str(layer.kind)) for layer in found.layers], found.others
    ([('q', 'LoRA')], ('head.weight',))
    """
    modules: dict[str, dict[str, str]] = {}
    others: list[str] = []
    for key in shapes:
        parsed = parse_adapter_key(key)
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
            kind, why = _kind(part.factors, shapes)
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
    factors: Mapping[str, str], shapes: Mapping[str, tuple[int, ...]]
) -> tuple[AdapterKind | None, str]:
    """Return how a change is made of some factors; None where they are no adapter's."""
    held = set(factors)
    if "unknown" in held:
        return AdapterKind.UNKNOWN, f"{_last_name(factors['unknown'])}: not computed"
    if "other" in held and is_factor(factors["other"]):
        return AdapterKind.UNKNOWN, f"{_last_name(factors['other'])}: not computed"
    if held >= {"up", "down"} or held >= {"embedding_up", "embedding_down"}:
        return AdapterKind.LORA, ""
    if held >= {"w1_a", "w1_b", "w2_a", "w2_b"}:
        return AdapterKind.LOHA, ""
    if _whole_or_factored("lokr_w1", held) and _whole_or_factored("lokr_w2", held):
        return AdapterKind.LOKR, ""
    if "oft_blocks" in held:
        dims = len(shapes[factors["oft_blocks"]])
        kind = {3: AdapterKind.OFT, 4: AdapterKind.BOFT}.get(dims)
        return (AdapterKind.UNKNOWN, f"oft_blocks of {dims} dimensions") if not kind else (kind, "")
    if "diff" in held and is_factor(factors["diff"]):
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


def is_adapter(keys: Iterable[str]) -> bool:
    """Whether four keys of five at least are factors of changes.

    >>> is_adapter(["q.lora_A.weight", "q.lora_B.weight"]), is_adapter(["q.weight", "net.alpha"])
    (True, False)
    """
    named = list(keys)
    others = 0
    for key in named:
        others += not is_factor(key)
        if 5 * others > len(named):  # of a model, mostly after a fifth of its keys
            return False
    return bool(named)
