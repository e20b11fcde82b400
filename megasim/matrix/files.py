"""Distance matrices into files: CSV, Parquet, JSON, NumPy."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pandas as pd

from megasim.errors import UsageError, printable
from megasim.matrix.distance_matrix import DistanceMatrix
from megasim.output_files import parquet_file, replaced_file, write_file
from megasim.wording.sentences import number_or_none

MATRIX_ENDINGS = (".csv", ".parquet", ".json", ".npz")


def matrix_to_long(matrix: DistanceMatrix) -> pd.DataFrame:
    """Return one row for each pair: model_a, model_b, value, source, error, and what it covers.

    >>> m = DistanceMatrix.from_values(["a", "b"], [[0, 2], [2, 0]])
    >>> matrix_to_long(m)[["model_a", "model_b", "l2", "source"]].values.tolist()
    [['a', 'b', 2.0, 'exact']]
    """
    i, j = np.triu_indices(len(matrix.models), 1)
    names = np.array(matrix.models, dtype=object)
    return pd.DataFrame(
        {
            "model_a": names[i],
            "model_b": names[j],
            "component": matrix.component,
            matrix.metric: matrix.values[i, j],
            "source": [source or None for source in matrix.sources[i, j].tolist()],
            "error": matrix.errors[i, j],
            "keys_compared": matrix.keys_compared[i, j],
            "coverage": matrix.coverage[i, j],
        }
    )


def matrix_to_square(matrix: DistanceMatrix) -> pd.DataFrame:
    """Return one row for each model: its name in the column "model", then its values.

    A model may be called "model", too: then two columns are.
    """
    frame = matrix.to_frame().reset_index(drop=True)
    frame.insert(0, "model", list(matrix.models), allow_duplicates=True)
    return frame


def matrix_to_json(matrix: DistanceMatrix) -> dict[str, Any]:
    """Return everything a matrix holds as lists, null where missing."""

    def plain(values: np.ndarray[Any, Any]) -> list[list[Any]]:
        return [[number_or_none(v) for v in row] for row in values.tolist()]

    return {
        "component": matrix.component,
        "metric": matrix.metric,
        "models": list(matrix.models),
        "values": plain(matrix.values),
        "sources": matrix.sources.tolist(),
        "errors": plain(matrix.errors),
        "keys_compared": matrix.keys_compared.tolist(),
        "coverage": plain(matrix.coverage),
    }


def write_matrix(matrix: DistanceMatrix, path: Path, *, long: bool = False) -> bool:
    """Write a matrix; the ending of `path` decides the form. Return whether it is in long form.

    CSV and Parquet hold the square of values, or one row a pair when `long`. They are long of
    themselves when a value is not exact, so that no estimate goes unmarked; Parquet also when
    names cannot be columns, as those that differ in case alone. JSON and .npz hold everything:
    values, sources, errors, keys compared and coverage.

    Raises:
        UsageError: another ending.
    """
    ending = path.suffix.lower()
    if ending not in MATRIX_ENDINGS:
        raise UsageError(
            f"a matrix cannot be written as {printable(path.name)}",
            f"the file name must end in one of {', '.join(MATRIX_ENDINGS)}",
        )
    if ending == ".json":
        write_file(path, json.dumps(matrix_to_json(matrix), indent=1) + "\n")
        return False
    if ending == ".npz":
        with replaced_file(path) as here, here.open("wb") as file:
            np.savez_compressed(
                file,
                models=np.array(matrix.models),
                values=matrix.values,
                sources=matrix.sources,
                errors=matrix.errors,
                keys_compared=matrix.keys_compared,
                coverage=matrix.coverage,
                component=np.array(matrix.component),
                metric=np.array(matrix.metric),
            )
        return False
    off = ~np.eye(len(matrix.models), dtype=bool) & ~np.isnan(matrix.values)
    long = long or bool((matrix.sources[off] != "exact").any())
    if ending == ".parquet":  # its readers may take columns regardless of case
        names = {"", "model", *(name.casefold() for name in matrix.models)}
        long = long or len(names) < len(matrix.models) + 2
    frame = matrix_to_long(matrix) if long else matrix_to_square(matrix)
    if ending == ".csv":
        write_file(path, frame.to_csv(index=False, lineterminator="\n"))
    else:
        with parquet_file(path) as here:
            duckdb.from_df(frame).write_parquet(str(here))
    return long
