"""The runs of the CPU's measurements, what they say of a number, and whether another one agrees."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ropeexport.bench import show
from ropeexport.bench.records import OURS, Bench, Group

FOLDER = Path(__file__).parents[1] / "results" / "cpu"
MEASURED, CHECK = ("run-1", "run-2"), "check"
_NORMAL_95 = 1.96

Run = dict[str, Any]


@dataclass(frozen=True)
class Runs:
    """What was measured: the runs that the page shows, and the one that is held against them."""

    measured: tuple[Run, ...]
    check: Run | None

    @property
    def parts(self) -> list[str]:
        """The parts that every run has, in the first one's order."""
        if not self.measured:
            return []
        first, *others = self.measured
        return [name for name in first["parts"] if all(name in run["parts"] for run in others)]

    def benches(self, part: str) -> list[Bench]:
        """Return a part of each run."""
        return [bench_of(run, part) for run in self.measured]


def bench_of(run: Run, part: str) -> Bench:
    """Return a part of a run."""
    return Bench.model_validate(run["parts"][part]["bench"])


def load(folder: Path = FOLDER) -> Runs:
    """Read the runs of a folder."""
    read = {path.stem: json.loads(path.read_text()) for path in folder.glob("*.json")}
    return Runs(tuple(read[name] for name in MEASURED if name in read), read.get(CHECK))


@dataclass(frozen=True)
class Figure:
    """The median of the runs' medians, and the range that is stated for another run's."""

    value: float
    low: float
    high: float

    def holds(self, other: float) -> bool:
        """Say whether the median of another run lies within the range."""
        return self.low <= other <= self.high


@dataclass(frozen=True)
class Row:
    """A contender at one size in several runs.

    ``ratio`` is its time to ropeexport's in the same round: what disturbs a machine for longer than
    a round leaves it alone.
    """

    contender: str
    label: str
    is_floor: bool
    time_ms: Figure
    ratio: Figure
    tokens: int
    peak_mb: float
    load_seconds: float


def rows(benches: Sequence[Bench], size: int) -> list[Row]:
    """Return the contenders at one size, the fastest first and floors last.

    Parameters
    ----------
    benches : sequence of Bench
        One part, of each run.
    size : int
        Which of its groups.
    """
    sizes = benches[0].groups[size].sizes
    groups = [group for bench in benches for group in bench.groups if group.sizes == sizes]
    timed = dict.fromkeys(t.contender for group in groups for t in group.timings)
    compared = [name for name in timed if any(group.ratios(name) for group in groups)]
    factor = further_run(benches)
    made = [_row(name, benches, groups, factor) for name in compared]
    return sorted(made, key=lambda row: (row.is_floor, row.time_ms.value))


def further_run(benches: Sequence[Bench]) -> float:
    """Return the factor within which 95 % of a further run's ratios lie, of one part.

    By how much its runs differ: the variance between runs of a ratio's logarithm, pooled over the
    contenders and sizes, for a new value beside a mean of so many.
    """
    variances = [
        statistics.variance(logarithms)
        for size, group in enumerate(benches[0].groups)
        for timing in group.timings
        if len(logarithms := _logarithms(benches, size, timing.contender)) > 1
    ]
    pooled = statistics.fmean(variances) if variances else 0.0
    return math.exp(_NORMAL_95 * math.sqrt(pooled * (1 + 1 / len(benches))))


def _logarithms(benches: Sequence[Bench], size: int, name: str) -> list[float]:
    found = [bench.groups[size].ratios(name) for bench in benches if size < len(bench.groups)]
    return [math.log(statistics.median(each)) for each in found if each and name != OURS]


def _row(name: str, benches: Sequence[Bench], groups: Sequence[Group], factor: float) -> Row:
    timings = [timing for group in groups for timing in group.timings if timing.contender == name]
    records = [r for bench in benches for r in bench.contenders if r.name == name]
    loads = [r.load_seconds for r in records if r.load_seconds is not None]
    return Row(
        contender=name,
        label=records[0].label,
        is_floor=show.is_floor(timings[0]),
        time_ms=_figure([timing.turns_ms for timing in timings]),
        ratio=_figure([r for group in groups if (r := group.ratios(name))], factor),
        tokens=groups[0].tokens,
        peak_mb=max(timing.peak_mb for timing in timings),
        load_seconds=statistics.median(loads),
    )


def _figure(runs: Sequence[Sequence[float]], factor: float = 1.0) -> Figure:
    """Return the figure of some runs' turns: to either side at least so many times its value."""
    turns = [turn for run in runs for turn in run]
    value = statistics.median(map(statistics.median, runs))
    return Figure(value, min(value / factor, *turns), max(value * factor, *turns))


@dataclass(frozen=True)
class Held:
    """A row, and what another run read: its time in milliseconds and its ratio to ropeexport."""

    part: str
    size: str
    row: Row
    time_ms: float
    ratio: float


def held(runs: Runs) -> Iterator[Held]:
    """Yield each contender at each size that the runs and the further one have timed."""
    if runs.check is None:
        return
    for part in (name for name in runs.parts if name in runs.check["parts"]):
        benches = runs.benches(part)
        further = {show.size_text(group): group for group in bench_of(runs.check, part).groups}
        for size, text in enumerate(map(show.size_text, benches[0].groups)):
            group = further.get(text)
            if group is None:
                continue
            again = {timing.contender: timing.median for timing in group.timings}
            for row in rows(benches, size):
                if row.contender in again:
                    ratio = statistics.median(group.ratios(row.contender))
                    yield Held(part, text, row, again[row.contender], ratio)
