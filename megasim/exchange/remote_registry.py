"""A registry of known files under an address, of which only what is asked for is fetched."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from megasim.checkpoint.range_reads import RemoteFile
from megasim.errors import CheckpointError, printable, require_extra


def fetch_known(registry: Path, sought: Mapping[str, Iterable[str]], target: Path) -> None:
    """Write the rows of a registry that hold one of some hashes to a registry on this machine.

    Of each column of hashes, only those groups of rows are fetched whose least and greatest value
    let a hash be there: of registries of version 2, in which each is in order, one group or two.
    All other columns are fetched for the groups in which one was found.

    Args:
        registry: the address of a Parquet file.
        sought: the hashes, by the name of their column.
        target: is written with the columns and the metadata of the registry.

    Raises:
        MissingExtraError: what reads it is not installed.
        CheckpointError: it cannot be read, or is no Parquet file.
    """
    require_extra("s3", f"reading {printable(registry)}")
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    try:
        with registry.open("rb") as opened:
            assert isinstance(opened.raw, RemoteFile)
            opened.raw.small_as_a_whole = False
            file = pq.ParquetFile(pa.PythonFile(opened, mode="r"), pre_buffer=False)
            found = []
            wanted = {name: sorted(set(hashes)) for name, hashes in sought.items()}
            for group in range(file.metadata.num_row_groups):
                parts = [
                    pc.fill_null(pc.is_in(column, pa.array(likely, pa.string())), False)
                    for name, hashes in wanted.items()
                    if (likely := _may_hold(file, group, name, hashes))
                    for column in file.read_row_group(group, columns=[name]).columns
                ]
                hits = [part for part in parts if pc.any(part).as_py()]
                if hits:
                    mask = hits[0]
                    for hit in hits[1:]:
                        mask = pc.or_(mask, hit)
                    found.append(file.read_row_group(group).filter(mask))
            words = file.schema_arrow.metadata or file.metadata.metadata
            schema = file.schema_arrow.with_metadata(words)
            table = pa.concat_tables(found) if found else schema.empty_table()
            pq.write_table(table.replace_schema_metadata(words), target)
    except (pa.ArrowException, OSError) as error:
        why = error.strerror if isinstance(error, OSError) and error.strerror else "no Parquet file"
        raise CheckpointError(
            registry, f"cannot be read: {printable(why)}", "check the address"
        ) from None


def _may_hold(file: Any, group: int, name: str, hashes: list[str]) -> list[str]:
    """Return those of some hashes that a column may hold in a group of rows."""
    names = file.schema_arrow.names
    if name not in names:
        return []
    rows = file.metadata.row_group(group)
    statistics = rows.column(names.index(name)).statistics
    if statistics is None:
        return hashes
    if statistics.has_null_count and statistics.null_count == rows.num_rows:
        return []
    if not statistics.has_min_max:
        return hashes
    # a text is a lower bound where it was cut short, and an upper one where it was raised
    return [value for value in hashes if statistics.min <= value <= statistics.max]
