"""Pickles read as data: nothing is imported, called, or trusted for a size.

Python's own unpickler is a program that the file writes. This one keeps its stack machine and
drops its powers: a global becomes its name, a call becomes a record of what would have been
called, and that is all the machine can make. It is safe because there is no way in it from a
byte of the file to an import, a call or an attribute. Its memory is bounded by `Limits`: each
opcode makes at most one object, whose size is that of what it takes off the stack or out of the
file; text may grow as it is decoded, and counts as what it takes then.

The result may be cyclic, deeply nested, or share parts so often that walking it as a tree would
never end. Walk it with a budget, and never print, hash or compare it as a whole.
"""

from __future__ import annotations

import codecs
import struct
import sys
from collections.abc import Callable
from itertools import repeat

from megasim.checkpoint.limits import DEFAULT_LIMITS, Limits, too_many
from megasim.checkpoint.pickle_values import (
    Global,
    Made,
    Opaque,
    PersistentId,
    Pickle,
    PickleCutShort,
    PickleError,
    PickleTooLarge,
)

_MAX_INTEGER_BYTES = 1024
_WORD = struct.Struct("<I").unpack_from
_MARKS_A_LEVEL = 64  # of nesting: a container has one open while it is written, a call some more
_MAX_PLAIN_INT = 1 << 60  # smaller ints hash to themselves, so they cannot be made to collide


def read_pickle(data: bytes, start: int = 0, limits: Limits = DEFAULT_LIMITS) -> Pickle:
    """Return the pickle that begins at byte `start`, read as data.

    Its value is made of None, bool, int, float, str, bytes, list, tuple, dict, `Global`, `Made`
    and `PersistentId`; a set is a list, a frozenset a tuple, in the order of the file. Keys of
    a dict are plain values, the record types above, or `Opaque`.

    Raises:
        PickleCutShort: the bytes end too early.
        PickleTooLarge: beyond a limit.
        PickleError: malformed, or of an unknown protocol.

    >>> import os, pickle
    >>> made = read_pickle(pickle.dumps([1, os.getcwd])).value
    >>> made[0], made[1].path
    (1, 'posix.getcwd')
    """
    machine = _Machine(data, start, limits)
    try:
        value = machine.run()
    except (IndexError, KeyError):
        if machine.position >= len(data):
            raise PickleCutShort("the pickle is cut short") from None
        raise PickleError("the pickle is malformed") from None
    except PickleError:
        raise
    except struct.error:  # pieces taken are of the right size, so it was at the very end
        raise PickleCutShort("the pickle is cut short") from None
    except (ValueError, OverflowError):
        raise PickleError("the pickle is malformed") from None
    return Pickle(value, machine.position, machine.persistent_ids)


