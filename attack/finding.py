"""What is counted of an input, and what was found with it."""

from __future__ import annotations

from dataclasses import dataclass

from attack.recipe import Recipe

KINDS = (
    "traceback", "hang", "memory", "crash", "leftover", "slow", "escape", "contradiction", "ran",
)  # fmt: skip


@dataclass(frozen=True)
class Finding:
    """One fault: its kind, what it was, and the way to it."""

    kind: str
    text: str
    how: str
    bases: tuple[str, ...] = ()
    recipe: Recipe | None = None


@dataclass(frozen=True)
class Tally:
    """One input, by its part and verb."""

    part: str
    verb: str
    parsed: bool
    findings: tuple[Finding, ...] = ()
    note: str = ""
