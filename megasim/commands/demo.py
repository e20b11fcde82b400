"""The demo command."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import click

from megasim.commands.console import ConsoleProgress, say, show
from megasim.errors import printable


@click.command("demo")
@click.option(
    "-o",
    "--output",
    default="demo",
    show_default=True,
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder to work in; takes about 100 MB.",
)
def demo_command(output: Path) -> None:
    """Run the whole workflow on a small family of models with a known history.

    Builds the models, ingests and compares them, and writes findings, a matrix, a heatmap and a
    report. A second run changes nothing.
    """
    from megasim.demo import demo

    output.mkdir(parents=True, exist_ok=True)
    result = demo(output, progress=ConsoleProgress())
    for sentence in result.sentences:
        show(sentence)
    say("")
    say("See:")
    for path in result.files:
        say(f"  {printable(path)}")
    program = "megasim" if shutil.which("megasim") else sys.argv[0]
    db = printable(output / "demo.duckdb")
    say(f"Query it: {program} --db {db} sql --example closest_models")
    say(f"Explore it in the browser: {program} --db {db} serve")
