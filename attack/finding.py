"""What is counted of an input, and what was found with it."""

from __future__ import annotations

import re
from dataclasses import dataclass

from attack.recipe import Recipe

KINDS = (
    "traceback", "hang", "memory", "crash", "leftover", "slow", "escape", "contradiction", "ran",
)  # fmt: skip
# faults of the same kind have other numbers and other words of files
_NUMBERS = re.compile(r"\d+(\.\d+)?|'[^']*'|\[.*\]")


@dataclass(frozen=True)
class Finding:
    """One fault: its kind, what it was, and the way to it."""

    kind: str
    text: str
    how: str
    bases: tuple[str, ...] = ()
    recipe: Recipe | None = None

    @property
    def signature(self) -> str:
        """What faults of one cause have in common."""
        if self.recipe is not None and self.kind in ("hang", "memory", "crash", "slow"):
            return f"{self.recipe.verb} {sorted({edit.how for edit in self.recipe.edits})}"
        return _NUMBERS.sub("*", self.text)

    def simpler_than(self, other: Finding) -> bool:
        """Say whether fewer edits lead to it."""
        if self.recipe is None or other.recipe is None:
            return False
        return len(self.recipe.edits) < len(other.recipe.edits)


@dataclass(frozen=True)
class Tally:
    """One input, by its part and verb."""

    part: str
    verb: str
    parsed: bool
    findings: tuple[Finding, ...] = ()
