"""An extension of Griffe: examples in docstrings are shown as code.

Markdown takes `>>>` for a quotation within a quotation, and loses the lines.
"""

from __future__ import annotations

from typing import Any

from griffe import Extension, Object


class DoctestBlocks(Extension):
    """Puts a fence around each example."""

    def on_object(self, *, obj: Object, **_: Any) -> None:
        """Rewrite the docstring of an object that has one."""
        if obj.docstring is not None:
            obj.docstring.value = fenced(obj.docstring.value)


def fenced(text: str) -> str:
    """Return text with each run of lines from `>>>` to the next empty line within a fence."""
    lines: list[str] = []
    inside = False
    for line in text.splitlines():
        starts = line.lstrip().startswith(">>>")
        indent = line[: len(line) - len(line.lstrip())]
        if starts and not inside:
            lines.append(f"{indent}```pycon")
            inside = True
            fence = f"{indent}```"
        elif inside and not line.strip():
            lines.append(fence)
            inside = False
        lines.append(line)
    if inside:
        lines.append(fence)
    return "\n".join(lines)
