"""What passes between a contender's process and the benchmark: the figures of a turn."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from ropeexport.bench.records import Timing


@dataclass(frozen=True)
class Turn:
    """A contender's turn.

    Parameters
    ----------
    seconds : list of float
        Of a run; on a GPU, of a call in each stretch.
    peak_mb : float
        The process's largest resident memory so far.
    launch_seconds : float or None
        What the host takes to enqueue a call; on a GPU only.
    gpu_peak_mb : float or None
        The most of the GPU's memory that the process held at the end of a turn so far.
    """

    seconds: list[float]
    peak_mb: float = math.nan
    launch_seconds: float | None = None
    gpu_peak_mb: float | None = None


def timing(contender: str, turns: Sequence[Turn]) -> Timing:
    """Return the record of a contender's turns at one size."""
    launches = [turn.launch_seconds for turn in turns if turn.launch_seconds is not None]
    return Timing(
        contender=contender,
        turns_ms=tuple(1e3 * statistics.median(turn.seconds) for turn in turns),
        peak_mb=turns[-1].peak_mb,
        launch_ms=1e3 * statistics.median(launches) if launches else None,
        gpu_peak_mb=turns[-1].gpu_peak_mb,
    )
