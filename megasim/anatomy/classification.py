"""A key → family, component, block, role and canonical key.

Two checkpoints of the same weights may name them differently; their canonical keys are the same.
The canonical form is that of the original single-file checkpoints. The rules are tables in
`data/`, read by `anatomy.rules`; `docs/anatomy.md` describes them.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product

from megasim.anatomy.patterns import split_key
from megasim.anatomy.rules import (
    OTHER_FAMILIES,
    FamilyRules,
    FileLayout,
    Rule,
    Rules,
    Signature,
    load_components,
    load_rules,
    load_unused,
)
from megasim.errors import printable

__all__ = [
    "DENOISERS",
    "CanonicalPlace",
    "CanonicalTensor",
    "ModelAnatomy",
    "Rules",
    "canonical_places",
    "canonical_shape",
    "classify_keys",
    "component_members",
    "component_title",
    "ema_key",
    "load_rules",
    "unused_reason",
]

Shape = tuple[int, ...]

# What makes the images of an image model: one of these components.
DENOISERS = ("unet", "transformer")

# What training code puts before every key. `model.` is also the first name of models that were
# never wrapped, so it is taken off only where a known layout shows behind it.
_WRAPPERS = ("state_dict.", "module.", "_orig_mod.")
_NESTED_WRAPPERS = tuple(
    dict.fromkeys(a + b for a, b in product(("", *_WRAPPERS, "model."), repeat=2))
)
# No real key is longer; patterns are not tried on such ones.
_LONGEST_KEY = 512
# A generic model with more top-level names than this has no components worth telling apart.
_MOST_COMPONENTS = 64


@dataclass(frozen=True, slots=True)
class CanonicalTensor:
    """One canonical tensor of a model.

    Attributes:
        canonical_key: its name in the canonical form; unique in the model.
        component: e.g. "unet"; for generic models a top-level name of the keys, else "other".
        block: the unit people merge by, e.g. "IN07"; None where there is none.
        role: e.g. "attn1"; None where none is known.
        sources: the keys of the file that it is made of: one, or several whose tensors stand one
            after another along dim 0. One key twice: the second half of its rows stands first.
        transposed: whether the source is the transpose of the canonical tensor (2-D only).
    """

    canonical_key: str
    component: str
    block: str | None
    role: str | None
    sources: tuple[str, ...]
    transposed: bool = False


@dataclass(frozen=True, slots=True)
class CanonicalPlace:
    """Where one key of a file stands in a canonical tensor.

    `part` of `of` along dim 0, in the order of the parts; `transposed` as in `CanonicalTensor`;
    `swapped`: the second half of its rows stands first.
    """

    canonical_key: str
    component: str
    block: str | None
    role: str | None
    part: int = 1
    of: int = 1
    transposed: bool = False
    swapped: bool = False


@dataclass(frozen=True)
class ModelAnatomy:
    """What a model is, and all of its parts in the order of their canonical keys.

    Attributes:
        family: one of `FAMILIES`, such as "SD1", "Wan" or "language model"; "VAE" is one alone.
        variant: "inpainting", "depth", "instruct-pix2pix", "upscaler", "control", "experts", or "".
        layout: how the file names its keys, e.g. "ldm", "novelai", "diffusers", "bare-vae".
        parts: every key of the file is a source of exactly one of them.
    """

    family: str
    variant: str
    layout: str
    parts: tuple[CanonicalTensor, ...]


@dataclass(frozen=True, slots=True)
class _Claim:
    """What the rules say of one key of the file."""

    key: str
    canonical_key: str
    rule: Rule | None = None  # the rule that renamed it


class _Keys:
    """Sorted keys with their shapes, to be asked for prefixes."""

    def __init__(self, shapes: Mapping[str, Shape]) -> None:
        self.shapes = shapes
        self._sorted = sorted(shapes)

    def have_prefix(self, prefix: str) -> bool:
        place = bisect_left(self._sorted, prefix)
        return place < len(self._sorted) and self._sorted[place].startswith(prefix)

    def show(self, signature: Signature) -> bool:
        if signature.shape is None:
            return self.have_prefix(signature.key)
        shape = self.shapes.get(signature.key)
        return (
            shape is not None
            and len(shape) == len(signature.shape)
            and all(want in (None, size) for want, size in zip(signature.shape, shape, strict=True))
        )


def classify_keys(shapes: Mapping[str, Shape], rules: Rules | None = None) -> ModelAnatomy:
    """Say what a model is and what each of its tensors is, from keys and shapes alone.

    Unknown models are "generic", with their keys as canonical keys. Nothing fails: a key that no
    rule knows has the component "other". Where shapes are not known, `()` stands for any; SD1 and
    SD2 are then told apart by their text encoders, and a UNet alone is taken for SD1.

    Args:
        shapes: the shape of every tensor of a file by its key, in any order.
        rules: from `load_rules`; the built-in ones when None.

    >>> anatomy = classify_keys({"unet/conv_in.weight": (320, 4, 3, 3),
    ...                          "unet/down_blocks.0.attentions.0.proj_in.weight": (320, 320)})
    >>> anatomy.family, [(part.canonical_key, part.block) for part in anatomy.parts]
    ... # doctest: +NORMALIZE_WHITESPACE
    ('SD2', [('model.diffusion_model.input_blocks.0.0.weight', 'IN00'),
             ('model.diffusion_model.input_blocks.1.1.proj_in.weight', 'IN01')])
    """
    rules = load_rules() if rules is None else rules
    family, variant, layout, claims = _claims(shapes, rules)
    columns = rules.of_family(family)
    parts = [_part(group, canonical, columns) for canonical, group in _assemble(claims, shapes)]
    if family in OTHER_FAMILIES:
        parts = _without_crowd(parts)
    return ModelAnatomy(
        family, variant, layout, tuple(sorted(parts, key=lambda part: part.canonical_key))
    )


def canonical_places(
    shapes: Mapping[str, Shape], rules: Rules | None = None
) -> tuple[str, dict[str, CanonicalPlace]]:
    """Return a family, and where in its canonical tensors each key stands; for part of a model.

    Unlike `classify_keys`, it does not ask that all parts of a canonical tensor are there.

    >>> key = "unet/down_blocks.0.attentions.0.proj_in.weight"
    >>> family, places = canonical_places({key: (320, 320)})
    >>> places[key].canonical_key
    'model.diffusion_model.input_blocks.1.1.proj_in.weight'
    """
    rules = load_rules() if rules is None else rules
    family, _, _, claims = _claims(shapes, rules)
    columns = rules.of_family(family)
    places = {}
    for claim in claims:
        labels = columns.labels(claim.canonical_key)
        rule = claim.rule
        how = (rule.part, rule.of, rule.transposed, rule.swapped) if rule else ()
        component, block, role = labels
        places[claim.key] = CanonicalPlace(
            claim.canonical_key, component or "other", block, role, *how
        )
    return family, places


def _claims(shapes: Mapping[str, Shape], rules: Rules) -> tuple[str, str, str, list[_Claim]]:
    """Return family, variant and layout, and what the rules say of each key."""
    renamed = {key: _rename(key, rules) for key in shapes}
    layout, names = _normalise(renamed, rules.layouts)
    known = _Keys({name: shapes[key] for key, name in names.items()})
    family, variant = "generic", ""
    if layout != "generic":
        family = next((s.name for s in rules.families if known.show(s)), family)
    if family != "generic":
        variant = next((s.name for s in rules.variants if known.show(s)), "")
    columns = rules.of_family(family)
    claims = [_claim(key, names[key], shapes, known.shapes, columns) for key in sorted(shapes)]
    return family, variant, layout, claims


def _rename(key: str, rules: Rules) -> str:
    if not rules.renames or len(key) > _LONGEST_KEY:
        return key
    return rules.renamed.decide(key) or key


def _normalise(
    renamed: Mapping[str, str], layouts: Sequence[FileLayout]
) -> tuple[str, dict[str, str]]:
    """Return the layout, and each key without wrapper and with the prefix its file left out."""
    known = _Keys(dict.fromkeys(renamed.values(), ()))
    for wrapper in _NESTED_WRAPPERS:
        if wrapper and not known.have_prefix(wrapper):
            continue
        layout = next((it for it in layouts if known.have_prefix(wrapper + it.prefix)), None)
        if layout is None:
            continue
        if layout.name == "generic":
            break
        names = {}
        for key, name in renamed.items():
            bare = name.removeprefix(wrapper)
            names[key] = layout.add + bare if split_key(bare)[0] in layout.names else bare
        return layout.name, names
    return "generic", dict(zip(renamed, _unwrap(renamed.values()), strict=True))


def _unwrap(names: Iterable[str]) -> list[str]:
    """Take off the wrappers that stand before every key."""
    unwrapped = list(names)
    while unwrapped:
        wrapper = next((w for w in _WRAPPERS if unwrapped[0].startswith(w)), None)
        if wrapper is None or not all(name.startswith(wrapper) for name in unwrapped):
            break
        unwrapped = [name.removeprefix(wrapper) for name in unwrapped]
    return unwrapped


def _claim(
    key: str,
    name: str,
    shapes: Mapping[str, Shape],
    names: Mapping[str, Shape],
    columns: FamilyRules,
) -> _Claim:
    """Find the canonical key of one key of the file."""
    if len(name) > _LONGEST_KEY:
        return _Claim(key, key)
    words = frozenset(split_key(name))
    for rule in columns.canonical.candidates(words):
        found = rule.pattern.match(name)
        if found is None or (rule.needs is not None and rule.needs.fill(found) not in names):
            continue
        if rule.transposed and len(shapes[key]) != 2:
            continue
        if rule.swapped and not _has_halves(shapes[key]):
            continue
        canonical = rule.value.fill(found)
        if canonical is not None:
            return _Claim(key, canonical, rule)
    return _Claim(key, name)


def _has_halves(shape: Shape) -> bool:
    """Whether a tensor may be a scale and a shift for each of its inputs, or their biases."""
    return not shape or (shape[0] == 2 * shape[1] if len(shape) == 2 else shape[0] % 2 == 0)


def _assemble(
    claims: Sequence[_Claim], shapes: Mapping[str, Shape]
) -> list[tuple[str, list[_Claim]]]:
    """Give each canonical key to the claims that make it up; others keep the key of the file.

    A canonical key that is itself a key of the file belongs to that key, so keeping one's own key
    never collides with anything.
    """
    wanting: dict[str, list[_Claim]] = {}
    for claim in claims:
        wanting.setdefault(claim.canonical_key, []).append(claim)
    given: list[tuple[str, list[_Claim]]] = []
    for canonical, group in wanting.items():
        chosen = _choose(canonical, group, shapes)
        if chosen:
            given.append((canonical, chosen))
        given.extend((claim.key, [claim]) for claim in group if claim not in chosen)
    return given


def _choose(canonical: str, group: list[_Claim], shapes: Mapping[str, Shape]) -> list[_Claim]:
    """Return the claims that together are the canonical tensor; none when they are not it."""
    if len(group) == 1 and group[0].key == canonical:
        return group
    if canonical in shapes:
        return [claim for claim in group if claim.key == canonical]
    whole = [claim for claim in group if claim.rule is None or claim.rule.of == 1]
    if whole:
        return whole[:1]
    parts = {claim.rule.part: claim for claim in reversed(group) if claim.rule}
    first, rule = shapes[group[0].key], group[0].rule
    complete = rule is not None and sorted(parts) == list(range(1, rule.of + 1))
    alike = all(shapes[c.key] and shapes[c.key][1:] == first[1:] for c in parts.values())
    return [parts[i] for i in sorted(parts)] if complete and alike else []


def _part(claims: Sequence[_Claim], canonical: str, columns: FamilyRules) -> CanonicalTensor:
    claim = claims[0]
    sources = tuple(c.key for c in claims)
    rule = claim.rule if canonical == claim.canonical_key else None
    # A key that lost its canonical name to another still is what that name says.
    name = claim.canonical_key
    if len(name) > _LONGEST_KEY:
        return CanonicalTensor(canonical, "other", None, None, sources)
    component, block, role = columns.labels(name)
    return CanonicalTensor(
        canonical_key=canonical,
        component=component or "other",
        block=block or None,
        role=role or None,
        sources=sources * 2 if rule is not None and rule.swapped else sources,
        transposed=rule is not None and rule.transposed,
    )


def _without_crowd(parts: list[CanonicalTensor]) -> list[CanonicalTensor]:
    """Put the parts of a generic model into one component where they would make too many."""
    if len({part.component for part in parts}) <= _MOST_COMPONENTS:
        return parts
    return [replace(part, component="other") for part in parts]


def canonical_shape(shape: Sequence[int]) -> Shape:
    """Return a shape without the trailing ones behind its second dimension.

    So a 1×1 convolution has the shape of the linear layer with the same elements.

    >>> canonical_shape((320, 320, 1, 1)), canonical_shape((1, 1)), canonical_shape((8, 1, 3, 1))
    ((320, 320), (1, 1), (8, 1, 3))
    """
    dims = len(shape)
    while dims > 2 and shape[dims - 1] == 1:
        dims -= 1
    return tuple(shape[:dims])


def component_members(component: str) -> tuple[str, ...]:
    """Return the components in the store that a name or alias stands for, itself first.

    "all" gives the empty tuple, which stands for no restriction. Any other name, such as a
    component of a generic model, stands for itself.

    >>> component_members("vae")
    ('vae', 'vae_encoder', 'vae_decoder', 'vae_quant')
    >>> component_members("te0"), component_members("all"), component_members("lm_head")
    (('text_encoder_1',), (), ('lm_head',))
    """
    if component == "all":
        return ()
    known = load_components()
    name = next((c.name for c in known if component in c.aliases), component)
    return (name, *(c.name for c in known if c.part_of == name))


def component_title(component: str) -> str:
    """Return what people call a component; a name of a generic model stays, safe to print.

    "all" is the whole model.

    >>> component_title("vae_decoder"), component_title("lm_head")
    ('VAE decoder', 'lm_head')
    """
    if component == "all":
        return "whole model"
    return next((c.title for c in load_components() if c.name == component), printable(component))


def ema_key(unet_key: str) -> str:
    """Return the key of the EMA copy of a UNet tensor: behind `model_ema.` the dots are removed.

    >>> ema_key("model.diffusion_model.out.2.bias")
    'model_ema.diffusion_modelout2bias'
    """
    return "model_ema." + unet_key.removeprefix("model.").replace(".", "")


def unused_reason(family: str, component: str, canonical_key: str) -> str | None:
    """Return why a family never uses a tensor when it makes an image; None when it does.

    None also where nothing is known, as for generic models.

    >>> unused_reason("SD2", "text_encoder", "cond_stage_model.model.ln_final.weight")
    >>> unused_reason("SD2", "text_encoder", "cond_stage_model.model.text_projection")
    'SD 2.x takes the sequence of hidden states; only the pooled output is projected'
    """
    for rule, of_component, reason in load_unused():
        if (
            (not rule.families or family in rule.families)
            and of_component in ("", component)
            and rule.pattern.match(canonical_key) is not None
        ):
            return reason
    return None
