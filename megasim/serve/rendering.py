"""Templates → pages. What a checkpoint says is escaped in all of them."""

from __future__ import annotations

from functools import cache
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape
from starlette.requests import Request
from starlette.responses import HTMLResponse

from megasim.errors import printable
from megasim.resources import package_path

_LONGEST = 4096  # characters of one value


def page(
    request: Request,
    template: str,
    /,
    *,
    status_code: int = 200,
    headers: dict[str, str] | None = None,
    **values: Any,
) -> HTMLResponse:
    """Return a page out of a template of `serve/templates`.

    A template also knows `here`, the path of the page; `query`, the state in its URL; and
    `navigation`, the (path, title) of all pages.
    """
    from megasim.serve.service import answering_of

    service = answering_of(request)
    text = (
        _environment()
        .get_template(template)
        .render(
            values,
            here=request.scope["path"],
            query=str(request.url.query),
            navigation=service.navigation,
            store_name=service.settings.store.name,
            version=service.version,
        )
    )
    return HTMLResponse(text, status_code, headers)


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(package_path("serve", "templates")),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=shown,
    )
    environment.filters["lines"] = lines
    environment.filters["zip_self"] = lambda values: [(value, value) for value in values]
    return environment


def shown(value: Any) -> Any:
    r"""Return a value as a page shows it: what a terminal or a reader might obey is escaped.

    Jinja escapes the HTML in it afterwards.

    >>> print(shown("a\x1b[31m\u202eb"), shown(None), shown(0.1234567), shown(12345))
    a\x1b[31m\u202eb – 0.1235 12,345
    """
    if value is None:
        return "–"
    if isinstance(value, Markup | bool):
        return value
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return "–" if value != value else f"{value:,.1f}" if abs(value) >= 1000 else f"{value:.4g}"
    return printable(value, _LONGEST)


def lines(text: str) -> Markup:
    """Return a text of several lines, such as SQL, escaped and with its line breaks.

    >>> lines("select 1\\nwhere 1 < 2")
    Markup('select 1\\nwhere 1 &lt; 2')
    """
    return Markup("\n").join(escape(printable(line, _LONGEST)) for line in text.splitlines())
