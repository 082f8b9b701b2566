"""What a benchmark is asked for, and the command line that asks the same."""

from __future__ import annotations

import os
import shlex
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from ropeexport.bench.contenders import BY_NAME, CONTENDERS, GROUPS
from ropeexport.errors import UsageError
from ropeexport.runners.registry import Device

if TYPE_CHECKING:
    from ropeexport.models.sources import Module

ALWAYS = ("eager", "ropeexport")  # the reference of the check, and what is measured


@dataclass(frozen=True)
class Options:
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
        """Return the command line that runs it again, or the call with what the caller holds."""
        if self.module is not None and not isinstance(self.module, str):
            return self._call(folder)
        words = ["ropeexport", "bench", str(folder)]
        words += [] if self.device is None else ["--device", self.device]
        words += ["--against", ",".join(self.against)]
        if self.lengths:
            words += ["--lengths", ",".join(map(str, self.lengths))]
        for name in ("rounds", "repeats", "threads", "seed", "module"):
            value = getattr(self, name)
            words += [] if value is None else [f"--{name}", str(value)]
        return shlex.join(words)

    def _call(self, folder: Path) -> str:
        names = ("device", "against", "lengths", "rounds", "repeats", "threads", "seed")
        given = {name: getattr(self, name) for name in names}
        words = [f"{name}={value!r}" for name, value in given.items() if value not in (None, ())]
        held = f"module={type(self.module).__name__}(...)"
        return f"ropeexport.bench({', '.join([repr(str(folder)), held, *words])})"
