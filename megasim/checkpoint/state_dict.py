"""Which of the things in a pickle are the model's tensors, and under which keys.

The rule. The state dict is what stands at `state_dict`. If there is no such entry, and the top
holds no tensor itself, and one entry alone holds tensors (the training state aside), and it has
a name that wrappers go by (`model`, `params_ema` …), it is that entry. Otherwise it is the top,
and nested dicts join their keys with dots. What is left out is counted in `skipped`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from megasim.checkpoint.contents import SCALAR_LIMIT, shorten, storable
from megasim.checkpoint.pickle_reader import MAX_OPCODES
from megasim.checkpoint.pickle_values import Global, Made, PersistentId
from megasim.checkpoint.pickled_arrays import parse_scalar
from megasim.checkpoint.pickled_storages import BadTensor, bare_storage
from megasim.checkpoint.pickled_tensors import Pickled, is_tensor, parse_tensor
from megasim.checkpoint.strict_json import JSON
from megasim.errors import CheckpointError, printable

_WRAPPERS: Final = frozenset(
    {"state_dict", "model_state_dict", "model_state", "model", "module", "net", "network"}
    | {"weights", "params", "params_ema", "ema", "ema_state_dict", "model_ema"}
)
_TRAINING_STATE: Final = re.compile(r"optim|sched|scaler|rng|callbacks|loops|hyper_?param", re.I)
_MAX_ENTRIES = 1_000_000
_MAX_STEPS = 4 * MAX_OPCODES  # shared parts may be met often, but not without end
_MAX_DEPTH = 64
_MAX_KEY = 4096
_DAMAGED = "the file is damaged, or made to do harm: get it from elsewhere"


@dataclass
class StateDict:
    """The tensors of a pickle by key, its scalars, and what was left out and why."""

    tensors: dict[str, Pickled] = field(default_factory=dict)
    metadata: dict[str, JSON] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)


def find_state_dict(path: Path, root: object) -> StateDict:
    """Return the model's tensors in the value of a pickle, by the rule of this module.

    A list gives the keys "0", "1" …; a tensor alone gives "tensor"; a pickled `nn.Module` gives
    the keys of its own state dict. Scalars beside the tensors become metadata.

    Raises CheckpointError for a malformed tensor, an endless structure, or more than a million
    entries.
    """
    walk = _Walk(path)
    if is_tensor(root):
        walk.add("tensor", root, 0)
        return walk.found
    prefix = ""
    for _ in range(4):  # {"model": {"state_dict": …}}
        entries = entries_of(root)
        if entries is None:
            break
        chosen = walk.choose(entries)
        walk.note_rest(prefix, entries, chosen)
        if chosen is None:
            break
        root = entries[chosen]
        prefix = f"{prefix}{chosen}."
    entries = entries_of(root)
    if entries is not None and not prefix:
        root = {key: value for key, value in entries.items() if not _is_training(key, value)}
    walk.add_value("", root, 0)
    return walk.found


def find_script_parameters(
    path: Path, root: object, classes: Mapping[str, frozenset[str]]
) -> StateDict:
    """Return the parameters and buffers of a TorchScript module.

    Args:
        path: for error messages.
        root: the value of the archive's data.pkl.
        classes: for each module class by full name, the attributes that are its parameters and
            buffers; the keys are then those of `torch.jit.load(path).state_dict()`. If empty,
            every tensor attribute counts.

    Raises CheckpointError as `find_state_dict` does.
    """
    walk = _Walk(path)
    walk.add_script("", root, classes, 0)
    return walk.found


def entries_of(value: object) -> dict[object, object] | None:
    """Return the items of whatever would have been a mapping, or None if it is none.

    Subclasses of dict pass (`OrderedDict`, Lightning's `AttributeDict`): items were set on them.
    """
    if isinstance(value, dict):
        return value
    if not isinstance(value, Made) or is_tensor(value):
        return None
    if value.entries is not None:
        return value.entries
    name = value.function.path if isinstance(value.function, Global) else ""
    last = value.args[-1] if value.args else None
    if name in ("copy_reg._reconstructor", "copyreg._reconstructor"):
        return last if isinstance(last, dict) else None
    if name in ("collections.OrderedDict", "builtins.dict", "__builtin__.dict"):
        if isinstance(last, list):  # pairs, as Python 2 wrote them
            pairs = (p for p in last if isinstance(p, list | tuple) and len(p) == 2)
            return {p[0]: p[1] for p in pairs if isinstance(p[0], str)}
        return last if isinstance(last, dict) else {}
    return None


def _is_training(key: object, value: object) -> bool:
    return isinstance(key, str) and bool(_TRAINING_STATE.search(key)) and not is_tensor(value)


class _Walk:
    """One walk over a pickled value, within a budget of entries and of steps."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.found = StateDict()
        self.entries = 0
        self.steps = 0

    def spend(self, steps: int) -> None:
        self.steps += steps
        if self.steps > _MAX_STEPS:
            raise CheckpointError(self.path, "its parts hold each other without end", _DAMAGED)

    def key(self, name: str) -> str:
        self.entries += 1
        if self.entries > _MAX_ENTRIES:
            raise CheckpointError(self.path, "more than a million entries", _DAMAGED)
        if len(name) > _MAX_KEY:
            raise CheckpointError(self.path, "a key of absurd length", _DAMAGED, name[:80])
        return storable(name)

    def reach(self, value: object) -> Iterator[object]:
        """Everything that `value` is made of, once each however often it is shared."""
        seen = {id(value)}
        waiting = [value]
        while waiting:
            item = waiting.pop()
            yield item
            inner: Collection[object] = ()
            if isinstance(item, dict):
                inner = item.values()
            elif isinstance(item, list | tuple):
                inner = item
            elif isinstance(item, Made) and not is_tensor(item):
                inner = (item.args, item.state, item.entries, item.elements)
            self.spend(1 + len(inner))
            for part in inner:
                if isinstance(part, dict | list | tuple | Made) and id(part) not in seen:
                    seen.add(id(part))
                    waiting.append(part)

    def count(self, value: object) -> int:
        """How many tensors can be reached from `value`, each counted once."""
        return sum(1 for item in self.reach(value) if is_tensor(item))

    def choose(self, entries: dict[object, object]) -> str | None:
        """The entry that is the state dict, None if it is the whole."""
        if "state_dict" in entries and self.count(entries["state_dict"]):
            return "state_dict"
        if any(is_tensor(value) for value in entries.values()):
            return None
        holders = [k for k, v in entries.items() if not _is_training(k, v) and self.count(v)]
        only = holders[0] if len(holders) == 1 else None
        return only if isinstance(only, str) and only in _WRAPPERS else None

    def note_rest(self, prefix: str, entries: dict[object, object], chosen: str | None) -> None:
        """Keep the scalars beside the state dict, and say which tensors are left out."""
        for key, value in entries.items():
            if key == chosen or not isinstance(key, str | int):
                continue
            name = self.key(f"{prefix}{key}")
            number = parse_scalar(value)
            if number is not None:
                self.found.metadata.setdefault(name.removeprefix(prefix), _scalar(number))
            elif isinstance(value, str | int | float | None):
                self.found.metadata.setdefault(name.removeprefix(prefix), _scalar(value))
            elif (chosen or (not prefix and _is_training(key, value))) and self.count(value):
                self.found.skipped[name] = f"{self.count(value)} tensors beside the state dict"

    def add(self, name: str, value: object, depth: int) -> None:
        """Add one entry of a state dict, whatever it is."""
        name = self.key(name)
        if depth > _MAX_DEPTH:
            raise CheckpointError(self.path, "nested too deep", _DAMAGED, name)
        if is_tensor(value):
            self.add_tensor(name, value)
        elif isinstance(value, PersistentId):
            with suppress(BadTensor):  # the class of a module, say
                self.found.tensors[name] = bare_storage(value)
        else:
            self.add_value(name, value, depth)

    def add_tensor(self, name: str, value: object) -> None:
        try:
            tensor = parse_tensor(value)
        except BadTensor as e:
            raise CheckpointError(self.path, str(e), _DAMAGED, name) from None
        if name in self.found.tensors or name in self.found.skipped:
            raise CheckpointError(self.path, "two tensors of one key", _DAMAGED, name)
        self.found.tensors[name] = tensor

    def add_value(self, name: str, value: object, depth: int) -> None:
        """Add what a container holds; note what holds tensors in a way that gives no keys."""
        self.spend(_cost(value))
        prefix = f"{name}." if name else ""
        entries = entries_of(value)
        if entries is not None:
            self.add_entries(prefix, entries, depth + 1)
        elif isinstance(value, list | tuple):
            for i, item in enumerate(value):
                if isinstance(item, Made | dict | list | tuple | PersistentId):
                    self.add(f"{prefix}{i}", item, depth + 1)
        elif isinstance(value, Made):
            module = self.module_parts(value)
            if module is not None:
                self.add_entries(prefix, module, depth + 1)
            elif count := self.count(value):
                self.found.skipped[name] = f"{count} tensors inside of an object, {_kind(value)}"

    def add_entries(self, prefix: str, entries: dict[object, object], depth: int) -> None:
        for key, value in entries.items():
            if isinstance(key, str) or type(key) is int:
                self.add(f"{prefix}{key}", value, depth)
            elif count := self.count(value):
                note = self.key(f"{prefix}({len(self.found.skipped)})")
                self.found.skipped[note] = f"{count} tensors under a key that is no text"

    def module_parts(self, value: Made) -> dict[object, object] | None:
        """The parameters, buffers and modules of a pickled nn.Module."""
        state = value.state
        if not isinstance(state, dict) or "_modules" not in state or "_parameters" not in state:
            return None
        passing = {
            name
            for item in self.reach(state.get("_non_persistent_buffers_set"))
            if isinstance(item, list)
            for name in item
            if isinstance(name, str)
        }
        parts: dict[object, object] = {}
        for group in ("_parameters", "_buffers", "_modules"):
            entries = entries_of(state.get(group)) or {}
            self.spend(len(entries))
            passed = passing if group == "_buffers" else set()
            parts.update({k: v for k, v in entries.items() if k not in passed})
        return parts

    def add_script(
        self, prefix: str, value: object, classes: Mapping[str, frozenset[str]], depth: int
    ) -> None:
        """Add the parameters and buffers of a TorchScript module and of those inside of it."""
        if not isinstance(value, Made) or not isinstance(value.state, dict):
            return
        if depth > _MAX_DEPTH:
            raise CheckpointError(self.path, "nested too deep", _DAMAGED, prefix)
        own = classes.get(value.function.path if isinstance(value.function, Global) else "")
        if classes and own is None:
            return  # an object that is no module: its tensors are in no state dict
        for attribute, item in value.state.items():
            name = self.key(f"{prefix}{attribute}")
            if not is_tensor(item):
                self.add_script(f"{name}.", item, classes, depth + 1)
            elif own is None or attribute in own:
                self.add_tensor(name, item)
            else:
                self.found.skipped[name] = "an attribute, neither parameter nor buffer"


def _cost(value: object) -> int:
    """Steps to look once at `value`: its elements, or the pairs of an OrderedDict of Python 2."""
    if isinstance(value, Made) and value.args:
        value = value.args[-1]
    return 1 + (len(value) if isinstance(value, list | tuple) else 0)


def _scalar(value: str | int | float | None) -> JSON:
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, str):
        return shorten(storable(value), SCALAR_LIMIT)
    if isinstance(value, int) and value.bit_length() > 63:
        return hex(value)
    return value


def _kind(value: Made) -> str:
    return printable(value.function.path if isinstance(value.function, Global) else "?", 80)
