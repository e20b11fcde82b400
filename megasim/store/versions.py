"""Rows that an older version of an algorithm made are never taken beside those of this one.

Who reads does not see them: temporary views of the connection stand before the tables. Who writes
drops what can be computed again: sums, estimates, and distances of an older metric; their pairs are
open again. Fingerprints of an older version stay until their files are read again, and take part
in no pair until then.
"""

from __future__ import annotations

from pathlib import Path

import duckdb

from megasim.errors import StoreTooNewError, printable
from megasim.store.statements import named_statements, statement

_HIDING = "hide_old_"


def leave_old_rows_out(
    con: duckdb.DuckDBPyConnection, path: Path | str, mode: str
) -> tuple[str, ...]:
    """Leave the rows of older versions out of all that a connection says; return notes of it.

    Costs some milliseconds where there are none.

    Raises:
        StoreTooNewError: some rows are of a version to come.
    """
    tiers = _of_tiers(con)
    if con.execute(statement("has_other_versions")).fetchall() == [(False,)]:
        return tiers
    found = con.execute(statement("rows_of_other_versions")).fetchall()
    models, names, distances, pairs, renames, estimates, newer = found[0]
    if newer:
        raise StoreTooNewError(
            f"{printable(path)} holds fingerprints or distances of a version that this megasim "
            "does not know",
            "use the newer megasim that made them",
        )
    notes = []
    if models:
        some = ", ".join(printable(name, 80) for name in names) + (", …" if models > 3 else "")
        notes.append(
            f"{models} model{'s are' if models > 1 else ' is'} left out of every comparison "
            f"({some}): the fingerprints are of another version, or were found wrong; `megasim "
            "ingest` of the files reads them again"
        )
    if distances or pairs:
        notes.append(
            f"{distances:,} distances and {pairs:,} pairs of an older version are left out: "
            "`megasim compare` computes them again"
        )
    if estimates:
        notes.append(
            f"{estimates:,} estimates of an older version are left out: `megasim matrix "
            "--estimate` makes them again"
        )
    # said, and nothing is left out: what was found then holds, and less was sought
    said = []
    if renames:
        said.append(
            f"{renames:,} pairs were aligned by an older search: `megasim compare` seeks renames "
            "again"
        )
    said += tiers
    if not notes:
        return tuple(said)
    if mode == "read":
        (name,) = con.execute(statement("name_of_store")).fetchall()[0]
        quoted = '"' + str(name).replace('"', '""') + '"'
        for hiding, view in named_statements("versions.sql").items():
            if hiding.startswith(_HIDING):
                con.execute(view.replace("{store}", quoted))
    else:
        con.begin()
        con.execute(statement("drop_old_rows"))
        con.commit()
    return tuple(notes + said)


def _of_tiers(con: duckdb.DuckDBPyConnection) -> tuple[str, ...]:
    """Say which models were not read in full: whatever is said of them is less, or an estimate."""
    notes = []
    for tier, count, names in con.execute(statement("models_by_tier")).fetchall():
        some = ", ".join(printable(name, 80) for name in names) + (", …" if count > 3 else "")
        means = {
            "header": "keys and shapes are known of it, no values",
            "sample": "its distances are estimates, and equal means equal in what was read",
        }[tier]
        models = "1 model was" if count == 1 else f"{count:,} models were"
        means = means.replace("its", "their").replace("of it", "of them") if count > 1 else means
        notes.append(f"{models} read as a {tier} ({some}): {means}")
    return tuple(notes)
