"""What a caller gives: paths, numbers and texts, checked before anything is done with them."""

from __future__ import annotations

import math
import operator
import os
from pathlib import Path
from typing import Any

from ropeexport.errors import UsageError
from ropeexport.plain import NAME, shown

SIZE = 2**31 - 1  # of an axis: TensorRT and the kernels of onnxruntime count in 32 bits
WORD = 2**63 - 1  # what torch takes for a seed, and runtimes for bytes
THREADS = 4096  # each has a stack of its own
CASES = 1_000_000  # each is kept in the report
LENGTHS = 1_000  # each is several cases
TURNS = 100_000  # each is kept in the record
_COPIES = 4  # of inputs, at least: as drawn, in float64, and results of both
_WIDEST = 8  # bytes of an element


def path_of(what: str, given: Any) -> Path:
    """Return a path of a caller.

    Raises
    ------
    UsageError
        For what is no path, an empty text, or a name that is not in UTF-8: a manifest cannot hold
        it, and neither onnxruntime nor TensorRT opens it.
    """
    if not isinstance(given, str | os.PathLike) or isinstance(os.fspath(given), bytes):
        raise UsageError(f"{what}: expected a path, got {_seen(given)}", code="RX110")
    name = os.fspath(given)
    if not name or "\0" in name:
        raise UsageError(f"{what}: expected a path, got {_seen(name)}", code="RX110")
    try:
        str(Path(name).absolute()).encode()
    except UnicodeEncodeError:
        raise UsageError(
            f"{what}: expected a path in UTF-8, which is all that manifests and runtimes take, got "
            f"{_seen(name)}: rename it, or set PYTHONUTF8=1 where the locale is not UTF-8",
            code="RX110",
        ) from None
    except FileNotFoundError:
        raise UsageError(
            f"{what}: {name} is within the current folder, which is no longer there: change to "
            "another",
            code="RX110",
        ) from None
    return Path(name)


def path_if(what: str, given: Any) -> Path | None:
    """Return a path of a caller who may give none."""
    return None if given is None else path_of(what, given)


def check_text(what: str, given: Any) -> None:
    """Raise :class:`UsageError` for a text that is empty, or that no file of ours can hold."""
    if not isinstance(given, str):
        return
    if not given.strip():
        raise UsageError(
            f"{what}: expected a text, got an empty one: leave it out, or say which", code="RX110"
        )
    try:
        given.encode()
    except UnicodeEncodeError:
        raise UsageError(
            f"{what}: expected a text in UTF-8, got {_seen(given)}", code="RX110"
        ) from None


def whole(what: str, given: Any, least: int = 0, most: int = SIZE) -> int:
    """Return a whole number of a caller, NumPy's too.

    Raises
    ------
    UsageError
        For anything else, a bool included, and for numbers out of bounds.
    """
    try:
        number = None if isinstance(given, bool) else operator.index(given)
    except TypeError:
        number = None
    if number is None or not least <= number <= most:
        raise UsageError(
            f"{what}: expected a whole number of {least:,} to {most:,}, got {_seen(given)}",
            code="RX110",
        )
    return number


def whole_if(what: str, given: Any, least: int = 0, most: int = SIZE) -> int | None:
    """Return a whole number of a caller who may give none."""
    return None if given is None else whole(what, given, least, most)


def counted(what: str, digits: str) -> int:
    """Return the size that digits of a text say; Python reads no number of thousands of them."""
    return whole(what, int(digits) if len(digits) <= NAME else digits)


def bound_if(what: str, given: Any) -> float | None:
    """Return a bound of a caller who may give none: finite, 0 or more."""
    if given is None:
        return None
    try:
        number = math.nan if isinstance(given, bool | str) else float(given)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not 0 <= number < math.inf:
        raise UsageError(
            f"{what}: expected a finite number, 0 or more, got {_seen(given)}", code="RX110"
        )
    return number


def check_memory(what: str, elements: int) -> None:
    """Raise :class:`UsageError` where inputs of so many elements cannot be held here."""
    needed, there = elements * _WIDEST * _COPIES, _memory()
    if there is not None and needed > there:
        raise UsageError(
            f"{what}: needs about {needed / 1e9:,.0f} GB of memory, with copies in float64 and "
            f"results, and this machine has {there / 1e9:,.0f} GB: take smaller sizes",
            code="RX124",
        )


def _memory() -> int | None:
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):  # no such system
        return None


def _seen(given: Any) -> str:
    """Return a value for a message: a number of a million digits is one too."""
    if isinstance(given, int) and not isinstance(given, bool) and abs(given) >= 10**NAME:
        return "one of far more digits"
    return shown(repr(given), NAME)
