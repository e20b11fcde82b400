"""What the command line shows: progress and notes on stderr, results on stdout."""

from __future__ import annotations

import json
import math
import re
import sys
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from megasim.errors import MegasimError, printable

if TYPE_CHECKING:
    import pandas as pd
    from rich.progress import Progress as RichProgress
    from rich.progress import TaskID

_NOT_ASCII = re.compile(r"[^\n\t -~]")
_LOG_SECONDS = 30.0  # between two lines of progress in a log
_CELL = 60  # characters of one table cell
_LAST_CELL = 160  # of a row's last one, which nothing stands behind


class _Notes:
    """Whether notes and progress are printed in this process; `--quiet` says no."""

    quiet = False


def set_quiet(quiet: bool) -> None:
    """Print no notes and no progress from now on, or print them again."""
    _Notes.quiet = quiet


def say(text: str) -> None:
    """Print a note for people, on stderr."""
    if not _Notes.quiet:
        click.echo(_safe(text), err=True)


def show(text: str) -> None:
    """Print a result, on stdout."""
    click.echo(_safe(text))


def show_csv(text: str) -> None:
    """Print CSV on stdout: for a program as it is, for a terminal without what it might obey."""
    click.echo(_safe(text) if sys.stdout.isatty() else text)


def _safe(text: str) -> str:
    """Escape what a terminal might obey: names from checkpoints are in what is printed."""
    return _NOT_ASCII.sub(lambda c: printable(c[0]), text)


def show_json(value: Any) -> None:
    """Print a result as JSON, on stdout."""
    click.echo(json_text(value))


def json_text(value: Any) -> str:
    r"""Return a result as JSON; what is missing is null, what a terminal might obey is escaped.

    >>> print(json_text("é\x9b\u202e"))
    "é\u009b\u202e"
    """
    text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False, default=str)
    return _NOT_ASCII.sub(
        lambda c: c[0] if c[0].isprintable() else json.dumps(c[0]).strip('"'), text
    )


