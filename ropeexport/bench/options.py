"""What a benchmark is asked for, and the command line that asks the same."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from ropeexport.bench.contenders import BY_NAME, CONTENDERS, GROUPS
from ropeexport.errors import UsageError
from ropeexport.parity.options import again
from ropeexport.runners.registry import Device

if TYPE_CHECKING:
    from ropeexport.models.sources import Module

ALWAYS = ("eager", "ropeexport")  # the reference of the check, and what is measured


@dataclass(frozen=True)
class BenchOptions:
    """Contenders by name, lengths (none: the profile's optimum), turns and runs in a turn.

    ``device`` is ``cpu`` or ``cuda``; None takes the GPU where torch sees one.
    """

    against: tuple[str, ...] = tuple(contender.name for contender in CONTENDERS)
    lengths: tuple[int, ...] = ()
    rounds: int = 7
    repeats: int = 5
    threads: int = field(default_factory=lambda: os.cpu_count() or 1)
    seed: int = 0
    module: Module | None = None
    device: Device | None = None

    def __post_init__(self) -> None:
        unknown = [name for name in self.against if name not in BY_NAME | GROUPS]
        if unknown:
            raise UsageError(
                f"--against: expected names among {', '.join(BY_NAME | GROUPS)}, "
                f"got {', '.join(unknown)}"
            )

    @property
    def names(self) -> list[str]:
        """The contenders in the order of the table."""
        wanted = {one for name in self.against for one in GROUPS.get(name, (name,))}
        return [name for name in BY_NAME if name in wanted.union(ALWAYS)]

    def command(self, folder: Path) -> str:
        """Return what runs it again, see :func:`ropeexport.parity.options.again`."""
        names = ("device", "against", "lengths", "rounds", "repeats", "threads", "seed")
        given = {name: getattr(self, name) for name in names}
        return again("bench", [folder], self.module, given)
