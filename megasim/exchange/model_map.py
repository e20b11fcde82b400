"""model_map.json of mega_cmp: names for checkpoints, and which pairs of them to compare."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from megasim.checkpoint.locations import RemotePath, located
from megasim.checkpoint.strict_json import JSON, read_json
from megasim.errors import UsageError, printable

_FORM = 'the form is [["group", [[["a", "path/a"], ["b", "path/b"]], …]], …]'


@dataclass(frozen=True)
class ModelMap:
    """Named checkpoints, and the pairs of them that a study compares.

    Attributes:
        models: name to path, in the order of the file.
        groups: name of a group to its pairs of model names.
        renamed: names that were made longer to be unique, to the name in the file. mega_cmp
            let one name stand for another file in another group; here the first file keeps the
            name, and the next is called name.stem.
    """

    models: dict[str, Path]
    groups: dict[str, tuple[tuple[str, str], ...]]
    renamed: dict[str, str]

    @property
    def pairs(self) -> tuple[tuple[str, str], ...]:
        """All pairs of all groups, each once, in the order of the file."""
        return tuple(dict.fromkeys(pair for pairs in self.groups.values() for pair in pairs))


def read_model_map(path: Path | str) -> ModelMap:
    """Return what a model_map.json names. The checkpoints themselves need not be there.

    A relative path is meant from the folder of the json file, or, if nothing is there, from the
    current folder; `models` has it absolute.

    Raises UsageError if the file is missing, or not of the form.
    """
    path = Path(path)
    try:
        content = read_json(path)
    except OSError as e:
        raise UsageError(f"{printable(path, 400)}: {e.strerror}", "check the path") from None
    except ValueError as e:
        raise UsageError(f"{printable(path, 400)}: {e}", _FORM) from None
    models: dict[str, Path] = {}
    groups: dict[str, tuple[tuple[str, str], ...]] = {}
    renamed: dict[str, str] = {}
    for group, pairs in _parse(path, content):
        if group in groups:
            raise _bad(path, f"the group {printable(group)!r} appears twice")
        groups[group] = tuple(
            (
                _name(models, renamed, a, _locate(path, file_a)),
                _name(models, renamed, b, _locate(path, file_b)),
            )
            for (a, file_a), (b, file_b) in pairs
        )
    return ModelMap(models, groups, renamed)


def is_model_map(path: Path | str) -> bool:
    """Whether a path is meant as a model_map.json: a json file that is no index of shards.

    >>> is_model_map("model_map.json"), is_model_map("model.safetensors.index.json")
    (True, False)
    """
    name = Path(path).name
    return name.endswith(".json") and ".index." not in name


def _name(models: dict[str, Path], renamed: dict[str, str], name: str, file: Path) -> str:
    """The name under which `file` stands in `models`; it is put there if it is new."""
    if models.setdefault(name, file) == file:
        return name
    longer = f"{name}.{file.stem}"
    unique = longer
    count = 2
    while models.get(unique, file) != file:
        unique, count = f"{longer}.{count}", count + 1
    models[unique] = file
    renamed[unique] = name
    return unique


def _locate(json_path: Path, file: str) -> Path:
    if isinstance(address := located(file), RemotePath):
        return address
    beside = json_path.absolute().parent / file
    here = Path.cwd() / file
    return here if not beside.exists() and here.exists() else beside


_Side = tuple[str, str]


def _parse(path: Path, content: JSON) -> Iterator[tuple[str, list[tuple[_Side, _Side]]]]:
    if not isinstance(content, list) or not content:
        raise _bad(path, "not a list of groups")
    for entry in content:
        group, pairs = entry if isinstance(entry, list) and len(entry) == 2 else (None, None)
        if not isinstance(group, str):
            raise _bad(path, "a group is a name and a list of pairs")
        if not isinstance(pairs, list) or not pairs:
            raise _bad(path, f"the group {printable(group)!r} has no pairs")
        parsed = []
        for pair in pairs:
            sides = [_parse_side(side) for side in pair] if isinstance(pair, list) else []
            if len(sides) != 2 or sides[0] is None or sides[1] is None:
                raise _bad(path, f"a pair of the group {printable(group)!r} is malformed")
            parsed.append((sides[0], sides[1]))
        yield group, parsed


def _parse_side(side: JSON) -> _Side | None:
    if isinstance(side, list) and len(side) == 2:
        name, file = side
        if isinstance(name, str) and isinstance(file, str) and name and file and "\0" not in file:
            return name, file
    return None


def _bad(path: Path, problem: str) -> UsageError:
    return UsageError(f"{printable(path, 400)}: {problem}", _FORM)
