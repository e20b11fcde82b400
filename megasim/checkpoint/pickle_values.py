"""What a pickle is made of once it is read as data: records of what would have been called."""

from __future__ import annotations

from dataclasses import dataclass, field


class PickleError(ValueError):
    """Not a pickle that can be read as data. The message is one short phrase."""


class PickleCutShort(PickleError):
    """The bytes end before the pickle does."""


class PickleTooLarge(PickleError):
    """More than a limit lets through: a file made to do harm, or an honest giant."""


@dataclass(slots=True, eq=False, repr=False)
class Global:
    """A class or function by its full name; never imported."""

    path: str


@dataclass(slots=True, eq=False, repr=False)
class Made:
    """What a call would have made: the call itself, and what was put into the object since.

    Attributes:
        function: what would have been called, most often a `Global`.
        args: its positional arguments.
        state: what `__setstate__` or `__dict__` would have received, None if nothing.
        entries: the items set on it, as on a dict; None if none were.
        elements: the elements appended to it, as to a list or set; None if none were.
    """

    function: object
    args: tuple[object, ...]
    state: object = None
    entries: dict[object, object] | None = None
    elements: list[object] | None = None

    @property
    def function_path(self) -> str:
        """The full name of what would have been called; "" where it is no plain global."""
        return self.function.path if isinstance(self.function, Global) else ""


@dataclass(slots=True, eq=False, repr=False)
class PersistentId:
    """A reference to something kept outside of the pickle, such as a torch storage."""

    value: object


@dataclass(slots=True, eq=False, repr=False)
class Opaque:
    """A dict key that is no plain value, e.g. a tuple. Equal only to itself."""

    value: object


@dataclass(slots=True)
class Pickle:
    """One pickle: its value, the offset after its last byte, and its persistent ids in order."""

    value: object
    end: int
    persistent_ids: list[PersistentId] = field(repr=False)