def records(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """Return a frame as JSON has it: an object a row; NULL, NaN and infinities are null.

    >>> import pandas as pd
    >>> records(pd.DataFrame({"model": ["a"], "l2": [float("nan")]}))
    [{'model': 'a', 'l2': None}]
    """
    columns = list(map(str, frame.columns))
    rows = zip(*(frame.iloc[:, i].tolist() for i in range(len(columns))), strict=True)
    return [dict(zip(columns, map(_json_value, row), strict=True)) for row in rows]


def _json_value(value: Any) -> Any:
    """Return a frame's value as JSON has it, with all digits of a number."""
    if isinstance(value, dict):
        return {key: _json_value(inner) for key, inner in value.items()}
    if isinstance(value, list) or type(value).__name__ == "ndarray":
        return [_json_value(inner) for inner in value]
    plain = _plain(value)
    if isinstance(plain, float) and not math.isfinite(plain):
        return None
    if hasattr(plain, "isoformat"):
        return plain.isoformat()
    return plain.item() if hasattr(plain, "item") else plain


def csv_text(frame: pd.DataFrame) -> str:
    r"""Return a frame as CSV, empty where missing; a list or a struct is one cell of JSON.

    >>> import pandas as pd
    >>> print(csv_text(pd.DataFrame({"model": ["a"], "parts": [["unet", "vae"]]})))
    model,parts
    a,"[""unet"", ""vae""]"
    """
    mixed = [i for i, dtype in enumerate(frame.dtypes) if str(dtype) == "object"]
    cells = frame.copy(deep=False)
    for i in mixed:  # alone: pandas 2 would make numbers with a fraction of whole ones
        cells.isetitem(i, frame.iloc[:, i].map(_csv_cell).array)
    return cells.to_csv(index=False, lineterminator="\n").rstrip("\n")


def _csv_cell(value: Any) -> Any:
    plain = value.tolist() if type(value).__name__ == "ndarray" else value
    return json.dumps(plain, default=str) if isinstance(plain, list | dict) else value


def show_error(error: MegasimError) -> None:
    """Print an error and its remedy, on stderr."""
    click.echo(_safe(f"error: {error.message}"), err=True)
    if error.remedy:
        click.echo(_safe(f"  {error.remedy}"), err=True)


def show_failures(errors: Sequence[MegasimError]) -> int:
    """Print what could not be read, and return the exit code that it means."""
    for error in errors:
        show_error(error)
    return max((error.exit_code for error in errors), default=0)


def table_text(
    frame: pd.DataFrame, limit: int | None = None, rest: str = "--csv or --json shows all"
) -> str:
    """Return a frame as aligned columns of safe text; numbers to the right, NULL as a dash.

    Any value that DuckDB hands out may stand in it: lists, dates, NA.

    Args:
        limit: the most rows to show.
        rest: how to see the others.

    >>> import pandas as pd
    >>> print(table_text(pd.DataFrame({"model": ["a", None], "l2": [1.5, 22.25]})))
    model     l2
    a       1.5
    –      22.25
    >>> import numpy as np
    >>> table_text(pd.DataFrame({"components": [np.array(["unet", "ema"])]})).splitlines()[1]
    'unet, ema'
    """
    shown = frame if limit is None else frame.head(limit)
    from rich.cells import cell_len

    columns = []
    for i, name in enumerate(shown.columns):
        values = [_plain(value) for value in shown.iloc[:, i].tolist()]
        numeric = all(v is None or isinstance(v, int | float) for v in values) and bool(values)
        room = _LAST_CELL if i + 1 == len(shown.columns) else _CELL
        cells = [printable(name, _CELL), *(_cell(v, room) for v in values)]
        if numeric:
            cells = _aligned(cells, max(map(len, cells)))
        width = max(map(cell_len, cells))  # of a terminal's columns: some letters take two
        pads = [" " * (width - cell_len(cell)) for cell in cells]
        columns.append([p + c if numeric else c + p for c, p in zip(cells, pads, strict=True)])
    lines = ["  ".join(row).rstrip() for row in zip(*columns, strict=True)]
    if limit is not None and len(frame) > limit:
        lines.append(f"… {len(frame) - limit:,} more rows: {rest}")
    return "\n".join(lines)


def _aligned(cells: list[str], width: int) -> list[str]:
    """Pad numbers after the point, so that points stand below each other."""
    after = max((len(c) - c.index(".") for c in cells[1:] if "." in c and "e" not in c), default=0)
    out = [cells[0]]
    for cell in cells[1:]:
        digits = len(cell) - cell.index(".") if "." in cell and "e" not in cell else 0
        padded = cell + " " * (after - digits)
        out.append(padded if len(padded) <= width else cell)
    return out


def _plain(value: Any) -> Any:
    """Return a frame's value as Python has it: an array as a list, all that is missing as None."""
    if type(value).__name__ == "ndarray":
        return value.tolist()
    missing = type(value).__name__ in ("NAType", "NaTType") or value != value
    return None if missing else value


def _cell(value: Any, limit: int) -> str:
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        if value.is_integer() and abs(value) < 1e15:  # a sum of whole numbers keeps all digits
            return f"{value:.0f}"
        full = repr(value)  # what the query rounded stays as it was rounded
        return full if len(full) <= 9 else f"{value:.6g}"
    if isinstance(value, int):
        return str(value)
    if isinstance(value, list):
        return printable(", ".join(map(str, value)), limit)
    return printable(value, limit)


class ConsoleProgress:
    """Progress bars on stderr with rate and time left; lines where stderr is not a terminal.

    A log gets a line at the start of each piece of work, and one every half minute.
    """

    def __init__(self) -> None:
        self._bars: RichProgress | None = None
        self._task: TaskID | None = None
        self._title, self._unit = "", ""
        self._done = self._total = 0
        self._told_at = 0.0

    def start(self, title: str, total: int, unit: str) -> None:
        """Show a bar for `total` units."""
        self.finish()
        if not total or _Notes.quiet:
            return
        if not sys.stderr.isatty():
            self._title, self._unit, self._done, self._total = title, unit, 0, total
            self._told_at = time.monotonic()
            say(f"{title}: {_amount(total, unit)}")
            return
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            DownloadColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeRemainingColumn,
            TransferSpeedColumn,
        )

        console = Console(stderr=True)
        if unit == "bytes":
            amount = (DownloadColumn(), TransferSpeedColumn())
            self._bars = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                *amount,
                TimeRemainingColumn(),
                console=console,
                transient=True,
            )
        else:
            self._bars = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn(unit),
                TimeRemainingColumn(),
                console=console,
                transient=True,
            )
        self._bars.start()
        self._task = self._bars.add_task(title, total=total)

    def advance(self, amount: int) -> None:
        """Move the bar on."""
        if self._bars is not None and self._task is not None:
            self._bars.advance(self._task, amount)
        elif self._total:
            self._done += amount
            if time.monotonic() - self._told_at >= _LOG_SECONDS:
                self._told_at = time.monotonic()
                done, total = _amount(self._done, self._unit), _amount(self._total, self._unit)
                say(f"{self._title}: {done} of {total}, {100 * self._done // self._total} %")

    def finish(self) -> None:
        """Take the bar away."""
        if self._bars is not None:
            self._bars.stop()
        self._bars = self._task = None
        self._total = 0


def _amount(total: int, unit: str) -> str:
    return byte_text(total) if unit == "bytes" else f"{total:,} {unit}"


def byte_text(count: int) -> str:
    """Return a number of bytes in words.

    >>> byte_text(2_132_000_000)
    '2.1 GB'
    """
    size = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"


def tell_of_compiling(*names: str) -> None:
    """Say that the first run takes longer, and why.

    Of the loops of a pass, one for each dtype, only those of the files at hand are ever compiled.
    """
    from megasim.kernels import loops
    from megasim.kernels.machine_code import compile_note

    notes = [compile_note(getattr(loops, name)) for name in names]
    if notes[0] is not None and all(notes):
        say(notes[0])
