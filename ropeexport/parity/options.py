"""What a parity run is asked for, and the command line that asks the same."""

from __future__ import annotations

import shlex
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from ropeexport.errors import UsageError
from ropeexport.parity import tolerance

T = TypeVar("T")


def several(what: str, given: T | Iterable[T], kind: type[T]) -> tuple[T, ...]:
    """Return what is given as a tuple; a single name, or number, stands for itself.

    Examples
    --------
    >>> several("runtimes", "onnxruntime", str), several("lengths", [8, 16], int)
    (('onnxruntime',), (8, 16))
    """
    if isinstance(given, kind):
        return (given,)
    if not isinstance(given, Iterable) or isinstance(given, str):
        raise UsageError(f"{what}: expected a sequence of {kind.__name__}, got {given!r}")
    return tuple(given)


@dataclass(frozen=True)
class Options:
    """What a run is asked for, see :func:`ropeexport.parity.check.check`."""

    seed: int = 0
    count: int | None = None
    lengths: tuple[int, ...] = ()
    atol: float | None = None
    rtol: float | None = None
    runtimes: tuple[str, ...] = ()  # by name, see ropeexport.runners.registry; none: all of them
    required: tuple[str, ...] = ()  # those that take part whatever else was chosen

    @property
    def override(self) -> tolerance.Bound | None:
        """The user's own bound, if one was given."""
        if self.atol is None and self.rtol is None:
            return None
        return tolerance.override(self.atol or 0.0, self.rtol or 0.0)

    def command(self, *paths: Path, module: object = None) -> str:
        """Return the command line that makes the report again, or the call with a held module."""
        given = {
            "module": module if isinstance(module, str) else None,
            "seed": self.seed,
            "cases": self.count,
            "lengths": ",".join(map(str, self.lengths)) or None,
            "atol": self.atol,
            "rtol": self.rtol,
        }
        if module is not None and not isinstance(module, str):
            return self._call(paths, module)
        words = ["ropeexport", "check", *map(str, paths)]
        for name, value in given.items():
            words += [] if value is None else [f"--{name}", str(value)]
        for option, names in (("--runtime", self.runtimes), ("--require", self.required)):
            words += [word for name in names for word in (option, name)]
        return shlex.join(words)

    def _call(self, paths: tuple[Path, ...], module: object) -> str:
        held = {"cases": self.count, "lengths": self.lengths, "atol": self.atol, "rtol": self.rtol}
        given = [f"{name}={value!r}" for name, value in held.items() if value not in (None, ())]
        words = [*(repr(str(path)) for path in paths), f"module={type(module).__name__}(...)"]
        return f"ropeexport.check({', '.join([*words, f'seed={self.seed}', *given])})"
