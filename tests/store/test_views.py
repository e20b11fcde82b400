"""The views' columns are a promise, and each says what it means."""

from __future__ import annotations

from pathlib import Path

import pytest

from megasim.store.rows import Store

PROMISED = {
    "models": [
        *("name", "source", "family", "variant", "layout", "format", "path", "bytes", "keys"),
        *("parameters", "components", "dtypes", "epoch", "global_step", "metadata", "skipped"),
        *("ingested_at", "part", "part_role", "file_model", "unread", "fingerprint_version"),
        *("beside", "tier", "sampled"),
    ],
    "layers": [
        *("model", "key", "canonical_key", "component", "block", "role", "dtype", "shape"),
        *("numel", "l1", "l2", "linf", "mean", "std", "kurtosis", "zeros", "nans", "infs"),
        *("is_constant", "content_hash", "value_hash", "fp16_hash", "bf16_hash"),
        *("nature", "representation"),
    ],
    "layer_distances": [
        *("model_a", "model_b", "canonical_key", "key_a", "key_b", "component", "block", "role"),
        *("status", "numel", "l0", "l1", "l2", "linf", "cossim", "source", "origin"),
        "nature",
    ],
    "component_distances": [
        *("model_a", "model_b", "component", "source", "origin", "unproven", "keys_compared"),
        *("identical", "same_values", "same_at_fp16", "same_at_bf16", "changed", "renamed"),
        *("missing_a", "missing_b", "shape_mismatch", "non_finite"),
        *("l0", "l1", "l2", "linf", "cossim", "l2_error", "coverage"),
        *("keys_measured", "same_in_sample", "keys_unread"),
    ],
}


@pytest.mark.parametrize("view", PROMISED)
def test_columns_and_their_comments(tmp_path: Path, view: str) -> None:
    with Store(tmp_path / "s.duckdb", "write") as store:
        columns = store.connection.execute(
            "select column_name, comment from duckdb_columns() "
            "where table_name = $1 order by column_index",
            [view],
        ).fetchall()
        comment = store.connection.execute(
            "select comment from duckdb_views() where view_name = $1", [view]
        ).fetchone()
    assert [name for name, _ in columns] == PROMISED[view]
    assert [name for name, text in columns if not text] == []
    assert comment[0]
