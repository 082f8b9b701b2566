"""What a parity run is asked for, and the command line that asks the same."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from ropeexport.errors import UsageError
from ropeexport.given import CASES, LENGTHS, WORD, bound_if, whole, whole_if
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
        raise UsageError(
            f"{what}: expected a sequence of {kind.__name__}, got {given!r}", code="RX110"
        )
    return tuple(given)


def lengths_of(given: Iterable[int]) -> tuple[int, ...]:
    """Return lengths of a caller, checked."""
    lengths = tuple(whole("lengths", length, 1) for length in given)
    whole("lengths: how many", len(lengths), 0, LENGTHS)
    return lengths


@dataclass(frozen=True)
class Options:
    """What a run is asked for, see :func:`ropeexport.parity.check.check`."""

    seed: int = 0
    count: int | None = None
    lengths: tuple[int, ...] = ()
    atol: float | None = None
    rtol: float | None = None
    tokens: int | None = None  # of each text that is generated; None: TOKENS
    runtimes: tuple[str, ...] = ()  # by name, see ropeexport.runners.registry; none: all of them
    required: tuple[str, ...] = ()  # those that take part whatever else was chosen

    def __post_init__(self) -> None:
        checked = {
            "seed": whole("seed", self.seed, 0, WORD),
            "count": whole_if("cases", self.count, 1, CASES),
            "lengths": lengths_of(self.lengths),
            "atol": bound_if("atol", self.atol),
            "rtol": bound_if("rtol", self.rtol),
            "tokens": whole_if("tokens", self.tokens, 1),
        }
        for name, value in checked.items():
            object.__setattr__(self, name, value)

    @property
    def override(self) -> tolerance.Bound | None:
        """The user's own bound, if one was given."""
        if self.atol is None and self.rtol is None:
            return None
        return tolerance.override(self.atol or 0.0, self.rtol or 0.0)

    @property
    def asks_for_cases(self) -> bool:
        """Whether cases are asked for by their number, or by lengths."""
        return self.count is not None or bool(self.lengths)

    def command(self, *paths: Path, module: object = None, pipeline: object = None) -> str:
        """Return what makes the report again, see :func:`again`."""
        given = {
            "seed": self.seed,
            "cases": self.count,
            "lengths": self.lengths,
            "atol": self.atol,
            "rtol": self.rtol,
            "tokens": self.tokens,
            "runtimes": list(self.runtimes),
            "require": list(self.required),
        }
        return again("check", paths, {"module": module, "pipeline": pipeline}, given)


def again(
    verb: str, paths: Sequence[Path], held: Mapping[str, object], given: Mapping[str, Any]
) -> str:
    """Return the command line that runs a verb again, or the call with what the caller holds.

    Parameters
    ----------
    verb : str
        ``check``, ``bench``.
    paths : sequence of Path
        What it is run on.
    held : mapping
        By the name of its option, a reference, which the command line takes, or what only a caller
        can hold; None is left out.
    given : mapping
        Options by the names of the function; a tuple is one option, a list one for each item.
    """
    options = {name: value for name, value in given.items() if value not in (None, (), [])}
    held = {name: value for name, value in held.items() if value is not None}
    if not all(isinstance(value, str) for value in held.values()):
        words = [repr(str(path)) for path in paths]
        words += [
            f"{name}={value!r}" if isinstance(value, str) else f"{name}={type(value).__name__}(...)"
            for name, value in held.items()
        ]
        words += [f"{name}={value!r}" for name, value in options.items()]
        return f"ropeexport.{verb}({', '.join(words)})"
    words = ["ropeexport", verb, *map(str, paths)]
    for name, value in options.items():
        if isinstance(value, list):
            words += [word for one in value for word in (f"--{name.removesuffix('s')}", one)]
        else:
            text = ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
            words += [f"--{name}", text]
    words += [word for name, value in held.items() for word in (f"--{name}", str(value))]
    return shlex.join(words)
