"""Options that several commands share, in the same words."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from megasim.commands.completion import (
    complete_components,
    complete_several_models,
)
from megasim.commands.console import json_text, say
from megasim.errors import UsageError, printable

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

    from megasim.plots.style import Style
    from megasim.store.connection import Mode
    from megasim.workspace import Workspace

FIGURE_ENDINGS = (".png", ".svg", ".pdf")

F = TypeVar("F", bound=Callable[..., Any])

as_json = click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
component = click.option(
    "-c",
    "--component",
    shell_complete=complete_components,
    help="unet, transformer, text_encoder, vae, vae_encoder, vae_decoder, ema, …, or all; te, te0, "
    "te1 for short. Default: unet, else transformer, or all if no model has either.",
)
metric = click.option(
    "-m",
    "--metric",
    default="l2",
    show_default=True,
    type=click.Choice(["l0", "l1", "l2", "linf", "cossim"]),
    help="linf and cossim must be computed first: `megasim compare --metric …`.",
)
weights_only = click.option(
    "--weights-only",
    is_flag=True,
    help="Leave out the running means and variances of normalisation layers.",
)
from_sketches = click.option(
    "--estimate",
    is_flag=True,
    help="Take all distances from the sketches; nothing needs to be compared first.",
)
workers = click.option(
    "--workers", type=click.IntRange(1), help="Number of threads [default: cores]."
)
cluster = click.option(
    "--cluster",
    metavar="ADDRESS",
    help="Run the work on a Dask cluster: tcp://host:8786, or local:N for N processes of this "
    "machine. Its workers must see the files under the same paths.",
)
shard = click.option(
    "--shard",
    metavar="I/N",
    help="Do part I of N, and write it to the .parquet file of -o. Run all parts, on any machines "
    "that see the files; then `megasim import` their files.",
)
shard_file = click.option(
    "-o", "--output", type=click.Path(path_type=Path), help="The file of --shard."
)


def output(required: bool, help_text: str) -> Callable[[F], F]:
    """Return the option -o, whose file ending decides the format."""
    return click.option(
        "-o",
        "--output",
        required=required,
        type=click.Path(path_type=Path),
        help=help_text,
    )


def check_shard_file(shard: str | None, output: Path | None) -> None:
    """Refuse --shard without a .parquet file to write to, and the file without --shard.

    Raises:
        UsageError: one is given without the other, or the file has another ending.
    """
    if (shard is None) != (output is None):
        raise UsageError(
            "-o is the file of a shard" if shard is None else "no file for the shard",
            "write `--shard 3/16 -o part-3.parquet`",
        )
    if output is not None:
        check_ending(output, (".parquet",))


class ModelNames(click.ParamType[list[str]]):
    """Names of models, separated by commas."""

    name = "A,B,…"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> list[str]:
        if isinstance(value, list):
            return value
        return [name.strip() for name in str(value).split(",") if name.strip()]


class Size(click.ParamType[int]):
    """A number of bytes, such as 512M or 2GiB."""

    name = "SIZE"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if isinstance(value, int):
            return value
        text = str(value).strip().lower().removesuffix("b").removesuffix("i")
        scale = {"k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}.get(text[-1:], 0)
        try:
            size = int(float(text[:-1] if scale else text) * (scale or 1))
        except (ValueError, OverflowError):
            self.fail(f"{value!r} is not a size; write 512M or 2G", param, ctx)
        if size < 64 << 20:
            self.fail("at least 64M", param, ctx)
        return size


path = click.option(
    "--path",
    type=ModelNames(),
    shell_complete=complete_several_models,
    help="Models in the order they were made: A,B,C.",
)
models = click.option(
    "--models",
    type=ModelNames(),
    shell_complete=complete_several_models,
    help="Only these models, in this order: A,B,C.",
)
memory = click.option(
    "--memory", type=Size(), default="1G", show_default=True, help="Memory for buffers, e.g. 512M."
)


top = click.option(
    "--top",
    type=click.IntRange(2),
    metavar="N",
    help="Only N models: one, and those nearest to it. It is the one of --against, the first of "
    "--path, or else the one in their middle.",
)


@dataclass(frozen=True)
class Look:
    """What `--size`, `--font`, `--theme` and `--title` say of a figure."""

    size: str
    font: str
    theme: str
    title: str

    def style(self, output: Path | None) -> Style | None:
        """Return it as the style of a figure; None where none is written.

        Raises:
            UsageError: an unknown font, a wrong size, or an option with no figure to be of.
        """
        if output is None or output.suffix.lower() not in (*FIGURE_ENDINGS, ".html"):
            if self.size or self.font or self.title or self.theme != "light":
                raise UsageError(
                    "--size, --font, --theme and --title apply to figures only",
                    f"write one with -o, as {' or '.join(FIGURE_ENDINGS)}",
                )
            return None
        from megasim.plots.style import style_of

        return style_of(theme=self.theme, font=self.font, size=self.size, title=self.title)


def look(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command that draws the options of a `Look`, as its argument `look`."""

    @click.option(
        "--size",
        default="",
        metavar="WxH",
        help="Width and height in inches, as 16x9; text and cells follow it.",
    )
    @click.option("--font", default="", help="Font family; it must be installed.")
    @click.option(
        "--theme",
        default="light",
        show_default=True,
        type=click.Choice(["light", "dark", "print"]),
        help="Colours of the figure; `print` also works without colour.",
    )
    @click.option("--title", default="", help="Title instead of the default one.")
    @wraps(command)
    def looking(*args: Any, size: str, font: str, theme: str, title: str, **kwargs: Any) -> Any:
        return command(*args, look=Look(size, font, theme, title), **kwargs)

    return looking


def open_workspace(
    ctx: click.Context, mode: Mode = "read", *, memory: int | None = None
) -> Workspace:
    """Open the store of this call; it is closed when the command ends.

    "read" gives one consistent state: nobody writes until the store is released or closed. Where a
    service has the store open, it is reached through the service.
    """
    from megasim.store.connection import store_path
    from megasim.store.service_file import running_service
    from megasim.workspace import open_store

    root = ctx.find_root()
    service = running_service(store_path(root.obj))
    if service is not None:
        from megasim.serve.client import connect

        workspace: Workspace = ctx.with_resource(connect(service.address, service.token))
    else:
        wait = root.params["wait"]
        workspace = ctx.with_resource(open_store(root.obj, mode, memory=memory, wait=wait))
    if mode == "read":
        workspace.store.keep()
    for note in workspace.store.left_out:
        say(f"note: {note}")
    return workspace


def write_figure(figure: Figure, path: Path) -> None:
    """Write a figure, the same bytes for the same figure, and say so."""
    from megasim.plots.figure_files import save_figure

    save_figure(figure, path)
    say(f"wrote {printable(path)}")


def write_table(frame: pd.DataFrame, path: Path) -> None:
    """Write a table as CSV, empty where missing, and say so."""
    from megasim.output_files import write_file

    write_file(path, frame.to_csv(index=False, lineterminator="\n"))
    say(f"wrote {printable(path)}")


def write_json(value: object, path: Path) -> None:
    """Write a result as JSON, and say so."""
    from megasim.output_files import write_file

    write_file(path, json_text(value) + "\n")
    say(f"wrote {printable(path)}")


def check_ending(path: Path, endings: tuple[str, ...]) -> None:
    """Refuse an output that no writer is there for, before any work is done."""
    if path.suffix.lower() not in endings:
        raise UsageError(
            f"{printable(path.name)}: unknown file ending",
            f"use one of {', '.join(endings)}",
        )
