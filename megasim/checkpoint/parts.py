"""Which state dicts a pickled value holds, what each is, and what stands beside them.

A dict whose values are dicts of tensors is taken apart by what its entries hold, and by their
names. What only trains (an optimizer is known by its content) is beside. An entry with a name that
wrappers give to the model (`state_dict`, `model` …) is the model, and every other state dict is a
part of its own: a copy (`ema`, `teacher`), another network (`discriminator`), or more. Without such
a name, a copy or an adversary is recognised by its own name; two state dicts with the same keys and
shapes are two parts; and all others are one network of named pieces, as in
{"encoder": …, "decoder": …}.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from megasim.checkpoint.adapter_keys import is_adapter
from megasim.checkpoint.contents import SCALAR_LIMIT, shorten, storable
from megasim.checkpoint.limits import DEFAULT_LIMITS, Limits
from megasim.checkpoint.pickle_values import Global, Made
from megasim.checkpoint.pickled_arrays import parse_scalar
from megasim.checkpoint.pickled_tensors import Pickled, is_tensor
from megasim.checkpoint.state_dict import StateDictWalk, entries_of
from megasim.checkpoint.strict_json import JSON
from megasim.words import PartRole

# What wrappers call the model, the surest name first.
WRAPPERS: Final = (
    *("state_dict", "model_state_dict", "model_state", "model", "module", "net", "network"),
    *("weights", "params", "parameters", "generator", "student", "online"),
)
# Lightning's WeightAveraging saves the average as the model, and the raw weights under this name.
_RAW_WEIGHTS: Final = "current_model_state"
_AVERAGED: Final = frozenset({"state_dict", _RAW_WEIGHTS, "averaging_state"})
_TRAINING: Final = re.compile(
    r"optim|sched|scaler|rng|random_state|loops|callbacks|hyper_?param", re.I
)
_EMA: Final = re.compile(
    r"(^|[_.\-])(ema|EMA|swa|avg|average[ds]?|averaging|shadow|polyak)([_.\-]|$)"
    r"|^(ema|EMA|Ema)(?=[A-Z]|model|weight|net|$)|[a-z](Ema|EMA)([A-Z_]|$)"
)
_TEACHER: Final = re.compile(r"teacher|(^|[_.\-])(target|momentum)([_.\-]|$)|^target", re.I)
_DISCRIMINATOR: Final = re.compile(
    r"discriminators?|(^|[_.\-])discs?([_.\-\d]|$)|(^|[_.\-]|net)dis([_.\-\d]|$)"
    r"|^(net_?)?D([_.\-\d]|$)|^net_?d$"
)
_ADAPTER: Final = re.compile(r"(^|[_.\-])(lora|adapters?)([_.\-]|$)", re.I)
# Of a normalisation: they are no parameters, and lists of parameters leave them out.
_BUFFERS: Final = ("running_mean", "running_var", "num_batches_tracked")
_MAX_LEVELS = 8


@dataclass
class Part:
    """A state dict: where it lies in the file ("" for the whole), what it is, and its tensors."""

    place: str
    role: PartRole
    tensors: dict[str, Pickled] = field(default_factory=dict)


@dataclass
class Beside:
    """Tensors that belong to no state dict, such as those of an optimizer, in their order."""

    place: str
    role: PartRole
    tensors: dict[str, Pickled] = field(default_factory=dict)


@dataclass
class Parts:
    """What a pickled value holds.

    Attributes:
        main: the model itself; its place is where it was found, its keys do not begin with it.
        others: further state dicts, in the order of the file.
        beside: tensors of no state dict.
        metadata: scalars beside the model.
    """

    main: Part
    others: list[Part] = field(default_factory=list)
    beside: list[Beside] = field(default_factory=list)
    metadata: dict[str, JSON] = field(default_factory=dict)


def find_parts(path: Path, root: object, limits: Limits = DEFAULT_LIMITS) -> Parts:
    """Return the state dicts in the value of a pickle, by the rule of this module.

    Raises CheckpointError for a malformed tensor, and for what is beyond the limits.
    """
    walk = StateDictWalk(path, limits)
    if is_tensor(root):
        return Parts(Part("", PartRole.WEIGHTS, {"tensor": walk.parse("tensor", root)}))
    split = _Split(walk)
    found = split.take("", root, PartRole.WEIGHTS, 0)
    main = next((p for p in found if p.role is PartRole.WEIGHTS), None)
    main = main or next(iter(found), Part("", PartRole.WEIGHTS))
    others = [part for part in found if part is not main]
    for part in others:
        _name_listed(part, main)
        if part.role is PartRole.OTHER and _are_alike(part.tensors, main.tensors):
            part.role = PartRole.WEIGHTS
    for part in found:
        if part.role in (PartRole.WEIGHTS, PartRole.OTHER) and is_adapter(part.tensors):
            part.role = PartRole.ADAPTER
    return Parts(main, others, split.beside, split.metadata)


def script_parts(
    path: Path,
    root: object,
    classes: Mapping[str, frozenset[str]],
    constants: object,
    limits: Limits = DEFAULT_LIMITS,
) -> Parts:
    """Return the parameters and buffers of a TorchScript module, and its constants beside them.

    A module that was frozen has all of its weights among the constants: they are then the model,
    under the keys "constants.0", "constants.1" ….
    """
    walk = StateDictWalk(path, limits)
    found = walk.script_parameters(root, classes)
    weights = {
        f"constants.{i}": walk.parse(f"constants.{i}", value)
        for i, value in enumerate(constants if isinstance(constants, list | tuple) else [])
        if is_tensor(value)
    }
    split = _Split(walk)
    split.set_apart("", found.apart)
    if not found.tensors:
        return Parts(Part("", PartRole.WEIGHTS, weights), [], split.beside)
    if weights:
        split.beside.append(Beside("constants", PartRole.OTHER, weights))
    return Parts(Part("", PartRole.WEIGHTS, found.tensors), [], split.beside)


class _Split:
    """Takes a pickled value apart; what is beside the state dicts is gathered on the way."""

    def __init__(self, walk: StateDictWalk) -> None:
        self.walk = walk
        self.beside: list[Beside] = []
        self.metadata: dict[str, JSON] = {}

    def take(self, place: str, value: object, role: PartRole, level: int) -> list[Part]:
        """Return the state dicts in a value, the one that the value stands for first."""
        entries = self.entries(value)
        if entries is None or level > _MAX_LEVELS:
            return self.whole(place, value, role)
        if role is PartRole.WEIGHTS:
            self.keep_scalars(entries)
        holders = {k: v for k, v in entries.items() if self.walk.count(v)}
        training = {k: v for k, v in holders.items() if self.is_training(k, v)}
        nets = {k: v for k, v in holders.items() if k not in training and not is_tensor(v)}
        direct = {k: v for k, v in holders.items() if k not in training and is_tensor(v)}
        averaged = role is PartRole.WEIGHTS and holders.keys() >= _AVERAGED
        wrapper = _RAW_WEIGHTS if averaged else next((k for k in WRAPPERS if k in nets), None)
        if direct and (wrapper is None or any(map(_is_key, direct))):
            nets, direct = {}, {}
            found = self.whole(place, {k: v for k, v in entries.items() if k not in training}, role)
        elif wrapper is None and not any(map(role_of_name, nets)):
            found = self.network(place, nets, role, level)
        else:
            plain = {k: v for k, v in nets.items() if role_of_name(k) is None}
            if wrapper is not None:
                plain = {wrapper: nets[wrapper]}
            found = self.network(place, plain, role, max(level, 1)) if plain else []
            for key, member in nets.items():
                if key not in plain:
                    inherited = role if role is not PartRole.WEIGHTS else PartRole.OTHER
                    other = role_of_name(key) or inherited
                    if averaged and key == "state_dict":
                        other = PartRole.EMA
                    found += self.take(_join(place, key), member, other, level + 1)
        self.set_apart(place, direct)
        for key, member in training.items():
            found += self.training(_join(place, key), key, member, level)
        return found

    def network(
        self, place: str, nets: Mapping[object, object], role: PartRole, level: int
    ) -> list[Part]:
        """Return one network out of state dicts that lie side by side, and those like another."""
        if len(nets) == 1:
            ((key, member),) = nets.items()
            inner = self.entries(member) or {}
            listed = type(key) is int and self.is_state_dict(member)  # [state dict, optimizer]
            wraps = any(k in WRAPPERS or role_of_name(k) for k in inner)
            if key in WRAPPERS or level or listed or wraps:
                return self.take(_join(place, key), member, role, level + 1)
        inside = (item for member in nets.values() for item in self.walk.reach(member))
        if role is PartRole.OTHER and not any(map(self.is_state_dict, inside)):
            self.set_apart(place, nets)
            return []
        joined: dict[str, Pickled] = {}
        first: list[dict[str, Pickled]] = []
        twins: dict[object, object] = {}
        members: dict[object, object] = {}
        for key, member in nets.items():
            found = self.walk.state_dict(member)
            if self.is_state_dict(member) and any(_are_alike(found.tensors, t) for t in first):
                twins[key] = member
                continue
            if self.is_state_dict(member):
                first.append(found.tensors)
            members[key] = member
            joined.update({f"{_text(key)}.{name}": t for name, t in found.tensors.items()})
            self.set_apart(_join(place, key), found.apart)
        if len(members) == 1 and twins:
            ((key, member),) = members.items()
            parts = self.take(_join(place, key), member, role, level + 1)
        else:
            parts = [Part(place, role, joined)] if joined else []
        for key, member in twins.items():
            parts += self.take(_join(place, key), member, PartRole.OTHER, level + 1)
        return parts

    def whole(self, place: str, value: object, role: PartRole) -> list[Part]:
        """Return a value as one state dict, or nothing where it holds no tensor with a key."""
        if role is PartRole.OTHER and not self.is_state_dict(value):
            self.set_apart("", {place: value})  # a table of the configuration, say
            return []
        found = self.walk.state_dict(value)
        if role is not PartRole.WEIGHTS and all(t.shape == () for t in found.tensors.values()):
            self.set_apart("", {place: value})  # how many steps were averaged, say: no copy
            return []
        self.set_apart(place, found.apart)
        return [Part(place, role, found.tensors)] if found.tensors else []

    def training(self, place: str, key: object, value: object, level: int) -> list[Part]:
        """Return the copies of the model in what only trains; the rest of it is beside."""
        if self.is_optimizer(value) or re.search("optim", _text(key), re.I):
            self.set_apart("", {place: value}, PartRole.OPTIMIZER)
            return []
        role = role_of_name(key)
        if role in (PartRole.EMA, PartRole.TEACHER) and not is_tensor(value):
            return self.take(place, value, role, level + 1)
        entries = self.entries(value)
        if entries is None or level > _MAX_LEVELS:
            self.set_apart("", {place: value})
            return []
        found: list[Part] = []
        for name, member in entries.items():
            if self.walk.count(member):
                found += self.training(_join(place, name), name, member, level + 1)
        return found

    def set_apart(
        self, place: str, values: Mapping[Any, object], role: PartRole = PartRole.OTHER
    ) -> None:
        """Keep what belongs to no state dict, by its place."""
        for key, value in values.items():
            name = _join(place, key)
            if is_tensor(value):
                tensors = {name: self.walk.parse(name, value)}
            else:
                found = self.walk.state_dict(value)
                tensors = found.tensors
                for inner, member in found.apart.items():
                    odd = [item for item in self.walk.reach(member) if is_tensor(item)]
                    tensors |= {
                        f"{inner}.{i}": self.walk.parse(inner, t) for i, t in enumerate(odd)
                    }
            if tensors:
                self.beside.append(Beside(storable(name), role, tensors))

    def entries(self, value: object) -> dict[object, object] | None:
        """Return the items of a mapping, the attributes of an object that is no module, or the
        elements of a list that holds more than tensors.
        """
        if isinstance(value, list | tuple):
            self.walk.spend(1 + len(value))
            mixed = any(entries_of(item) is not None for item in value)
            return dict(enumerate(value)) if mixed else None
        entries = entries_of(value)
        if entries is None and isinstance(value, Made) and not is_tensor(value):
            is_module = self.walk.module_entries(value) is not None
            state = value.state
            entries = state if isinstance(state, dict) and not is_module else None
        self.walk.spend(1 + len(entries or ()))
        for key in entries or ():
            if isinstance(key, str):  # names are searched for what they say
                self.walk.limits.check("name_bytes", len(key), self.walk.path, key[:80])
        return entries

    def keep_scalars(self, entries: Mapping[object, object]) -> None:
        """Keep the numbers and texts beside the model as metadata."""
        for key, value in entries.items():
            number = parse_scalar(value)
            if isinstance(key, str | int) and (
                number is not None or isinstance(value, str | int | float | None)
            ):
                scalar = value if number is None else number
                found = _scalar(scalar)
                self.walk.spend(len(found) if isinstance(found, str) else 8, "text_bytes")
                self.metadata.setdefault(self.walk.key(str(key)), found)

    def is_training(self, key: object, value: object) -> bool:
        """Whether an entry is of use to a training run alone, by its name or content.

        A tensor with a key of its own is none: layers may be called so, as `noise_scheduler.betas`.
        """
        if is_tensor(value) and _is_key(key):
            return False
        return is_training_name(key) or self.is_optimizer(value)

    def is_optimizer(self, value: object, level: int = 0) -> bool:
        """Whether a value is the state dict of a torch optimizer, or a list of them."""
        if isinstance(value, list | tuple):
            inner = value[:_MAX_LEVELS] if level < 2 else ()
            return bool(inner) and all(self.is_optimizer(item, level + 1) for item in inner)
        entries = entries_of(value)
        return entries is not None and "param_groups" in entries and "state" in entries

    def is_state_dict(self, value: object) -> bool:
        """Whether a value is the state dict of a whole module, and no level of a nested dict."""
        if self.walk.module_entries(value) is not None:
            return True
        if isinstance(value, Made) and isinstance(value.state, dict) and "_metadata" in value.state:
            return True
        entries = entries_of(value) or {}
        self.walk.spend(1 + len(entries))
        return any(isinstance(k, str) and "." in k and is_tensor(v) for k, v in entries.items())


def is_training_name(key: object) -> bool:
    """Whether a name is that of an entry that only training has a use for.

    >>> is_training_name("optimizer_states"), is_training_name("model")
    (True, False)
    """
    return bool(_TRAINING.search(_text(key)))


def role_of_name(key: object) -> PartRole | None:
    """What a name says of a state dict; None where it says nothing.

    >>> [str(role_of_name(k)) for k in ("state_dict_ema", "teacher", "netD", "lora", "encoder")]
    ['ema', 'teacher', 'discriminator', 'adapter', 'None']
    """
    name = _text(key)
    for role, pattern in (
        (PartRole.EMA, _EMA),
        (PartRole.TEACHER, _TEACHER),
        (PartRole.DISCRIMINATOR, _DISCRIMINATOR),
        (PartRole.ADAPTER, _ADAPTER),
    ):
        if pattern.search(name):
            return role
    return None


def _are_alike(a: Mapping[str, Pickled], b: Mapping[str, Pickled]) -> bool:
    """Whether four fifths of the keys of the smaller state dict stand in both with one shape."""
    smaller, larger = sorted((a, b), key=len)
    same = sum(1 for k, t in smaller.items() if k in larger and larger[k].shape == t.shape)
    return bool(smaller) and 5 * same >= 4 * len(smaller)


def _name_listed(part: Part, main: Part) -> None:
    """Give a list of parameters, as averages are kept, the keys of the model's parameters.

    Only where the list is as long as they are many, and the shapes agree one by one.
    """
    if not all(key.isdecimal() for key in part.tensors):
        return
    parameters = {k: t for k, t in main.tensors.items() if not k.endswith(_BUFFERS)}
    shapes = [tensor.shape for tensor in part.tensors.values()]
    if shapes == [tensor.shape for tensor in parameters.values()]:
        part.tensors = dict(zip(parameters, part.tensors.values(), strict=True))


def _is_key(key: object) -> bool:
    """Whether a name looks like a key of a state dict, not like that of a thing beside it."""
    return not isinstance(key, str) or "." in key or key in ("weight", "bias")


def _text(key: object) -> str:
    if isinstance(key, Global):  # Lightning once named callbacks by their class
        return key.path.rpartition(".")[2]
    return str(key) if isinstance(key, str | int) else "(no text)"


def _join(place: str, key: object) -> str:
    return f"{place}.{_text(key)}" if place else _text(key)


def _scalar(value: object) -> JSON:
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, str):
        return shorten(storable(value), SCALAR_LIMIT)
    if isinstance(value, int) and value.bit_length() > 63:
        return hex(value)
    return value if isinstance(value, int | float) else None
