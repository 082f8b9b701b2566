"""Why a class is not exported as it should be: what a record says, and where that comes from."""

from __future__ import annotations

import re
from dataclasses import dataclass

from benchmarks.models.records import Record


@dataclass(frozen=True)
class Cause:
    """A cause that is known: of records whose fault has these words, of all classes or of some."""

    words: str
    text: str
    classes: tuple[str, ...] = ()

    def fits(self, record: Record) -> bool:
        """Say whether it is the cause of a record's fault."""
        is_named = not self.classes or record.name in self.classes
        return is_named and re.search(self.words, record.fault()) is not None


CAUSES: tuple[Cause, ...] = (
    Cause(
        "cannot be traced",
        "its forward reads the lengths of the captions out of the mask (`tolist`) and builds "
        "Python sets and slices of them: their values are not known while it is traced",
        ("Lumina2Transformer2DModel",),
    ),
)


def cause_of(record: Record) -> Cause | None:
    """Return the cause of a record's fault, None where none is known or where there is no fault."""
    return next((cause for cause in CAUSES if record.fault() and cause.fits(record)), None)
