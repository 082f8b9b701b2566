"""A second run held against the first: which medians lie within the spreads that both state."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from ropeexport.bench import show
from ropeexport.bench.records import Bench


@dataclass(frozen=True)
class Pair:
    """A contender's time at one size in two runs.

    ``ratio`` is the second median over the first, ``to_ours`` the same of its ratio to ropeexport
    in the same run, and ``spread`` the sum of both runs' spreads.
    """

    part: str
    size: str
    contender: str
    ratio: float
    to_ours: float
    spread: float
    spread_to_ours: float

    @property
    def holds(self) -> bool:
        """Whether the medians lie within the spreads."""
        return abs(self.ratio - 1) <= self.spread

    @property
    def holds_to_ours(self) -> bool:
        """Whether the ratios to ropeexport lie within the spreads."""
        return abs(self.to_ours - 1) <= self.spread_to_ours


def pairs(first: dict[str, Any], second: dict[str, Any]) -> Iterator[Pair]:
    """Yield each contender at each size that both runs timed."""
    for part in first["parts"]:
        if part not in second["parts"]:
            continue
        one, two = (Bench.model_validate(run["parts"][part]["bench"]) for run in (first, second))
        for before, after in zip(one.groups, two.groups, strict=True):
            old = {timing.contender: timing for timing in before.timings}
            new = {timing.contender: timing for timing in after.timings}
            ours = new["ropeexport"].median / old["ropeexport"].median
            own = old["ropeexport"].spread + new["ropeexport"].spread
            for name in (name for name in old if name in new):
                ratio = new[name].median / old[name].median
                spread = old[name].spread + new[name].spread
                yield Pair(
                    part, show.size_text(before), name, ratio, ratio / ours, spread, spread + own
                )
