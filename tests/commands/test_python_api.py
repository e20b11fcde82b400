"""Everything that the command line does can be done from Python, under the same names."""

from __future__ import annotations

import inspect
from dataclasses import fields
from pathlib import Path

import click
import pytest

from megasim import cli
from megasim.demo import demo
from megasim.errors import UsageError
from megasim.serve.settings import Settings
from megasim.workspace import Workspace, open_store
from megasim.workspace.identification import identify
from megasim.workspace.jobs import compact, doctor, migrate
from megasim.workspace.shards import compare_shard, ingest_shard
from tests.small_sd import UNET, compared_store, small_sd, trained

# Commands whose names are words of Python, or that do two things.
METHODS = {
    "import": ["import_path"],
    "export": ["export_mega_cmp", "export_fingerprints"],
    "forget": ["forget", "bytes_held_alone", "missing_files"],
    "findings": ["findings", "shared_components", "changes"],
    "known": ["known", "add_known", "remove_known"],
    "recipe": ["recipe", "recipes", "merge_plan", "check_recipe"],
    "lineage": ["lineage_and_claims"],
    "sql": ["sql", "sql_example", "sql_examples"],
}
# Options of the command line, with the parameters or methods that do the same.
PARAMETERS = {
    "names": "names",
    "sketch": "sketch_size",
    "dry_run": "bytes_held_alone",
    "missing": "missing_files",
    "shared": "shared_components",
    "renamed": "names",
    "example": "name",
    "examples": "sql_examples",
    "fingerprints": "path",
    "claimed": "check_recipe",
}
# Models that a command takes by their place.
PLACED = {
    "forget": {"models"},
    "findings": {"a", "b"},
    "direction": {"a", "b", "c", "d"},
    "trajectory": {"chain"},
    "verify": {"a", "b"},
}
# How a result is shown or written is not the work of a method.
LOOK = {"size", "font", "theme", "title"}  # `style` of what draws
SHOWN = {*LOOK, "output", "junit", "as_json", "as_csv", "long", "form", "help"}
OPENING = {"memory"}  # of `open_store`


# They open the store themselves, or need none.
FUNCTIONS = {
    **{"compact": compact, "migrate": migrate, "doctor": doctor, "demo": demo},
    "identify": identify,
}
# What `--shard` does instead, for which no store is written to.
SHARDS = {"ingest": ingest_shard, "compare": compare_shard}


def commands() -> list[str]:
    return [name for name in cli.COMMANDS if name not in {*FUNCTIONS, "serve"}]


@pytest.mark.parametrize("name", commands())
def test_a_command_has_methods_of_its_name(name: str) -> None:
    command = cli.megasim.get_command(click.Context(cli.megasim), name)
    assert command is not None
    methods = METHODS.get(name, [name])
    known = set(methods)
    for method in methods:
        known |= set(inspect.signature(getattr(Workspace, method)).parameters)
    if name in SHARDS:
        known |= set(inspect.signature(SHARDS[name]).parameters)
    for parameter in command.params:
        option = str(parameter.name)
        if option in SHOWN | OPENING:
            continue
        if option in ("models", "names") and name in PLACED:
            assert known >= PLACED[name]
            continue
        wanted = PARAMETERS.get(option, option)
        if (name, option) == ("lineage", "no_metadata"):
            wanted = "use_metadata"
        assert known & {wanted, wanted.removesuffix("s")}, option


@pytest.mark.parametrize("name", FUNCTIONS)
def test_other_commands_have_functions_of_their_names(name: str) -> None:
    command = cli.megasim.get_command(click.Context(cli.megasim), name)
    assert command is not None
    assert FUNCTIONS[name].__name__ == name
    known = set(inspect.signature(FUNCTIONS[name]).parameters)
    assert {str(parameter.name) for parameter in command.params} - SHOWN <= known


def test_the_service_has_settings_for_its_options() -> None:
    command = cli.megasim.get_command(click.Context(cli.megasim), "serve")
    assert command is not None
    known = {field.name for field in fields(Settings)}
    assert {"host", "port", "allow_jobs", "host_names", "workers"} <= known
    there = {"folders": "models", "token_file": "token", "memory": "job_memory"}
    named = {there.get(str(p.name), str(p.name)) for p in command.params}
    assert named - known == {"no_access_log"}


def test_a_store_is_opened_with_memory() -> None:
    assert set(inspect.signature(open_store).parameters) >= OPENING


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    base = small_sd()
    models = {f"x{i}1-mix-of-many": trained(base, i, UNET) for i in range(3)}
    return compared_store(tmp_path_factory.mktemp("api"), {"x2": base, **models})


def test_parts_of_a_matrix_draw_themselves(store: Path) -> None:
    with open_store(store, "read") as workspace:
        matrix = workspace.matrix()
        part = matrix.subset(matrix.models[:3])
        assert type(part) is type(matrix) is type(matrix.largest_complete())
        assert part.models == matrix.models[:3]
        assert part.heatmap().axes
        assert part.map().plot().axes


def test_a_model_is_named_by_the_beginning_of_its_name(store: Path) -> None:
    names = ["x01-mix-of-many", "x11-mix-of-many", "x21-mix-of-many"]
    with open_store(store, "read") as workspace:
        assert workspace.matrix(models=["x0", "x11-m"]).models == tuple(names[:2])
        assert workspace.matrix().subset(["x0", "x2"]).models == (names[0], "x2")
        assert workspace.findings("x0", "x1").models == ("x01-mix-of-many", "x11-mix-of-many")
        assert workspace.recipe("x0", parents=["x1", "x21"]).model == names[0]
        assert workspace.trajectory(["x2", "x0", "x21"])[0].models == ("x2", names[0], names[2])
        assert set(workspace.layer_changes(against="x0")["model"]) == {names[0]}
        assert workspace.heatmap(layers=True, against="x0").axes
        assert workspace.map(path=["x2", "x0"], models=["x0", "x1", "x2"]).matrix.models[2] == "x2"
        with pytest.raises(UsageError, match=r"beginning of 4 model names.*\n.*x01-mix.*x11-mix"):
            workspace.nearest("x")
        with pytest.raises(UsageError, match="no such model: ''"):
            workspace.matrix(models=[""])
        with pytest.raises(UsageError, match="no such model: 'y'"):
            workspace.direction("x0", "x1", "x2", "y")
