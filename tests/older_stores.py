"""Stores of the first schema, as an older version left them."""

from __future__ import annotations

from pathlib import Path

import duckdb

from megasim.store.connection import migrations

_COLUMNS = "select table_name, column_name from duckdb_columns() where database_name = ?"


def write_older(source: Path, target: Path) -> None:
    """Write what a store holds into a new one of the first schema, as far as that has a place."""
    number, name, sql = migrations()[0]
    with duckdb.connect(str(target)) as con:
        con.execute(sql)
        con.execute("insert into schema_version values ($1, $2)", [number, name])
        con.execute(f"attach '{source}' as newer (read_only)")
        newer = set(con.execute(_COLUMNS, ["newer"]).fetchall())
        own = con.execute(_COLUMNS, [target.stem]).fetchall()
        for table in sorted({table for table, _ in own} - {"schema_version", "view_text"}):
            columns = ", ".join(f'"{c}"' for t, c in own if t == table and (t, c) in newer)
            if columns:
                con.execute(f"insert into {table} by name select {columns} from newer.{table}")
