"""A list of keys said as briefly as a person would: whole blocks by name, runs as ranges."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from itertools import groupby

Path = tuple[str, ...]

# Names that say nothing without the one before them.
_BARE = frozenset({"weight", "bias", "running_mean", "running_var", "scale"})
# A name that stands at this many places or more is counted, not listed.
_MANY = 4
_MERGE_BLOCK = re.compile(r"(?:IN|M|OUT)\d\d|TIME|LABEL|OUT")
_NUMBERED = re.compile(r"(.*?)(\d+)")


def describe_keys(
    keys: Collection[str],
    among: Collection[str],
    *,
    blocks: Mapping[str, str | None] | None = None,
    sizes: Mapping[str, float] | None = None,
    limit: int = 6,
) -> str:
    """Name some of the keys of a component, briefly.

    A block all of whose keys are meant is named once, consecutive ones as a range, and names that
    stand at many places are counted. Blocks come first, then single tensors, large ones first. At
    most `limit` items; the rest is counted. See `brief_items` for the items themselves.

    Args:
        keys: those to name; a subset of `among`.
        among: all keys of the component, in any order.
        blocks: the block of each key; only the units people merge by (IN00 … OUT11) are used, the
            rest is read off the keys.
        sizes: how large each key is, or its change; 0 where not given.

    >>> layers = [f"text.layers.{i}.{p}" for i in range(12) for p in ("weight", "bias")]
    >>> describe_keys([k for k in layers if ".3." in k] + layers[16:], layers)
    'layers.3, layers.8–11'
    >>> describe_keys([k for k in layers if k.endswith("bias")], layers)
    'bias at 12 places'
    """
    items = brief_items(keys, among, blocks=blocks, sizes=sizes)
    if len(items) > limit:
        items = [*items[: limit - 1], f"{len(items) - limit + 1} more"]
    return ", ".join(items)


def brief_items(
    keys: Collection[str],
    among: Collection[str],
    *,
    blocks: Mapping[str, str | None] | None = None,
    sizes: Mapping[str, float] | None = None,
) -> list[str]:
    """Return the items that together name some of the keys of a component.

    Args: as of `describe_keys`.
    """
    paths = {key: _path(key, (blocks or {}).get(key)) for key in among}
    leaves = {paths[key]: (sizes or {}).get(key, 0.0) for key in keys}
    nodes = cover(leaves, list(paths.values()))
    tensors = [node for node in nodes if node in leaves]
    groups = [node for node in nodes if node not in leaves]
    tensors.sort(key=lambda node: -leaves[node])
    places = Counter(map(_short, nodes))
    tree = _Tree(paths.values())
    labels = Counter(
        short if places[short := _short(node)] >= _MANY else tree.label(node)
        for node in (*groups, *tensors)
    )
    items = _ranges(label for label, count in labels.items() if count == 1)
    return items + [f"{label} at {n} places" for label, n in labels.items() if n > 1]


def cover(paths: Iterable[Path], among: Iterable[Path]) -> list[Path]:
    """Return the highest nodes of a tree whose leaves are exactly `paths`, in natural order.

    The tree is that of `among`. A node that one or two leaves stand under is not named for them,
    unless they are the weight and bias of a layer; nor is one that all of `among` stand under.

    >>> tree = [("a", "x"), ("a", "y"), ("a", "z"), ("b", "x"), ("b", "y")]
    >>> cover(tree[:4], tree)
    [('a',), ('b', 'x')]
    """
    wanted = set(paths)
    everything = wanted | set(among)
    root = len(_common(everything))
    under_all = Counter(p[:d] for p in everything for d in range(root + 1, len(p) + 1))
    under_wanted = Counter(p[:d] for p in wanted for d in range(root + 1, len(p) + 1))
    layers = Counter(p[:-1] for p in wanted if p[-1] in _BARE)
    nodes = set()
    for path in wanted:
        above = (path[:d] for d in range(root + 1, len(path)))
        whole = (
            node
            for node in above
            if under_all[node] == under_wanted[node]
            and (under_all[node] > 2 or layers[node] == under_all[node] > 1)
        )
        node = next(whole, path)
        if len(node) == 1 < len(path) and under_all[path[:2]] == under_all[node]:
            # The first name is but a prefix, as in first_stage_model.loss; blocks are not.
            node = node if _MERGE_BLOCK.fullmatch(node[0]) else path[:2]
        nodes.add(node)
    return sorted(nodes, key=_natural)


def _path(key: str, block: str | None) -> Path:
    names = tuple(key.split("."))
    return (block, *names) if block and _MERGE_BLOCK.fullmatch(block) else names


def _common(paths: Collection[Path]) -> Path:
    """Return the names that all paths begin with."""
    if not paths:
        return ()
    first, last = min(paths), max(paths)
    depth = 0
    while depth < min(len(first), len(last)) and first[depth] == last[depth]:
        depth += 1
    return first[:depth]


def _short(node: Path) -> str:
    """Return the last name, or the last that says something and those behind it."""
    start = len(node) - 1
    while start > 0 and (node[start] in _BARE or node[start].isdigit()):
        if node[start] in _BARE and node[start - 1].isdigit():
            break
        start -= 1
    return ".".join(node[start:])


class _Tree:
    """The nodes of a tree of keys, to find out how much of a path it takes to name one."""

    def __init__(self, paths: Iterable[Path]) -> None:
        self._by_name: dict[str, set[Path]] = {}
        for path in paths:
            for depth in range(1, len(path) + 1):
                self._by_name.setdefault(path[depth - 1], set()).add(path[:depth])

    def label(self, node: Path) -> str:
        """Return the last names of a node: enough to say something, and to be the only one."""
        alike = self._by_name[node[-1]]
        start = len(node) - 1
        while start > 0 and (
            node[start].isdigit()
            or node[start] in _BARE
            or sum(other[start - len(node) :] == node[start:] for other in alike) > 1
        ):
            start -= 1
        return ".".join(node[start:])


def _ranges(labels: Iterable[str]) -> list[str]:
    """Join labels that differ by consecutive last numbers.

    >>> _ranges(["IN04", "IN05", "layers.8", "layers.9", "layers.11", "out"])
    ['IN04–05', 'layers.8–9', 'layers.11', 'out']
    """
    split = [(m[1], m[2]) if (m := _NUMBERED.fullmatch(x)) else (x, "") for x in labels]
    runs = groupby(
        enumerate(split), key=lambda it: (it[1][0], int(it[1][1]) - it[0] if it[1][1] else None)
    )
    joined = []
    for (stem, _), run in runs:
        numbers = [number for _, (_, number) in run]
        joined.append(f"{stem}{numbers[0]}" + (f"–{numbers[-1]}" if len(numbers) > 1 else ""))
    return joined


def _natural(path: Path) -> list[tuple[int, int, str]]:
    """Order names as people do: numbers by value."""
    return [(0, int(n), "") if n.isdecimal() and n.isascii() else (1, 0, n) for n in path]
