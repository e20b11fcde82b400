"""What a file is: its hashes, and the known files that are the same. No store is needed."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

from megasim.checkpoint.locations import located
from megasim.progress import NO_PROGRESS, Progress
from megasim.workspace.jobs import usable_cores

if TYPE_CHECKING:
    from megasim.exchange.known_files import Identification


def identify(
    *paths: Path | str,
    against: Path | str | None = None,
    output: Path | str | None = None,
    workers: int | None = None,
    progress: Progress = NO_PROGRESS,
) -> Identification:
    """Return the hashes of checkpoints, and which known files they are. See `identify_files`.

    Args:
        paths: files, or folders; all checkpoints of a folder that holds several.
        against: a registry of known files, or its address.
        output: where to write a registry of these files.
    """
    from megasim.checkpoint.opening import find_checkpoints
    from megasim.exchange.known_files import identify_files

    found = list(dict.fromkeys(p for path in paths for p in find_checkpoints(path)))
    with ThreadPoolExecutor(workers or usable_cores()) as executor:
        return identify_files(
            found,
            executor=executor,
            against=None if against is None else located(against),
            output=None if output is None else Path(output),
            progress=progress,
        )
