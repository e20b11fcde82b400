"""Fingerprints of components, and the names that the user gave to some of them.

A fingerprint stands for what a component holds where its family uses it, once rounded to float16:
the same for a cast, for another file format and without keys that are never used. Components of
equal fingerprints are the same in that sense; others may still be so under other keys.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from hashlib import blake2b

from megasim.anatomy.classification import component_members, component_title
from megasim.errors import NoAnswerError, UsageError, printable
from megasim.findings.component_facts import ComponentFacts, load_component_facts
from megasim.findings.unread_keys import UnreadKeys
from megasim.fingerprint.tensor import FINGERPRINT_VERSION
from megasim.store.matrices import member_names
from megasim.store.rows import Store

_LENGTH = 12  # hexadecimal digits that people are shown
_LONGEST_NAME = 200
_VAE = component_members("vae")


@dataclass(frozen=True, slots=True)
class KnownComponent:
    """A component that has a name of its own.

    Attributes:
        name: e.g. "kl-f8-anime2".
        component: "vae" for a VAE as a whole.
        fingerprint: of what it holds.
    """

    name: str
    component: str
    fingerprint: str

    @property
    def title(self) -> str:
        """What people call the component."""
        return component_title(self.component)

    def to_json(self) -> dict[str, str]:
        """Return plain strings."""
        return asdict(self)


class Fingerprints:
    """The fingerprints of the components of a store."""

    def __init__(self, facts: Mapping[tuple[int, str], ComponentFacts], unread: UnreadKeys) -> None:
        self._facts = facts
        self._unread = unread

    def of(self, parts: Iterable[tuple[int, str]]) -> str | None:
        """Return the fingerprint of some parts of one model; None where not all of it is known.

        None also for what is no evidence: constant or tiny tensors alone, and published models.

        Args:
            parts: the id of the model and a component, for each.
        """
        lines = []
        telling = 0
        for model_id, component in sorted(parts):
            fact = self._facts.get((model_id, component))
            unread = self._unread.signature(model_id, component)
            if fact is None or unread is None:
                return None
            telling += fact.telling
            lines.append(f"{component}\t{fact.used_at_fp16 or fact.same_at_fp16}\t{unread}")
        if not telling:
            return None
        return blake2b("\n".join(lines).encode(), digest_size=16).hexdigest()

    def parts(self, model_id: int, component: str) -> list[str]:
        """Return the components of a model that a name stands for: "vae" for all parts of it."""
        return [c for c in component_members(component) if (model_id, c) in self._facts]


def short(fingerprint: str) -> str:
    """Return as much of a fingerprint as people are shown."""
    return fingerprint[:_LENGTH]


def load_known(store: Store) -> list[KnownComponent]:
    """Return the named components, by name and component."""
    rows = store.rows("known_components")
    return [KnownComponent(*row) for row in rows]


def names_of(
    known: Sequence[KnownComponent], component: str, fingerprints: Iterable[str]
) -> tuple[str, ...]:
    """Return the names of a component with one of these fingerprints."""
    wanted = set(fingerprints)
    return tuple(k.name for k in known if k.component == component and k.fingerprint in wanted)


def add_known(store: Store, name: str, model: str, component: str) -> list[KnownComponent]:
    """Give the component of a model a name, by which it is known wherever it turns up.

    Args:
        component: "vae" for a VAE as a whole; "all" for every component that the model holds.

    Raises:
        UsageError: an unknown model, no name, or one that another component of the kind has.
        NoAnswerError: the model does not hold the component, or not all of it could be read.
    """
    if not name.strip() or len(name) > _LONGEST_NAME:
        raise UsageError("a name has 1 to 200 characters", "choose another")
    model_id = store.require_model(model)
    fingerprints = Fingerprints(load_component_facts(store), UnreadKeys(store))
    wanted = _wholes(store, model_id) if component == "all" else [component]
    added = []
    for whole in wanted:
        parts = fingerprints.parts(model_id, whole)
        if len(parts) > 1 and set(parts) - set(_VAE):
            raise UsageError(
                f"{printable(model)} has more than one {component_title(whole)}",
                f"name one of {', '.join(parts)} with -c",
            )
        fingerprint = fingerprints.of((model_id, part) for part in parts) if parts else None
        if fingerprint is not None:
            component_of = parts[0] if len(parts) == 1 else "vae"
            added.append(KnownComponent(name, component_of, fingerprint))
    if not added:
        raise NoAnswerError(
            f"{printable(model)} has no {printable(component)} to go by: nothing that was wholly "
            "read and is more than constants",
            "name another model, or another component with -c",
        )
    known = load_known(store)
    places = {(old.name, old.component): old for old in known}
    fresh = [new for new in added if new not in known]
    for new in fresh:
        if (new.name, new.component) in places:
            raise UsageError(
                f"{printable(name)!r} is the name of another {new.title}",
                "choose another name, or `megasim known remove` that one first",
            )
    with store.transaction():
        for new in fresh:
            store.write("add_known_component", version=FINGERPRINT_VERSION, **asdict(new))
    return added


def remove_known(store: Store, name: str) -> int:
    """Forget a name, and return of how many components it was.

    Raises:
        UsageError: there is no such name.
    """
    count = sum(known.name == name for known in load_known(store))
    if not count:
        raise UsageError(
            f"no component is known as {printable(name)!r}", "`megasim known list` lists the names"
        )
    store.write("remove_known_component", name=name)
    return count


def _wholes(store: Store, model_id: int) -> list[str]:
    """Return the components of a model that are used, the parts of a VAE as one."""
    used = set(member_names(store, "all"))
    held = [name for (name,) in store.rows("components_of", id=model_id) if name in used]
    return list(dict.fromkeys("vae" if name in _VAE else name for name in held))
