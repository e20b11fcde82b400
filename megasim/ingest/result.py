"""What became of the paths that were ingested."""

from __future__ import annotations

from dataclasses import dataclass, field

from megasim.errors import ForeignFileError, MegasimError


@dataclass
class IngestResult:
    """What became of each path: names of models, and what could not be read.

    `known` models were not read again; `moved` ones only got their new path; `copied` ones are
    second copies of a known file and were not read either. Files of another kind that a folder
    held beside checkpoints are `passed_over`. Of `raised` ones more was read than before.
    """

    added: list[str] = field(default_factory=list)
    replaced: list[str] = field(default_factory=list)
    raised: list[str] = field(default_factory=list)
    known: list[str] = field(default_factory=list)
    moved: list[str] = field(default_factory=list)
    copied: list[str] = field(default_factory=list)
    failed: list[MegasimError] = field(default_factory=list)
    passed_over: list[ForeignFileError] = field(default_factory=list)
    bytes_read: int = 0

    def to_json(self) -> dict[str, object]:
        """Return plain lists and numbers."""
        return {
            "added": self.added,
            "replaced": self.replaced,
            "raised": self.raised,
            "known": self.known,
            "moved": self.moved,
            "copied": self.copied,
            "failed": [error.message for error in self.failed],
            "passed_over": [error.message for error in self.passed_over],
            "bytes_read": self.bytes_read,
        }
