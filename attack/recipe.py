"""A broken input as a small record: a command, the good files it starts from, and edits of them."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Edit:
    """A change of one file: ``how`` is a row of :data:`attack.edits.EDITS`.

    ``at`` chooses the place among those that there are, ``value`` is what is put there.
    """

    file: str
    how: str
    at: int = 0
    value: Any = None


@dataclass(frozen=True)
class Recipe:
    """A command line over changed files; ``bases`` are folders of :mod:`attack.bases`."""

    part: str
    argv: tuple[str, ...]
    bases: tuple[str, ...] = ()
    edits: tuple[Edit, ...] = ()
    # hashes in the manifest are mended, so that a change of a file is not all that is found
    rehash: bool = False
    deadline: float = 20.0

    @property
    def verb(self) -> str:
        """The verb, with what makes another of it."""
        forms = ("--lint", "--locate", "--html", "--markdown", "--junit", "--json")
        return " ".join([*self.argv[:1], *(form for form in forms if form in self.argv)])

    def text(self) -> str:
        """Return it as JSON."""
        return json.dumps(asdict(self), indent=1)


def read(text: str) -> Recipe:
    """Return the recipe of a JSON text."""
    fields = json.loads(text)
    edits = tuple(Edit(**edit) for edit in fields.pop("edits"))
    fields |= {name: tuple(fields[name]) for name in ("argv", "bases")}
    return Recipe(**fields, edits=edits)
