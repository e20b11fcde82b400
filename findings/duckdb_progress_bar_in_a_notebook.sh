#!/usr/bin/env bash
# DuckDB 2.0.0 in a Jupyter kernel without ipywidgets: to switch the progress bar off is an error, since
# it cannot be drawn. A program that wants no bar expects to be able to say so anywhere.
# Exits with 1 once it can be.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
    "duckdb==2.0.0" nbclient==0.11.0 ipykernel==7.4.0
JUPYTER_DATA_DIR="$folder/jupyter" "$folder/venv/bin/python" - <<'PY'
import nbformat
from nbclient import NotebookClient

CELL = """
import duckdb
print("duckdb", duckdb.__version__)
connection = duckdb.connect()
print("the bar is on:", connection.execute("select current_setting('enable_progress_bar')").fetchone())
try:
    connection.execute("set enable_progress_bar = false")
    print("switched off")
except duckdb.InvalidInputException as error:
    print("InvalidInputException:", error)
"""
notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(CELL)])
NotebookClient(notebook, timeout=120, kernel_name="python3").execute()
told = "".join(output["text"] for output in notebook.cells[0].outputs)
print(told)
if "InvalidInputException" not in told:
    raise SystemExit("it can be switched off now")
PY
