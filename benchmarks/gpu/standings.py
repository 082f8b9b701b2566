"""How contenders stand: timed, or out and why; their shares and ratios for a result file."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.gpu.contenders import COPY, OURS, Contender
from benchmarks.gpu.timing import Timing, copy_share

# what became of a contender
TIMED = "TIMED"
SKIPPED = "SKIPPED"
WRONG = "WRONG"  # it computes something else, so its time says nothing
ERROR = "ERROR"  # it raised


@dataclass(frozen=True)
class Work:
    """A contender ready to be timed: its passes over the sets of inputs, and how many calls.

    ``held`` keeps the arrays of every call: a CUDA graph knows their addresses but does not own
    them, and memory that is free goes to the next contender.
    """

    run: Callable[[], object]
    calls: int
    repeats: int
    held: object


@dataclass
class Entrant:
    """A contender on its way: its calls, then its work, then its rounds; or why there are none."""

    contender: Contender
    status: str = TIMED
    reason: str = ""
    moved_bytes: int = 0
    work: Work | None = None
    rounds_us: tuple[float, ...] = ()

    def out(self, status: str, reason: str) -> None:
        """Take the contender out."""
        self.status, self.reason, self.work = status, reason, None


def records(entrants: Sequence[Entrant]) -> list[dict[str, Any]]:
    """Return what a result file keeps of each contender: its time, share of a copy, ratio to ours.

    ``ratio`` is the contender's time over that of the kernel: above 1, the kernel is quicker.
    """
    timings = {e.contender.name: Timing(e.rounds_us) for e in entrants if e.rounds_us}
    copies = [
        (e.moved_bytes, timings[e.contender.name].time_us)
        for e in entrants
        if e.contender.name.startswith(COPY) and e.rounds_us
    ]
    return [_record(e, timings, copies) for e in entrants]


def _record(
    entrant: Entrant, timings: dict[str, Timing], copies: Sequence[tuple[int, float]]
) -> dict[str, Any]:
    contender = entrant.contender
    record: dict[str, Any] = {
        "name": contender.name,
        "pairing": contender.pairing,
        "rival": contender.is_rival,
        "status": entrant.status,
        "reason": entrant.reason,
    }
    timing, ours = timings.get(contender.name), timings.get(OURS)
    if timing is None:
        return record
    return record | {
        "time_us": timing.time_us,
        "spread": timing.spread,
        "rounds_us": list(timing.rounds_us),
        "moved_bytes": entrant.moved_bytes,
        "copy_share": copy_share(entrant.moved_bytes, timing.time_us, copies) if copies else None,
        "ratio": timing.time_us / ours.time_us if ours else None,
    }
