"""The documentation follows the code: an undocumented command or a dead link fails."""

from __future__ import annotations

import re
from pathlib import Path

import click
import pytest

from megasim import cli

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]


def help_page() -> str:
    """Return docs/commands.md as it should be: the help of every command."""
    lines = [
        "# Commands",
        "",
        "What `megasim COMMAND --help` says. Results go to stdout, all else to stderr; `-o`",
        "decides the form by its ending.",
        "",
        "Exit codes: 0 done · 1 failed · 2 wrong usage · 3 store locked or too new · 4 some",
        "checkpoints unreadable, the rest saved · 130 interrupted, progress kept.",
    ]
    group = click.Context(cli.megasim, info_name="megasim", **cli.megasim.context_settings)
    for name in cli.COMMANDS:
        command = cli.megasim.get_command(group, name)
        assert command is not None
        context = click.Context(
            command, parent=group, info_name=name, max_content_width=88, terminal_width=88
        )
        lines += ["", f"## {name}", "", "```", command.get_help(context), "```"]
    return "\n".join(lines) + "\n"


def test_every_command_is_documented() -> None:
    page = ROOT / "docs" / "commands.md"
    assert page.read_text(encoding="utf-8") == help_page(), (
        "docs/commands.md is behind: run `python -m tests.test_docs`"
    )


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
    (ROOT / "docs" / "commands.md").write_text(help_page(), encoding="utf-8")
