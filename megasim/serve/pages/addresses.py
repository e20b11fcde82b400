"""Where pages and data are: the addresses that pages link to."""

from __future__ import annotations

from urllib.parse import quote, urlencode


def query_links(sql: str) -> list[tuple[str, str]]:
    """Return where the result of a query is as data, and the page that changes the query."""
    asked = urlencode({"query": sql})
    kinds = ("json", "csv", "parquet")
    found = [(kind.upper(), f"/api/v1/sql.{kind}?{asked}") for kind in kinds]
    return [*found, ("Edit the query", f"/sql?{asked}")]


def model_address(name: str) -> str:
    """Return the page of a model.

    >>> model_address("a&b")
    '/model?name=a%26b'
    """
    return f"/model?name={quote(name, safe='')}"


def pair_address(a: str, b: str) -> str:
    """Return the page of a pair.

    >>> pair_address("a&b", "c")
    '/pair?a=a%26b&b=c'
    """
    return f"/pair?{urlencode({'a': a, 'b': b})}"
