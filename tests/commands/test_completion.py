"""What the shell completes, in a process as a shell starts it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.small_sd import UNET, compared_store, small_sd, trained


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    base = small_sd()
    models = {"base": base, "mix-a": trained(base, 1, UNET), "mix-b": trained(base, 2, UNET)}
    return compared_store(tmp_path_factory.mktemp("completion"), models)


def completed(words: str, incomplete: str, store: Path) -> list[str]:
    """Return what bash would be offered for the word that is being typed."""
    typed = [*words.split(), incomplete]
    done = subprocess.run(
        [sys.executable, "-m", "megasim.cli"],
        env={
            **os.environ,
            "MEGASIM_DB": str(store),
            "_MEGASIM_COMPLETE": "bash_complete",
            "COMP_WORDS": " ".join(typed),
            "COMP_CWORD": str(len(typed) - 1),
        },
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stderr == ""
    return [line.partition(",")[2] for line in done.stdout.splitlines() if line]


def test_commands_models_and_components_are_completed(store: Path) -> None:
    before = store.read_bytes()
    assert completed("megasim", "re", store) == ["recipe", "report"]
    assert completed("megasim recipe", "mix", store) == ["mix-a", "mix-b"]
    assert completed("megasim matrix --models", "base,mix-a,mix-", store) == [
        "base,mix-a,mix-a",
        "base,mix-a,mix-b",
    ]
    assert "vae_decoder" in completed("megasim matrix -c", "v", store)
    assert completed(f"megasim --db {store} findings base", "mix-b", Path("none")) == ["mix-b"]
    assert store.read_bytes() == before


def test_where_there_is_no_store_nothing_is_completed_or_made(tmp_path: Path) -> None:
    assert completed("megasim recipe", "mix", tmp_path / "none.duckdb") == []
    assert not list(tmp_path.iterdir())
