"""The file that a machine writes of its part of a shared job: what it says of itself, checked.

A shard is Parquet with a few words beside it: of what kind and which part of which job it is, and
the versions of what is in it. It is a claim of whoever wrote it: that it is whole and well-formed,
and that its numbers agree with each other, is checked.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import duckdb

from megasim.compare.pairs import METRIC_VERSION
from megasim.errors import CheckpointError, MegasimError, printable
from megasim.fingerprint.folded import FOLD_VERSION
from megasim.fingerprint.tensor import FINGERPRINT_VERSION
from megasim.ingest.shares import Shard, parse_shard
from megasim.store.connection import migrations
from megasim.store.rows import Store

FORMAT_VERSION = 1
INGEST, COMPARE = "ingest", "compare"
_REMEDY = "run that part of the job again, and import what it writes"
# Of whatever is in a shard: a shard of another version is refused.
_VERSIONS = f"{FINGERPRINT_VERSION} {FOLD_VERSION} {METRIC_VERSION}"


@dataclass(frozen=True)
class ShardFile:
    """What the file of a shard says of itself.

    Attributes:
        kind: "ingest" or "compare". job: 64 hex digits, the same for all parts of one job.
        shard: which part it is.
        said: all that it says.
    """

    path: Path
    kind: str
    job: str
    shard: Shard
    said: Mapping[str, str]

    def number(self, word: str, most: int) -> int:
        """Return a number that the file says of itself, 1 to `most`.

        Raises:
            CheckpointError: it says none, or another.
        """
        text = self.said.get(word, "")
        if not (text.isdecimal() and len(text) < 12 and 1 <= int(text) <= most):
            raise self.refused(f"its {word} cannot be {printable(text, 20)!r}")
        return int(text)

    def refused(self, problem: str, remedy: str = _REMEDY) -> CheckpointError:
        """Return the error that says why nothing of the shard is taken in."""
        return CheckpointError(self.path, problem, remedy)


def shard_words(kind: str, job: str, shard: Shard) -> dict[str, str]:
    """Return what the file of a shard says of itself, as the statements that write one take it."""
    return {
        "kind": kind,
        "format_version": str(FORMAT_VERSION),
        "schema_version": str(migrations()[-1][0]),
        "job": job,
        "part": str(shard.part),
        "parts": str(shard.parts),
        "versions": _VERSIONS,
    }


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Say of a file that it cannot be read, where the database finds so.

    Raises:
        CheckpointError: it is cut short, or no Parquet file.
    """
    try:
        yield
    except (duckdb.IOException, duckdb.InvalidInputException, duckdb.ConversionException) as error:
        problem = printable(str(error).splitlines()[0])
        raise CheckpointError(
            path, f"cut short, or not a Parquet file: {problem}", _REMEDY
        ) from None


def words_of(store: Store, path: Path) -> dict[str, str]:
    """Return the words beside a Parquet file.

    Raises:
        CheckpointError: there is none, or it cannot be read.
    """
    if not path.is_file():
        raise CheckpointError(path, "there is no such file", "check the path")
    with reading(path):
        return {str(k): str(v) for k, v in store.rows("fingerprint_file_versions", path=str(path))}


def open_shard(path: Path, words: Mapping[str, str]) -> ShardFile:
    """Return what a shard says of itself.

    Args:
        words: those beside the file.

    Raises:
        CheckpointError: it is of another version, or says what cannot be.
    """
    kind = words.get("megasim_shard", "")
    try:
        shard = parse_shard(f"{words.get('part')}/{words.get('parts')}")
    except MegasimError:
        raise CheckpointError(path, "it does not say which part it is", _REMEDY) from None
    ours = (FORMAT_VERSION, migrations()[-1][0], _VERSIONS)
    theirs = (words.get("format"), words.get("schema"), words.get("versions"))
    job = words.get("job", "")
    if kind not in (INGEST, COMPARE) or len(job) != 64:
        raise CheckpointError(path, "not a shard that megasim wrote", _REMEDY)
    if tuple(map(str, ours)) != theirs:
        raise CheckpointError(
            path, "it was written by another version of megasim", "use one version on all machines"
        )
    return ShardFile(path, kind, job, shard, dict(words))
