"""What the models of files, and of the parts of a file, are called."""

from __future__ import annotations

import os
import shlex
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from megasim.checkpoint.locations import RemotePath, located
from megasim.checkpoint.opening import StateDictContents
from megasim.errors import CheckpointError, printable
from megasim.ingest.known_models import KnownModels
from megasim.store.rows import HeldModel, Model
from megasim.words import PartRole


def part_names(name: str, parts: Sequence[StateDictContents]) -> list[str]:
    """Return names for the further parts of a file, called after it and what they are.

    Where what it is does not tell a part, its name in the file does; and a number, where that is
    taken as well.

    >>> part_names("train", [StateDictContents({}, name="model_ema", role=PartRole.EMA)])
    ['train#ema']
    """
    telling = (PartRole.EMA, PartRole.TEACHER, PartRole.DISCRIMINATOR, PartRole.ADAPTER)
    found: list[str] = []
    for part in parts:
        last = part.name.rpartition(".")[2]
        choices = [part.role.value] if part.role in telling else []
        choices += [last, part.name]
        free = next((c for c in choices if f"{name}#{c}" not in found), None)
        number = 2
        while free is None or f"{name}#{free}" in found:
            free = f"{choices[0]}#{number}"
            number += 1
        found.append(f"{name}#{free}")
    return found


def renamed(held: HeldModel, old: str, new: str) -> HeldModel:
    """Return a part of a file under the new name of its file."""
    return replace(held, model=replace(held.model, name=new + held.model.name.removeprefix(old)))


def free_name(name: str, path: Path, known: KnownModels) -> str:
    """Return the name of a new model, or where that is taken, one with a piece of its path.

    The piece is the first in which its path differs from that of the model that has the name; then
    all of them; then with the ending of the file.
    """
    holder = known.named(name)
    if holder is None:
        return name
    pieces = _pieces_apart(path, holder)
    choices = ["-".join(pieces)]
    if len(pieces) > 1:
        choices = [f"{pieces[0]}-{name}", "-".join([*pieces[:-1], name]), *choices]
    return next((choice for choice in choices if known.named(choice) is None), name)


def _pieces_apart(path: Path, holder: Model) -> tuple[str, ...]:
    """The pieces of a path from where it parts from another model's on, with its ending."""
    other = located(holder.path).parent if holder.path else path.parent.parent
    if isinstance(path, RemotePath) or isinstance(other, RemotePath):
        apart = sum(a == b for a, b in zip(path.parts, other.parts, strict=False))
        return path.parts[min(apart, len(path.parts) - 2) :]
    return path.relative_to(os.path.commonpath([path.parent, other])).parts


def check_name(model: Model, known: KnownModels, file_id: int = 0) -> None:
    """Refuse a name that a model of another file has; `file_id` is its own file's, 0 if new."""
    own = {model.id, file_id} - {0}
    holder = known.named(model.name)
    if holder is not None and (holder.id in own or holder.file_model_id in own):
        holder = None
    if holder is not None:
        where = f"the model of {printable(holder.path)}" if holder.path else "an imported model"
        path = located(model.path or "")
        # no two files get one such name
        free = "-".join(_pieces_apart(path, holder))
        named = shlex.quote(printable(f"{free}={path}", 4096))
        raise CheckpointError(
            path,
            f"the name {printable(model.name)!r} belongs to {where}",
            f"give this one another name, e.g. --name {named}",
        )
