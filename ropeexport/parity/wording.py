"""The records of a parity run in words: numbers, bounds, places; every report says them alike."""

from __future__ import annotations

import math

from ropeexport.parity.records import BoundRecord, LocationRecord, Number, Status


def word(status: Status) -> str:
    """Return a status as people read it."""
    return status.replace("_", " ")


def number(value: Number) -> str:
    """Return a number to three digits."""
    return "-" if value is None else f"{value:.3g}"


def exact(value: Number) -> str:
    """Return a value to as many digits as float32 has."""
    return "not finite" if value is None else f"{value:.8g}"


def percent(share: float) -> str:
    """Return a share of a bound; what breaks it is never rounded down to it."""
    if share == math.inf:
        return "beyond all"
    if share > 9.99:
        return f"{share:.2g}x"
    rounded = f"{share:.0%}"
    return f"{share:.1%}" if share > 1 and rounded == "100%" else rounded


def bound_text(bound: BoundRecord | None) -> str:
    """Return what the largest error was held to: a number, and what each element forgives."""
    if bound is None:
        return "-"
    if not bound.rtol:
        return number(bound.max_abs)
    return f"{bound.max_abs or 0.0:.0e}+{bound.rtol:.2%}"


def location_lines(location: LocationRecord) -> list[str]:
    """Say where a runtime departs first, or why that is unknown."""
    if not location.tensor:
        return [f"  {location.runtime}: not located in {location.case!r}: {location.reason}"]
    lines = [
        f"  {location.runtime}: departs first at {location.tensor} ({location.op} {location.node}) "
        f"in {location.case!r}: {location.reason}",
        f"    made by {location.source or 'a line of code that the file does not name'}",
    ]
    if location.sound:
        lines.append(f"    its inputs within their bounds: {', '.join(location.sound)}")
    if location.not_compared:
        lines.append(f"    its inputs without a counterpart: {', '.join(location.not_compared)}")
    return lines
