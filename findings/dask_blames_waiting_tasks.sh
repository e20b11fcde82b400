#!/usr/bin/env bash
# distributed 2026.8.0: a task that never began is reported as one that killed its workers. A worker is
# given more tasks than it has threads (worker-saturation 1.1, rounded up), and when it dies, each task
# that waits at it is blamed like the one that ran. After three workers KilledWorker is raised for both,
# and says of the innocent one that "all those workers died while running it". With a saturation of
# 1.0 only the task that ran is blamed.
# Exits with 1 once a task that never began is not blamed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check "distributed==2026.8.0" "dask==2026.8.0"
cat > "$folder/blame.py" <<'PY'
import os
import sys
import tempfile
import time
from pathlib import Path

import dask
import distributed


def deadly():
    time.sleep(1)
    os._exit(1)


def harmless(path):
    Path(path).write_text("began")
    return "done"


def blamed(saturation):
    """Whether a harmless task that waits beside a deadly one is blamed, and whether it began."""
    settings = {
        "distributed.scheduler.allowed-failures": 2,
        "distributed.scheduler.worker-saturation": saturation,
    }
    path = Path(tempfile.mkdtemp()) / "began"
    with (
        dask.config.set(settings),
        distributed.LocalCluster(
            n_workers=1, threads_per_worker=1, host="127.0.0.1",
            dashboard_address="127.0.0.1:0", silence_logs="CRITICAL",
        ) as cluster,
        distributed.Client(cluster) as client,
    ):
        first = client.submit(deadly, pure=False, priority=1)
        time.sleep(0.3)
        second = client.submit(harmless, str(path), pure=False)
        for future in (first, second):
            distributed.wait([future], timeout=60)
        error = second.exception()
        print(f"saturation {saturation}: {first.status}, {second.status}; began: {path.exists()}")
        if error is not None:
            print(f"  {type(error).__name__}: {str(error)[:150]}")
        return isinstance(error, distributed.KilledWorker), path.exists()


if __name__ == "__main__":
    print("distributed", distributed.__version__)
    usual, alone = blamed(1.1), blamed(1.0)
    sys.exit(0 if usual == (True, False) and alone == (False, True) else 1)
PY
"$folder/venv/bin/python" "$folder/blame.py"