class _Machine:
    """The stack machine. The stack in use is `stack`; those below a MARK wait in `marks`."""

    def __init__(self, data: bytes, start: int, limits: Limits) -> None:
        self.data = data
        self.position = start
        self.stack: list[object] = []
        self.marks: list[list[object]] = []
        self.memo: dict[int, object] = {}
        self.persistent_ids: list[PersistentId] = []
        self.limits = limits
        self.text_room = limits.text_bytes
        self.marks_room = limits.depth * _MARKS_A_LEVEL

    def run(self) -> object:
        data, operations, memo, memo_limit = self.data, _OPERATIONS, self.memo, self.limits.memo
        left = self.limits.opcodes
        while left > 0:
            for _ in repeat(None, min(left, _ROUND)):
                opcode = data[self.position]
                self.position += 1
                if opcode == _STOP:
                    if len(memo) > memo_limit:
                        raise self.too_large("memo")
                    return self.stack.pop()
                operations[opcode](self)
            left -= _ROUND
            if len(memo) > memo_limit:
                raise self.too_large("memo")
        raise self.too_large("opcodes")

    def too_large(self, name: str) -> PickleTooLarge:
        return PickleTooLarge(too_many(name, getattr(self.limits, name)))

    # What the operations are made of

    def take(self, size: int) -> bytes:
        end = self.position + size
        if end > len(self.data):
            self.position = len(self.data)
            raise PickleCutShort("the pickle is cut short")
        piece = self.data[self.position : end]
        self.position = end
        return piece

    def byte(self) -> int:
        value = self.data[self.position]
        self.position += 1
        return value

    def number(self, size: int) -> int:
        return int.from_bytes(self.take(size), "little")

    def raw_line(self) -> bytes:
        end = self.data.find(b"\n", self.position)
        if end < 0:
            self.position = len(self.data)
            raise PickleCutShort("the pickle is cut short")
        text = self.data[self.position : end]
        self.position = end + 1
        return text

    def line(self) -> str:
        return self.raw_line().decode("utf-8")

    def push(self, value: object) -> None:
        self.stack.append(value)

    def push_text(self, text: str) -> None:
        self.text_room -= sys.getsizeof(text)
        if self.text_room < 0:
            raise self.too_large("text_bytes")
        self.stack.append(text)

    def pop_mark(self) -> list[object]:
        items = self.stack
        self.stack = self.marks.pop()
        return items

    # One method for each group of opcodes

    def refuse(self) -> None:
        raise PickleError("the pickle is malformed: an unknown opcode")

    def protocol(self) -> None:
        if self.byte() > 5:
            raise PickleError("the pickle uses a newer protocol than 5")

    def mark(self) -> None:
        if len(self.marks) > self.marks_room:
            raise self.too_large("depth")
        self.marks.append(self.stack)
        self.stack = []

    def pop(self) -> None:
        if self.stack:
            self.stack.pop()
        else:
            self.pop_mark()

    def global_name(self) -> None:
        module = self.line()
        self.push(Global(f"{module}.{self.line()}"))

    def stack_global(self) -> None:
        name, module = self.stack.pop(), self.stack.pop()
        if type(name) is not str or type(module) is not str:
            raise PickleError("the pickle is malformed: a global without a name")
        self.text_room -= len(module) + len(name)
        if self.text_room < 0:
            raise self.too_large("text_bytes")
        self.push(Global(f"{module}.{name}"))

    def make(self) -> None:
        args = _as_tuple(self.stack.pop())
        self.push(Made(self.stack.pop(), args))

    def make_with_keywords(self) -> None:
        self.stack.pop()  # keyword arguments of __new__: nothing here has a use for them
        self.make()

    def instance(self) -> None:
        self.global_name()
        function = self.stack.pop()
        args = tuple(self.pop_mark())
        self.push(Made(function, args))

    def instance_from_stack(self) -> None:
        function, *args = self.pop_mark()
        self.push(Made(function, tuple(args)))

    def build(self) -> None:
        state = self.stack.pop()
        target = self.stack[-1]
        if not isinstance(target, Made):
            raise PickleError("the pickle is malformed: a state for a plain value")
        target.state = state

    def persistent(self, value: object) -> None:
        reference = PersistentId(value)
        self.persistent_ids.append(reference)
        self.push(reference)

    def set_item(self) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        _entries(self.stack[-1])[_plain_key(key)] = value

    def set_items(self) -> None:
        items = self.pop_mark()
        _put_pairs(_entries(self.stack[-1]), items)

    def append(self) -> None:
        value = self.stack.pop()
        _elements(self.stack[-1]).append(value)

    def append_all(self) -> None:
        items = self.pop_mark()
        _elements(self.stack[-1]).extend(items)

    def make_dict(self) -> None:
        entries: dict[object, object] = {}
        _put_pairs(entries, self.pop_mark())
        self.push(entries)

    def make_tuple(self, size: int) -> None:
        if len(self.stack) < size:
            raise PickleError("the pickle is malformed: an empty stack")
        items = tuple(self.stack[-size:])
        self.stack[-size:] = [items]

    def memoize(self) -> None:
        self.memo[len(self.memo)] = self.stack[-1]

    # The next four are most of any checkpoint, so they are written out for speed.

    def put_byte(self) -> None:
        self.memo[self.data[self.position]] = self.stack[-1]
        self.position += 1

    def put_word(self) -> None:
        self.memo[_WORD(self.data, self.position)[0]] = self.stack[-1]
        self.position += 4

    def get_byte(self) -> None:
        self.stack.append(self.memo[self.data[self.position]])
        self.position += 1

    def get_word(self) -> None:
        self.stack.append(self.memo[_WORD(self.data, self.position)[0]])
        self.position += 4

    def long(self, size: int) -> None:
        if size > _MAX_INTEGER_BYTES:
            raise PickleError("the pickle holds an implausibly large integer")
        self.push(int.from_bytes(self.take(size), "little", signed=True))

    def decimal(self) -> None:
        text = self.line()
        self.push({"00": False, "01": True}.get(text) if text in ("00", "01") else _integer(text))

    def text(self, size: int) -> None:
        self.push_text(self.take(size).decode("utf-8", "surrogatepass"))

    def old_text(self, piece: bytes) -> None:
        """A str of Python 2: text in real checkpoints, though it may be any bytes."""
        try:
            text = piece.decode("utf-8")
        except UnicodeDecodeError:
            text = piece.decode("latin-1")
        self.push_text(text)

    def quoted_text(self) -> None:
        line = self.raw_line()
        if len(line) < 2 or line[:1] not in (b"'", b'"') or line[:1] != line[-1:]:
            raise PickleError("the pickle is malformed: a text without quotes")
        self.old_text(codecs.escape_decode(line[1:-1])[0])

    def extension(self, size: int) -> None:
        self.push(Global(f"copyreg.extension_{self.number(size)}"))


def _as_tuple(value: object) -> tuple[object, ...]:
    if not isinstance(value, tuple):
        raise PickleError("the pickle is malformed: arguments that are not a tuple")
    return value


def _integer(text: str) -> int:
    if len(text) > _MAX_INTEGER_BYTES:
        raise PickleError("the pickle holds an implausibly large integer")
    return int(text.removesuffix("L"))


def _place(text: str) -> int:
    """A place in the memo, small enough to be its own hash."""
    number = _integer(text)
    if not 0 <= number < _MAX_PLAIN_INT:
        raise PickleError("the pickle is malformed: an implausibly large memo")
    return number


