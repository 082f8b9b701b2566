"""How contenders stand: timed, or out and why; their shares and ratios for a result file."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.gpu.contenders import COPY, Contender
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

    ``beside`` names the form of the kernel with the same pairs and coefficients; ``ratio`` is the
    contender's time over that form's, ``equal_bytes`` the same for each byte that they must move
    (tables of the data's type are smaller than ours).  Above 1, the kernel is quicker.
    """
    timings = {e.contender.name: Timing(e.rounds_us) for e in entrants if e.rounds_us}
    copies = [
        (e.moved_bytes, timings[e.contender.name].time_us)
        for e in entrants
        if e.contender.name.startswith(COPY) and e.rounds_us
    ]
    ours = {_kind(e): e for e in entrants if e.contender.is_ours and e.rounds_us}
    return [_record(e, ours.get(_kind(e)), timings, copies) for e in entrants]


def _kind(entrant: Entrant) -> tuple[str, str]:
    return entrant.contender.pairing, entrant.contender.coefficients


def _record(
    entrant: Entrant,
    ours: Entrant | None,
    timings: dict[str, Timing],
    copies: Sequence[tuple[int, float]],
) -> dict[str, Any]:
    contender = entrant.contender
    record: dict[str, Any] = {
        "name": contender.name,
        "pairing": contender.pairing,
        "coefficients": contender.coefficients,
        "rival": contender.is_rival,
        "status": entrant.status,
        "reason": entrant.reason,
    }
    timing = timings.get(contender.name)
    if timing is None:
        return record
    ratio = timing.time_us / timings[ours.contender.name].time_us if ours else None
    return record | {
        "time_us": timing.time_us,
        "spread": timing.spread,
        "rounds_us": list(timing.rounds_us),
        "moved_bytes": entrant.moved_bytes,
        "copy_share": copy_share(entrant.moved_bytes, timing.time_us, copies) if copies else None,
        "beside": ours.contender.name if ours else None,
        "ratio": ratio,
        "equal_bytes": ratio * ours.moved_bytes / entrant.moved_bytes if ours and ratio else None,
    }
