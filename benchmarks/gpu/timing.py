"""From microseconds to medians, shares of a copy and ratios: no torch, no GPU."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Plan:
    """How long to measure."""

    rounds: int = 5  # turns of each contender
    batches: int = 3  # timed stretches of a turn; a turn's figure is their median
    batch_us: float = 20_000.0  # a stretch between two events, at least
    graph_us: float = (
        5_000.0  # a CUDA graph, about: the gap between two launches then counts little
    )
    most_calls: int = 2000  # of a graph


QUICK = Plan(rounds=2, batches=1, batch_us=2_000.0, graph_us=1_000.0, most_calls=500)


@dataclass(frozen=True)
class Timing:
    """Microseconds a call, the median of each round."""

    rounds_us: tuple[float, ...]

    @property
    def time_us(self) -> float:
        """The median over the rounds."""
        return statistics.median(self.rounds_us)

    @property
    def spread(self) -> float:
        """Slowest over fastest round, less one."""
        return max(self.rounds_us) / min(self.rounds_us) - 1


def passes_of(pass_us: float, sets: int, plan: Plan) -> int:
    """Return how often a graph goes round the sets of inputs."""
    wanted = math.ceil(plan.graph_us / max(pass_us, 1e-3))
    return max(1, min(wanted, plan.most_calls // sets))


def repeats_of(work_us: float, plan: Plan) -> int:
    """Return how often a work is repeated between two events."""
    return max(1, math.ceil(plan.batch_us / max(work_us, 1e-3)))


def turns(count: int, rounds: int) -> list[list[int]]:
    """Return the order of contenders in each round: everyone begins and ends sometimes."""
    return [[(number + place) % count for place in range(count)] for number in range(rounds)]


def bandwidth(moved_bytes: int, time_us: float) -> float:
    """Return bytes a second."""
    return moved_bytes / (time_us * 1e-6)


def copy_share(moved_bytes: int, time_us: float, copies: Sequence[tuple[int, float]]) -> float:
    """Return a contender's bandwidth as a share of the fastest copy's.

    Parameters
    ----------
    moved_bytes : int
        The bytes that the contender must read and write at least.
    time_us : float
        Its time.
    copies : sequence of (int, float)
        Bytes read and written, and microseconds, of each way to copy.
    """
    return bandwidth(moved_bytes, time_us) / max(bandwidth(*copy) for copy in copies)
