"""What tensors of a GGUF file were called before the conversion, and what that did to them."""

from __future__ import annotations

import csv
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Final

from megasim.checkpoint.strict_json import JSON
from megasim.resources import resource_path

_MOST_HEADS: Final = 1024
# Norm gains of these are stored with 1 added.
_PLUS_ONE: Final = ("gemma", "gemma2", "gemma3")


@dataclass(frozen=True)
class Named:
    """What a tensor of the file is in the model.

    Attributes:
        key: its name there; with {e} for the number of an expert.
        heads: in how many heads the halves of the rows were interleaved; 0 for none.
        by_head: query, key and value of all heads stand one above another, and stood group by group
            of heads that share a key: how many heads, and groups.
        is_plus_one: whether 1 was added to all elements.
        is_experts: whether it is the tensors of all experts, one after another.
        is_transposed: whether it is the transpose.
        problem: why it cannot be made out; else "".
    """

    key: str
    heads: int = 0
    by_head: tuple[int, int] | None = None
    is_plus_one: bool = False
    is_experts: bool = False
    is_transposed: bool = False
    problem: str = ""


@dataclass(frozen=True)
class GGUFNames:
    """The names of one file: its architecture, and how many heads it says it has."""

    architecture: str
    heads: int
    kv_heads: int

    def of(self, name: str, shape: tuple[int, ...]) -> Named:
        """Return what a tensor is in the model; under its own name where that is not known."""
        stem, _, factor = name.rpartition(".")
        if factor in _FACTORS:
            return _as_factor(name, self._of_weight(stem, shape), _FACTORS[factor])
        return replace(self._of_weight(name, shape), problem="")  # it keeps the name of the file

    def _of_weight(self, name: str, shape: tuple[int, ...]) -> Named:
        if self.architecture not in _known():
            return Named(name)
        for architectures, pattern, model, how in _rules():
            if self.architecture not in architectures and (
                architectures != ("*",) or self.architecture in _unlike_llama()
            ):
                continue
            found = pattern.fullmatch(name)
            if found is None:
                continue
            key = model
            for wildcard, text in found.groupdict().items():
                key = key.replace(f"{{{wildcard}}}", text)
            return self._named(name, key, how, shape)
        return Named(name)

    def _named(self, name: str, key: str, how: str, shape: tuple[int, ...]) -> Named:
        if how.startswith("interleaved"):
            heads = self.kv_heads if how.endswith("kv") else self.heads
            rows = shape[0] if shape else 0
            # without a number of heads that fits, the order of rows is not known
            fits = 0 < heads <= _MOST_HEADS and rows % (2 * heads) == 0
            return Named(key, heads=heads) if fits else Named(name, problem=_UNKNOWN_ORDER)
        if how == "by head":
            heads, groups = self.heads, self.kv_heads
            rows = shape[0] if shape else 0
            fits = 0 < groups <= heads <= _MOST_HEADS and heads % groups == 0
            fits = fits and rows % (heads + 2 * groups) == 0
            if not fits:
                return Named(name, problem=_UNKNOWN_ORDER)
            return Named(key, by_head=(heads, groups))
        if how == "transposed":
            return Named(key, is_transposed=True) if len(shape) == 2 else Named(name)
        if how == "experts":
            return Named(key, is_experts=True) if len(shape) == 3 else Named(name)
        return Named(key, is_plus_one=how == "gemma" and self.architecture in _PLUS_ONE)


# The factors of a LoRA that llama.cpp converted, behind the name of the weight, and PEFT's names.
_FACTORS: Final = {"lora_a": "lora_A.weight", "lora_b": "lora_B.weight"}
_UNKNOWN_ORDER: Final = (
    "rows that llama.cpp put into another order, head by head; "
    "the file does not say how many heads there are"
)


def _as_factor(name: str, weight: Named, factor: str) -> Named:
    """Return what a factor of the change of a weight is, as PEFT names it.

    Those of layers whose rows were put into another order go along with these; the file of an
    adapter does not say how many heads there are.
    """
    if weight.heads or weight.by_head or weight.problem:
        return Named(name, problem=_UNKNOWN_ORDER)
    module = weight.key.removesuffix(".weight")
    if weight.is_experts or module == weight.key or name.startswith("token_embd."):
        return Named(name)
    return Named(f"{module}.{factor}")


def names_of(metadata: Mapping[str, JSON]) -> GGUFNames:
    """Return the names of a file by its metadata."""
    architecture = metadata.get("general.architecture")
    architecture = architecture if isinstance(architecture, str) else ""
    heads = _number(metadata, f"{architecture}.attention.head_count")
    kv_heads = _number(metadata, f"{architecture}.attention.head_count_kv") or heads
    return GGUFNames(architecture, heads, kv_heads)


def _number(metadata: Mapping[str, JSON], key: str) -> int:
    found = metadata.get(key)
    return found if isinstance(found, int) and not isinstance(found, bool) and found > 0 else 0


_Rule = tuple[tuple[str, ...], re.Pattern[str], str, str]
_WILDCARDS: Final = {"{i}": r"(?P<i>[0-9]{1,6})", "{k}": r"(?P<k>weight|bias)"}
# Of these nothing is changed but the names.
_PLAIN: Final = ("qwen2", "qwen3", "phi3", "gemma", "stablelm")


@lru_cache(maxsize=1)
def _rules() -> tuple[_Rule, ...]:
    lines = resource_path("data", "gguf_names.csv").read_text().splitlines()
    rows = csv.DictReader((x for x in lines if not x.startswith("#")), skipinitialspace=True)
    rules = []
    for row in rows:
        pattern = re.escape(row["name"].strip())
        for wildcard, expression in _WILDCARDS.items():
            pattern = pattern.replace(re.escape(wildcard), expression)
        architectures = tuple(row["architecture"].strip().split("|"))
        how = (row["how"] or "").strip()
        rules.append((architectures, re.compile(pattern), row["model"].strip(), how))
    return tuple(rules)


@lru_cache(maxsize=1)
def _unlike_llama() -> frozenset[str]:
    """The architectures whose layers have names of their own: no row for all holds for them."""
    return frozenset(
        name
        for architectures, pattern, *_ in _rules()
        if architectures != ("*",) and pattern.fullmatch("token_embd.weight")
        for name in architectures
    )


@lru_cache(maxsize=1)
def _known() -> frozenset[str]:
    """The architectures whose names are undone."""
    named = {name for architectures, *_ in _rules() for name in architectures}
    return frozenset(named - {"*"} | set(_PLAIN))
