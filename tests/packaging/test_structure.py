"""The structure as drawn from the imports: few rooms, few floors, and no circle."""

from __future__ import annotations

import ast
from itertools import pairwise

import networkx as nx
import pytest

from tests.packaging.installed import ROOT

grimp = pytest.importorskip("grimp", reason="import-linter is not installed")
pytestmark = pytest.mark.skipif(
    not (ROOT / "megasim").is_dir(), reason="there is no checkout to look into"
)

MOST_ROOMS = 34
MOST_FLOORS = 16


@pytest.fixture(scope="module")
def modules() -> nx.DiGraph:
    """An arrow from each module to each that it imports, as Python runs it."""
    graph = grimp.build_graph("megasim", exclude_type_checking_imports=True, cache_dir=None)
    drawn = nx.DiGraph()
    for module in graph.modules:
        drawn.add_node(module)
        drawn.add_edges_from(
            (module, other) for other in graph.find_modules_directly_imported_by(module)
        )
    return drawn


@pytest.fixture(scope="module")
def rooms(modules: nx.DiGraph) -> nx.DiGraph:
    """The same between the files and folders at the top of the package.

    The SQL and the benchmarks stand beside the package and count too.
    """
    drawn = nx.DiGraph((room(a), room(b)) for a, b in modules.edges if room(a) != room(b))
    drawn.add_nodes_from(room(module) for module in modules)
    drawn.add_nodes_from(("benchmarks", "sql"))
    return drawn


def room(module: str) -> str:
    """Return the file or folder at the top of the package that a module belongs to.

    >>> room("megasim.store.rows"), room("megasim.cli"), room("megasim")
    ('megasim.store', 'megasim.cli', 'megasim')
    """
    return ".".join(module.split(".")[:2])


def circle(graph: nx.DiGraph) -> list[str]:
    """Return the steps of one circle, or nothing."""
    return [a for a, _ in nx.find_cycle(graph)] if not nx.is_directed_acyclic_graph(graph) else []


def test_no_module_and_no_room_is_in_a_circle(modules: nx.DiGraph, rooms: nx.DiGraph) -> None:
    assert circle(modules) == []
    assert circle(rooms) == []


def test_the_top_level_has_few_rooms(rooms: nx.DiGraph) -> None:
    assert 20 < len(rooms) <= MOST_ROOMS, sorted(rooms)


def test_few_floors_stand_on_each_other(rooms: nx.DiGraph) -> None:
    """A room stands one floor above the highest of those that it imports from."""
    longest = nx.dag_longest_path(rooms)
    assert 5 < len(longest) <= MOST_FLOORS, longest
    assert all(rooms.has_edge(a, b) for a, b in pairwise(longest))


def test_no_two_classes_have_one_name() -> None:
    """One name stands for one thing, so that a search finds it."""
    found: dict[str, list[str]] = {}
    for folder in ("megasim", "benchmarks"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                    found.setdefault(node.name, []).append(str(path.relative_to(ROOT)))
    assert {name: places for name, places in found.items() if len(places) > 1} == {}
