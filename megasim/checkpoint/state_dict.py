"""The tensors of one state dict in a pickle, by key, and what stands there that gives no keys.

Nested dicts join their keys with dots, a list gives the keys "0", "1" …, a pickled `nn.Module`
those of its own state dict.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from megasim.checkpoint.contents import storable
from megasim.checkpoint.limits import DAMAGED, DEFAULT_LIMITS, Limits
from megasim.checkpoint.pickle_values import Made, PersistentId
from megasim.checkpoint.pickled_arrays import PickledArray
from megasim.checkpoint.pickled_storages import BadTensor, OddTensor, bare_storage
from megasim.checkpoint.pickled_tensors import Pickled, is_tensor, parse_tensor, plain_parts
from megasim.errors import CheckpointError, printable


@dataclass
class StateDict:
    """The tensors of one state dict by key, and the tensors within it that have no key.

    `apart` are names within it, and the values that hold tensors in a way that gives no keys:
    within an object, or under a key that is no text.
    """

    tensors: dict[str, Pickled] = field(default_factory=dict)
    apart: dict[str, object] = field(default_factory=dict)


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
    name = value.function_path
    last = value.args[-1] if value.args else None
    if name in ("copy_reg._reconstructor", "copyreg._reconstructor"):
        return last if isinstance(last, dict) else None
    if name in ("collections.OrderedDict", "builtins.dict", "__builtin__.dict"):
        if isinstance(last, list):  # pairs, as Python 2 wrote them
            pairs = (p for p in last if isinstance(p, list | tuple) and len(p) == 2)
            return {p[0]: p[1] for p in pairs if isinstance(p[0], str)}
        return last if isinstance(last, dict) else {}
    return None


class StateDictWalk:
    """All walks over one pickled value, within the limits for a file.

    Its methods raise CheckpointError for a malformed tensor, and for what is beyond a limit, as an
    endless structure is.
    """

    def __init__(self, path: Path, limits: Limits = DEFAULT_LIMITS) -> None:
        self.path = path
        self.limits = limits
        self._spent = dict.fromkeys(("entries", "key_bytes", "steps", "tensors"), 0)
        self._spent |= {"unfolded_bytes": 0, "text_bytes": 0}
        self._counts: dict[int, int] = {}

    def state_dict(self, value: object) -> StateDict:
        """Return the state dict that a value is."""
        found = StateDict()
        self._add_value(found, "", value, 0)
        return found

    def script_parameters(self, root: object, classes: Mapping[str, frozenset[str]]) -> StateDict:
        """Return the parameters and buffers of a TorchScript module; other tensors are `apart`.

        Args:
            root: the value of the archive's data.pkl.
            classes: for each module class by full name, the attributes that are its parameters
                and buffers; the keys are then those of `torch.jit.load(path).state_dict()`. If
                empty, every tensor attribute counts.
        """
        found = StateDict()
        self._add_script(found, "", root, classes, 0)
        return found

    def spend(self, count: int, what: str = "steps", key: str = "") -> None:
        """Take from a limit of the file."""
        self._spent[what] += count
        if self._spent[what] > getattr(self.limits, what):
            # how much more there is, nobody knows
            self.limits.check(what, getattr(self.limits, what) + 1, self.path, key)

    def key(self, name: str) -> str:
        """Return a key as it can be stored, and take it from the limits."""
        self.spend(1, "entries")
        self.limits.check("name_bytes", len(name), self.path, name[:80])
        self.spend(len(name), "key_bytes")
        return storable(name)

    def reach(self, value: object) -> Iterator[object]:
        """Yield everything that `value` is made of, once each however often it is shared."""
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
            new = [p for p in inner if isinstance(p, dict | list | tuple | Made)]
            for part in reversed(new):
                if id(part) not in seen:
                    seen.add(id(part))
                    waiting.append(part)

    def count(self, value: object) -> int:
        """Return how many tensors can be reached from `value`, each counted once."""
        if id(value) not in self._counts:
            found = sum(1 for item in self.reach(value) if is_tensor(item))
            self._counts[id(value)] = found
        return self._counts[id(value)]

    def parse(self, name: str, value: object) -> Pickled:
        """Return the tensor that a value stands for."""
        self.spend(1, "tensors")
        try:
            found = bare_storage(value) if isinstance(value, PersistentId) else parse_tensor(value)
        except BadTensor as e:
            raise CheckpointError(self.path, str(e), DAMAGED, name) from None
        if isinstance(found, OddTensor):
            self.spend(found.looked, key=name)
            self.spend(len(found.said), "text_bytes", name)
        for part in plain_parts(found):
            if isinstance(part, PickledArray):
                self.spend(len(part.data), "unfolded_bytes", name)
        return found

    def module_entries(self, value: object) -> dict[object, object] | None:
        """Return the parameters, buffers and modules of a pickled nn.Module; None if it is none."""
        state = value.state if isinstance(value, Made) else None
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

    def _add(self, found: StateDict, name: str, value: object, depth: int) -> None:
        """Add one entry of a state dict, whatever it is."""
        name = self.key(name)
        self.limits.check("depth", depth, self.path, name)
        if is_tensor(value):
            self._add_tensor(found, name, value)
        elif isinstance(value, PersistentId):
            if isinstance(value.value, tuple) and value.value[:1] == ("storage",):
                self._add_tensor(found, name, value)
        else:
            self._add_value(found, name, value, depth)

    def _add_tensor(self, found: StateDict, name: str, value: object) -> None:
        if name in found.tensors:
            raise CheckpointError(self.path, "two tensors of one key", DAMAGED, name)
        found.tensors[name] = self.parse(name, value)

    def _add_value(self, found: StateDict, name: str, value: object, depth: int) -> None:
        """Add what a container holds; note what holds tensors in a way that gives no keys."""
        self.spend(_cost(value))
        prefix = f"{name}." if name else ""
        entries = entries_of(value)
        if entries is not None:
            self._add_entries(found, prefix, entries, depth + 1)
        elif isinstance(value, list | tuple):
            for i, item in enumerate(value):
                if isinstance(item, Made | dict | list | tuple | PersistentId):
                    self._add(found, f"{prefix}{i}", item, depth + 1)
        elif isinstance(value, Made):
            module = self.module_entries(value)
            if module is not None:
                self._add_entries(found, prefix, module, depth + 1)
            elif self.count(value):
                found.apart[name or f"({kind_of(value)})"] = value

    def _add_entries(
        self, found: StateDict, prefix: str, entries: dict[object, object], depth: int
    ) -> None:
        for key, value in entries.items():
            if isinstance(key, str) or type(key) is int:
                self._add(found, f"{prefix}{key}", value, depth)
            elif self.count(value):
                found.apart[self.key(f"{prefix}({len(found.apart)})")] = value

    def _add_script(
        self,
        found: StateDict,
        prefix: str,
        value: object,
        classes: Mapping[str, frozenset[str]],
        depth: int,
    ) -> None:
        """Add the parameters and buffers of a TorchScript module and of those inside of it."""
        if not isinstance(value, Made) or not isinstance(value.state, dict):
            return
        self.limits.check("depth", depth, self.path, prefix)
        own = classes.get(value.function_path)
        if classes and own is None:
            return  # an object that is no module: its tensors are in no state dict
        for attribute, item in value.state.items():
            name = self.key(f"{prefix}{attribute}")
            if not is_tensor(item):
                self._add_script(found, f"{name}.", item, classes, depth + 1)
            elif own is None or attribute in own:
                self._add_tensor(found, name, item)
            else:
                found.apart[name] = item


def kind_of(value: object) -> str:
    """Return the name of the class of a pickled object, to print."""
    return printable((value.function_path if isinstance(value, Made) else "") or "?", 80)


def _cost(value: object) -> int:
    """Steps to look once at `value`: its elements, or the pairs of an OrderedDict of Python 2."""
    if isinstance(value, Made) and value.args:
        value = value.args[-1]
    return 1 + (len(value) if isinstance(value, list | tuple) else 0)
