"""In a notebook: a store opens with and without ipywidgets, and answers show themselves."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.answers.notebooks import executed
from tests.exchange.merged_models import sd_store


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return sd_store(tmp_path_factory.mktemp("notebook")).parent


@pytest.mark.parametrize("widgets", [True, False], ids=["ipywidgets", "no-ipywidgets"])
def test_a_store_opens_in_a_kernel(folder: Path, widgets: bool) -> None:
    (opened,) = executed(
        ["import megasim\nstore = megasim.open_store('s.duckdb')\nlen(store.models())"],
        folder,
        widgets=widgets,
    )
    assert opened[-1]["data"]["text/plain"] == "5"
