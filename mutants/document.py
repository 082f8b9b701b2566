"""The catalogue as a document, ``docs/faults.md``."""

from __future__ import annotations

from pathlib import Path

from mutants.trial import Outcome


def write(path: Path, outcomes: list[Outcome]) -> None: ...