def _entries(target: object) -> dict[object, object]:
    if isinstance(target, dict):
        return target
    if isinstance(target, Made):
        if target.entries is None:
            target.entries = {}
        return target.entries
    raise PickleError("the pickle is malformed: an item set on a plain value")


def _elements(target: object) -> list[object]:
    if isinstance(target, list):
        return target
    if isinstance(target, Made):
        if target.elements is None:
            target.elements = []
        return target.elements
    raise PickleError("the pickle is malformed: an element appended to a plain value")


def _put_pairs(entries: dict[object, object], items: list[object]) -> None:
    for key, value in zip(items[::2], items[1::2], strict=True):
        entries[_plain_key(key)] = value


def _plain_key(key: object) -> object:
    """`key` if hashing it is cheap and cannot be made to collide, else `key` wrapped.

    The hash of a nested tuple may take for ever, or overflow the C stack.
    """
    if isinstance(key, int):
        return key if abs(key) < _MAX_PLAIN_INT else Opaque(key)
    plain = isinstance(key, str | bytes | float | Global | Made | PersistentId) or key is None
    return key if plain else Opaque(key)


_ROUND = 100_000  # opcodes between two looks at the memo
_Operation = Callable[[_Machine], object]
_STOP = ord(".")


def _operations() -> list[_Operation]:
    """The operation of each opcode by its number; the names are those of `pickletools`."""
    table: dict[str, _Operation] = {
        "\x80": _Machine.protocol,
        "\x95": lambda m: m.take(8),  # FRAME: its length is of no use here
        # values
        "N": lambda m: m.push(None),
        "\x88": lambda m: m.push(True),
        "\x89": lambda m: m.push(False),
        "I": _Machine.decimal,
        "L": _Machine.decimal,
        "J": lambda m: m.push(struct.unpack("<i", m.take(4))[0]),
        "K": lambda m: m.push(m.byte()),
        "M": lambda m: m.push(m.number(2)),
        "\x8a": lambda m: m.long(m.byte()),
        "\x8b": lambda m: m.long(m.number(4)),
        "F": lambda m: m.push(float(m.line())),
        "G": lambda m: m.push(struct.unpack(">d", m.take(8))[0]),
        # text and bytes
        "S": _Machine.quoted_text,
        "T": lambda m: m.old_text(m.take(m.number(4))),
        "U": lambda m: m.old_text(m.take(m.byte())),
        "V": lambda m: m.push_text(m.raw_line().decode("raw-unicode-escape")),
        "X": lambda m: m.text(m.number(4)),
        "\x8c": lambda m: m.text(m.byte()),
        "\x8d": lambda m: m.text(m.number(8)),
        "B": lambda m: m.push(m.take(m.number(4))),
        "C": lambda m: m.push(m.take(m.byte())),
        "\x8e": lambda m: m.push(m.take(m.number(8))),
        "\x96": lambda m: m.push(m.take(m.number(8))),  # a bytearray, as bytes
        # containers
        "(": _Machine.mark,
        ")": lambda m: m.push(()),
        "\x85": lambda m: m.make_tuple(1),
        "\x86": lambda m: m.make_tuple(2),
        "\x87": lambda m: m.make_tuple(3),
        "t": lambda m: m.push(tuple(m.pop_mark())),
        "\x91": lambda m: m.push(tuple(m.pop_mark())),  # a frozenset
        "]": lambda m: m.push([]),
        "\x8f": lambda m: m.push([]),  # a set
        "l": lambda m: m.push(m.pop_mark()),
        "a": _Machine.append,
        "e": _Machine.append_all,
        "\x90": _Machine.append_all,  # to a set
        "}": lambda m: m.push({}),
        "d": _Machine.make_dict,
        "s": _Machine.set_item,
        "u": _Machine.set_items,
        # stack and memo
        "0": _Machine.pop,
        "1": lambda m: m.pop_mark(),
        "2": lambda m: m.push(m.stack[-1]),
        "g": lambda m: m.push(m.memo[_place(m.line())]),
        "h": _Machine.get_byte,
        "j": _Machine.get_word,
        "p": lambda m: m.memo.__setitem__(_place(m.line()), m.stack[-1]),
        "q": _Machine.put_byte,
        "r": _Machine.put_word,
        "\x94": _Machine.memoize,
        # what would be imported and called elsewhere
        "c": _Machine.global_name,
        "\x93": _Machine.stack_global,
        "R": _Machine.make,
        "\x81": _Machine.make,
        "\x92": _Machine.make_with_keywords,
        "i": _Machine.instance,
        "o": _Machine.instance_from_stack,
        "b": _Machine.build,
        "P": lambda m: m.persistent(m.line()),
        "Q": lambda m: m.persistent(m.stack.pop()),
        "\x82": lambda m: m.extension(1),
        "\x83": lambda m: m.extension(2),
        "\x84": lambda m: m.extension(4),
    }
    return [table.get(chr(code), _Machine.refuse) for code in range(256)]


_OPERATIONS = _operations()
