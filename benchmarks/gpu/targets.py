"""The targets, stated as met or not met from what was measured; nothing here asserts."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from benchmarks.gpu.contenders import EAGER, OURS
from benchmarks.gpu.shapes import FLUX

COPY_SHARE = 0.92
RIVALS = 1.0
EAGERS = 8.0

_HALVES = ("fp16", "bf16")


def targets(bench: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return each target with its goal, what was measured (None: nothing) and whether it is met."""
    flux = {
        dtype: [e for e in bench if (e["shape"]["name"], e["dtype"]) == (FLUX, dtype)]
        for dtype in _HALVES
    }
    rivals = sorted({c["name"] for e in bench for c in e["contenders"] if c["rival"]})
    return [
        *(
            _target(
                f"share of a copy at the FLUX shape, {dtype}",
                COPY_SHARE,
                _values(entries, OURS, "copy_share"),
            )
            for dtype, entries in flux.items()
        ),
        *(
            _target(
                f"eager torch's time at the FLUX shape, {dtype}",
                EAGERS,
                _values(entries, EAGER, "ratio"),
            )
            for dtype, entries in flux.items()
        ),
        *(
            _target(
                f"{name}: time over ours on equal bytes, at worst",
                RIVALS,
                _values(bench, name, "equal_bytes"),
            )
            for name in rivals
        ),
    ]


def _target(name: str, goal: float, measured: Iterable[tuple[float, str]]) -> dict[str, Any]:
    """Return a target; of several measurements the least counts."""
    values = list(measured)
    if not values:
        return {"name": name, "goal": goal, "measured": None, "where": "", "met": None}
    least, where = min(values)
    return {"name": name, "goal": goal, "measured": least, "where": where, "met": least >= goal}


def _values(entries: Iterable[dict[str, Any]], name: str, key: str) -> Iterator[tuple[float, str]]:
    for entry, contender in _timed(entries, name):
        if contender[key] is not None:
            yield contender[key], _where(entry)


def _timed(
    entries: Iterable[dict[str, Any]], name: str
) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    for entry in entries:
        for contender in entry["contenders"]:
            if contender["name"] == name and "time_us" in contender:
                yield entry, contender


def _where(entry: dict[str, Any]) -> str:
    return f"{entry['shape']['name']} {entry['dtype']}"
