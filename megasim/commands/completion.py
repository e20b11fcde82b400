"""What the shell completes: names of models and components, as the store has them."""

from __future__ import annotations

from pathlib import Path

import click

from megasim.errors import MegasimError


def complete_models(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    """Return the names of models that begin so."""
    return _beginning(_names(ctx, "model_names", names=None), incomplete)


def complete_several_models(
    ctx: click.Context, param: click.Parameter, incomplete: str
) -> list[str]:
    """Return the same for the last of several names, with commas between them."""
    before, comma, last = incomplete.rpartition(",")
    return [
        before + comma + name for name in _beginning(_names(ctx, "model_names", names=None), last)
    ]


def complete_components(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    """Return the components that begin so, and "all"."""
    names = _names(ctx, "components")
    vae = ["vae"] if any(name.startswith("vae_") for name in names) else []
    return _beginning(["all", *vae, *names], incomplete)


def _beginning(names: list[str], incomplete: str) -> list[str]:
    return [name for name in dict.fromkeys(names) if name.startswith(incomplete)]


def _names(ctx: click.Context, statement: str, **parameters: None) -> list[str]:
    """Return the first column of a query; nothing where there is no store, or it is in use."""
    import duckdb

    from megasim.store.connection import store_path
    from megasim.store.rows import Store
    from megasim.store.service_file import running_service

    given: Path | None = ctx.find_root().params.get("db")
    try:
        if service := running_service(store_path(given)):
            from megasim.serve.client import connect

            with connect(service.address, service.token) as served:
                return [str(row[0]) for row in served.store.rows(statement, **parameters)]
        with Store(store_path(given), "read", wait=0) as store:
            return [str(row[0]) for row in store.rows(statement, **parameters)]
    except (MegasimError, duckdb.Error, OSError):
        return []
