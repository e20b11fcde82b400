"""CSV tables that people write: comments, aligned cells, and errors that say where.

The rules of the anatomy are such tables.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from megasim.errors import UsageError, printable

_REMEDY = "docs/anatomy.md says how to write rules"
_LARGEST_TABLE = 1 << 20  # bytes; a larger file is not a table of rules but a mistake

T = TypeVar("T")


class Row:
    """A row of a table, whose cells are read with errors that name the line and the column."""

    def __init__(self, path: Path, line: int, cells: Mapping[str, str]) -> None:
        self.path, self.line, self.cells = path, line, cells

    def __getitem__(self, column: str) -> str:
        return self.cells.get(column, "")

    def error(self, column: str, problem: str) -> UsageError:
        """Return the error to raise for a cell."""
        where = f"{printable(self.path, 400)}, line {self.line}, column {column!r}"
        return UsageError(f"{where}: {problem}", _REMEDY)

    def read(self, column: str, parse: Callable[[str], T]) -> T:
        """Return a cell as `parse` reads it, whose ValueError says what is wrong with it."""
        try:
            return parse(self[column])
        except (ValueError, re.error) as error:
            raise self.error(column, str(error)) from None


def read_table(path: Path, columns: Sequence[str], required: Sequence[str]) -> list[Row]:
    """Read a CSV table whose first row names its columns.

    Lines that begin with # and empty lines are left out; spaces around cells do not count.

    Raises:
        UsageError: the file cannot be read or is not such a table; it names the line.
    """
    file = printable(path, 400)
    try:
        if path.stat().st_size > _LARGEST_TABLE:
            raise UsageError(f"{file}: too large for a table of rules", _REMEDY)
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except OSError as error:
        raise UsageError(f"{file}: {error.strerror}", "check the path") from None
    except UnicodeDecodeError:
        raise UsageError(f"{file}: not a text file in UTF-8", _REMEDY) from None

    header: list[str] = []
    rows = []
    for number, line in enumerate(lines, start=1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        try:
            cells = [cell.strip() for cell in next(csv.reader([line], skipinitialspace=True))]
        except csv.Error as error:
            raise UsageError(f"{file}, line {number}: {error}", _REMEDY) from None
        if not header:
            header = cells
            for name in (*header, *required):
                if name not in columns or header.count(name) != 1:
                    problem = f"the columns are {', '.join(columns)}; {printable(name)!r}"
                    problem += " is not one of them" if name not in columns else " must stand once"
                    raise UsageError(f"{file}, line {number}: {problem}", _REMEDY)
        elif len(cells) > len(header):
            problem = f"{len(cells)} cells for {len(header)} columns"
            raise UsageError(f"{file}, line {number}: {problem}", _REMEDY)
        else:
            rows.append(Row(path, number, dict(zip(header, cells, strict=False))))
    if not header:
        raise UsageError(f"{file}: it contains no table", _REMEDY)
    return rows
