"""What a store suffers from, what was repaired, and what has to be done by whom."""

from __future__ import annotations

from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Any

from megasim.doctor.checks import CHECKS, Fault, find_faults
from megasim.doctor.files import FileFault, check_files
from megasim.doctor.repair import repair
from megasim.fingerprint.tensor import FINGERPRINT_VERSION
from megasim.progress import NO_PROGRESS, Progress
from megasim.store.rows import Store


@dataclass(frozen=True)
class Diagnosis:
    """The faults of a store, and what is no fault but should be known.

    Attributes:
        checks: how many checks ran over the rows.
        faults: what is wrong with the rows.
        files: models whose files say something else; None where they were not read.
        repaired: whether the faults were repaired, as far as that can be.
        remaining: of a repaired store, what is wrong still.
        notes: what is no damage: rows of older versions, contents that no model holds, models to
            be read again.
    """

    checks: int
    faults: tuple[Fault, ...]
    files: tuple[FileFault, ...] | None
    repaired: bool
    remaining: tuple[Fault, ...]
    notes: tuple[str, ...]

    @property
    def is_sound(self) -> bool:
        """Whether nothing is wrong, or not any more."""
        if self.repaired:
            return not self.remaining
        return not self.faults and not any(file.is_damage for file in self.files or ())

    def to_json(self) -> dict[str, Any]:
        """Return what `megasim doctor --json` promises."""
        return {
            "is_sound": self.is_sound,
            "checks": self.checks,
            "faults": [fault.to_json() for fault in self.faults],
            "files": None if self.files is None else [file.to_json() for file in self.files],
            "repaired": self.repaired,
            "remaining": [fault.to_json() for fault in self.remaining],
            "notes": list(self.notes),
        }


def examine(
    store: Store,
    *,
    executor: Executor,
    files: bool = False,
    mend: bool = False,
    progress: Progress = NO_PROGRESS,
) -> Diagnosis:
    """Check a store, and repair it where asked for.

    Args:
        executor: fingerprints the files, where they are read.
        files: whether to read every file again, and hold its hashes against the store.
        mend: whether to repair; the store must be open to write.
    """
    faults = find_faults(store, progress=progress)
    checked = None
    if files:
        checked = tuple(check_files(store, executor=executor, progress=progress))
    remaining: list[Fault] = []
    if mend:
        wrong = [id_ for file in checked or () for id_ in file.contents]
        against_files = Fault(
            "contents_that_were_altered",
            tuple(f"content {id_}: not that of its file" for id_ in wrong),
            tuple((id_, None) for id_ in wrong),
        )
        repair(store, [*faults, *([against_files] if wrong else [])], progress=progress)
        remaining = find_faults(store, progress=progress)
    return Diagnosis(
        checks=len(CHECKS),
        faults=tuple(faults),
        files=checked,
        repaired=mend,
        remaining=tuple(remaining),
        notes=tuple(_notes(store)),
    )


def _notes(store: Store) -> list[str]:
    return [checked for (checked,) in store.rows("doctor_notes", version=FINGERPRINT_VERSION)]
