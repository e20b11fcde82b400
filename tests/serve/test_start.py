"""What has to be imported before the service answers: what takes long is imported beside it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("fastapi", reason="the extra serve is missing")

# Each takes a tenth of a second or more, and is needed for pictures, tables or jobs alone.
SLOW = {
    *("pandas", "matplotlib", "scipy", "sklearn", "seaborn", "networkx", "numba", "bokeh"),
    *("pyarrow", "torch", "dask", "httpx", "gguf"),
}
# All that the process does which listens, before it says its address.
START = """
import sys
from pathlib import Path
import megasim.commands.serve
from megasim.serve import running
from megasim.serve.app import app_of
from megasim.serve.service import Service
from megasim.serve.settings import Settings
from megasim.store.owner import StoreOwner

class Apart:
    def make(self, path):
        return False

path = Path(sys.argv[1])
service = Service(Settings(path), StoreOwner(path))
app_of(service, Apart())
service.close()
print(*sorted({name.partition(".")[0] for name in sys.modules}))
print(len(sys.modules))
"""


def test_the_service_answers_before_what_takes_long_is_imported(
    tmp_path: Path,
) -> None:
    import megasim

    path = tmp_path / "s.duckdb"
    megasim.open_store(path).close()
    told = subprocess.run(
        [sys.executable, "-c", START, str(path)], capture_output=True, text=True, check=True
    ).stdout.splitlines()
    assert SLOW & set(told[0].split()) == set()
    assert int(told[1]) < 1_200  # 750 when this was written
