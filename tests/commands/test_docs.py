"""The documentation follows the code: an undocumented command or a dead link fails."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import click
import pytest

import megasim
from megasim import cli, open_store
from megasim.store.statements import purpose_of
from megasim.workspace import Workspace

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]


def help_page() -> str:
    """Return docs/commands.md as it should be: the help of every command."""
    lines = [
        "# Commands",
        "",
        "The output of `megasim COMMAND --help`. Results go to stdout, everything else to",
        "stderr; the file ending given to `-o` decides the format.",
        "",
        "Exit codes: 0 done · 1 failed · 2 wrong usage · 3 store locked, too old or too new · 4",
        "some checkpoints unreadable, the rest saved · 5 a check found something (`doctor`,",
        "`verify`) · 6 not proved (`verify`) · 130 interrupted, progress kept.",
        "",
        "Options before the command: `--db`; `--wait [SECONDS]`, for how long to wait while",
        "another process uses the store; `--limits FACTOR`, which multiplies what one file may",
        "cost before it is refused, see [formats](formats.md); `--quiet`.",
        "",
        "A model is given by its full name, or by any prefix that no other model shares.",
        "",
        "For completion of commands, options, models and components in Bash, put this line",
        "",
        "```",
        'eval "$(_MEGASIM_COMPLETE=bash_source megasim)"',
        "```",
        "",
        "into `~/.bashrc`; for zsh the same with `zsh_source` into `~/.zshrc`. For fish, write the",
        "output of `_MEGASIM_COMPLETE=fish_source megasim` to",
        "`~/.config/fish/completions/megasim.fish`. Names come from the store given by `--db` or",
        "`MEGASIM_DB`, which is only read.",
    ]
    group = click.Context(cli.megasim, info_name="megasim", **cli.megasim.context_settings)
    for name in cli.COMMANDS:
        command = cli.megasim.get_command(group, name)
        assert command is not None
        context = click.Context(
            command, parent=group, info_name=name, max_content_width=88, terminal_width=88
        )
        lines += ["", f"## {name}", "", "```", command.get_help(context), "```"]
        for part in command.commands.values() if isinstance(command, click.Group) else ():
            inner = click.Context(
                part, parent=context, info_name=part.name, max_content_width=88, terminal_width=88
            )
            lines += ["", "```", part.get_help(inner), "```"]
    return "\n".join(lines) + "\n"


def sql_page() -> str:
    """Return docs/sql.md as it should be: the views with their columns, and the cookbook."""
    lines = [
        "# SQL over the store",
        "",
        "The store is one DuckDB file. Four views are stable: their names, columns and types will",
        'not change. Query them with `megasim sql "select …"`, with `--json` or `--csv`, or with',
        "any DuckDB client while megasim is not writing. A missing value is NULL, never 0.",
    ]
    with open_store(":memory:") as store:
        for view in ("models", "layers", "layer_distances", "component_distances"):
            lines += ["", f"## {view}", "", comment_of(store, view), ""]
            lines += ["| column | type | |", "|---|---|---|"]
            lines += [
                f"| {column} | {kind.lower()} | {comment} |"
                for column, kind, comment in store.sql(VIEW_COLUMNS.format(view)).itertuples(
                    index=False
                )
            ]
    lines += ["", "## Cookbook", "", "`megasim sql --example NAME` runs one of these."]
    for name, text in Workspace.sql_examples().items():
        query = "\n".join(line for line in text.splitlines() if not line.startswith("--"))
        lines += ["", f"### {name}", "", purpose_of(text), "", "```sql", query, "```"]
    return "\n".join(lines) + "\n"


VIEW_COLUMNS = """
    select column_name, data_type, comment from duckdb_columns()
    where table_name = '{}' and schema_name = 'main' order by column_index
"""


def comment_of(store: Workspace, view: str) -> str:
    """Return the comment on a view."""
    found = store.sql(f"select comment from duckdb_views() where view_name = '{view}'")
    return str(found["comment"].item())


GENERATED = {"commands.md": help_page, "sql.md": sql_page}


@pytest.mark.parametrize("name", GENERATED)
def test_generated_pages_are_up_to_date(name: str) -> None:
    page = ROOT / "docs" / name
    assert page.read_text(encoding="utf-8") == GENERATED[name](), (
        f"docs/{name} is behind: run `python -m tests.commands.test_docs`"
    )


def test_every_package_is_installed() -> None:
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    package = Path(megasim.__file__).parent
    packages = {path.parent for path in package.rglob("__init__.py")}
    named = {".".join(path.relative_to(package.parent).parts) for path in packages}
    beside = {"megasim.sql", "megasim.sql.migrations", "megasim.data"}
    assert set(listed["tool"]["setuptools"]["packages"]) == named | beside


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", page.read_text(encoding="utf-8")):
        if "://" not in target:
            assert (page.parent / target).exists(), target


def test_commands_of_the_readme_exist() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    named = set(re.findall(r"(?:^    |`)megasim ([a-z]+)", text, re.MULTILINE))
    assert named <= set(cli.COMMANDS)
    assert {"ingest", "compare", "findings", "matrix", "sql"} <= named


if __name__ == "__main__":
    for name, page in GENERATED.items():
        (ROOT / "docs" / name).write_text(page(), encoding="utf-8")
