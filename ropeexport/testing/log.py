"""What the assertions of this process compared; the pytest plugin takes it from here."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import Literal

Status = Literal["PASS", "FAIL", "EMULATED", "SKIPPED", "NOT_SUPPORTED"]


@dataclass(frozen=True)
class Note:
    """One output that was held to a bound, or one runtime that was not.

    Parameters
    ----------
    name : str
        Of the output; with its runtime where there are several.
    status : str
        As in a parity report.
    share : float
        The error as a share of its bound: at most 1 where it holds.
    text : str
        The error in words, or the reason why nothing ran.
    """

    name: str
    status: Status
    share: float = 0.0
    text: str = ""


_notes: list[Note] = []
_lock = threading.Lock()


def add(*notes: Note) -> None:
    """Keep notes until somebody takes them."""
    with _lock:
        _notes.extend(notes)


def take() -> list[Note]:
    """Return the notes since the last call, and forget them."""
    with _lock:
        taken = list(_notes)
        _notes.clear()
    return taken
