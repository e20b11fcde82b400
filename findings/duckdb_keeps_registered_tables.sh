#!/usr/bin/env bash
# DuckDB 2.0.0: what is registered, read by a statement of a transaction and unregistered again stays in
# memory until that transaction ends. A program that inserts in batches, so as to hold one at a
# time, holds all of them; outside of a transaction each is let go at once.
# Exits with 1 once they are let go within a transaction, too.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check "duckdb==2.0.0" numpy==2.3.5
"$folder/venv/bin/python" - <<'PY'
import gc
import weakref

import duckdb
import numpy as np

print("duckdb", duckdb.__version__)


def kept_of(batches: int, connection: duckdb.DuckDBPyConnection) -> int:
    """Insert batches of texts one after another; return how many of them are still in memory."""
    held = []
    for i in range(batches):
        texts = np.array([f"text {i} {j}" for j in range(1000)], dtype=object)
        connection.register("batch", {"text": texts})
        connection.execute("insert into kept select * from batch")
        connection.unregister("batch")
        held.append(weakref.ref(texts))
        del texts
        gc.collect()
    return sum(one() is not None for one in held)


connection = duckdb.connect()
connection.execute("create table kept (text varchar)")
outside = kept_of(5, connection)
connection.begin()
inside = kept_of(5, connection)
connection.commit()
print(f"of 5 batches in memory: {outside} outside of a transaction, {inside} within one")
if (outside, inside) != (0, 5):
    raise SystemExit("that has changed")
PY
