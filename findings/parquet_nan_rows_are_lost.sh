#!/usr/bin/env bash
# DuckDB 2.0.0 and pyarrow 24.0.0: a Parquet file with NaN gives other answers by who wrote it. To
# DuckDB NaN is larger than all numbers, so `x > 5` takes its row from a table and from its own files.
# pyarrow leaves NaN out of the statistics of a row group, as the format asks, and DuckDB passes
# over a row group by them: the row is lost, without a word, for `>` and `=`, and found without a
# condition.
# Exits with 1 once all agree.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
    "duckdb==2.0.0" "pyarrow==24.0.0" "numpy==2.3.5"
cd "$folder"
"$folder/venv/bin/python" - <<'PY'
import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

print("duckdb", duckdb.__version__, "pyarrow", pa.__version__)
rows = pa.table({"name": ["a", "b", "c"], "x": [1.0, 2.0, float("nan")]})
pq.write_table(rows, "of_pyarrow.parquet")
connection = duckdb.connect()
connection.register("given", rows)
connection.execute("create table kept as select * from given")
connection.execute("copy kept to 'of_duckdb.parquet' (format parquet)")
found = {}
for where in ("kept", "'of_duckdb.parquet'", "'of_pyarrow.parquet'"):
    for condition in ("true", "x > 5", "x = 'nan'::double", "not x <= 5"):
        names = connection.sql(f"select name from {where} where {condition}").fetchall()
        found[where, condition] = "".join(name for (name,) in names)
        print(f"{where:22} where {condition:20} {found[where, condition] or 'nothing'}")
sound = ["abc", "c", "c", "c"]
given = list(found.values())
if given[:8] != sound * 2 or given[8:] == sound:
    raise SystemExit("that has changed")
if found["'of_pyarrow.parquet'", "x > 5"] or found["'of_pyarrow.parquet'", "true"] != "abc":
    raise SystemExit("that has changed")
PY
