"""``bench.json``: the records of a benchmark and their schema."""

from __future__ import annotations

import statistics
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from ropeexport.manifest import Record, Version
from ropeexport.parity.records import Environment
from ropeexport.runners.registry import EAGER, Device

SCHEMA_VERSION = 1
FILE_NAME = "bench.json"
CHART_NAME = "bench.png"
_MOST_GROUPS = 1000  # as many bars as a chart can have
OURS = "ropeexport"  # the contender that the others are compared with
BARE = "ropeexport-bare"  # its file, as it is written
_LAUNCH_BOUND = 0.8  # of the time of a call

# WRONG: outside its parity bound, so it is not timed
Status = Literal["TIMED", "WRONG", "SKIPPED", "FAILED"]


Milliseconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class Timing(Record):
    """One contender at one size: the median of each of its turns, in milliseconds."""

    contender: str
    turns_ms: Annotated[tuple[Milliseconds, ...], Field(min_length=1)]
    peak_mb: float  # the process's largest resident memory so far
    launch_ms: float | None = None  # what the host takes to enqueue a call on a GPU
    # the most of the GPU's memory that the process held after a turn so far; not CUDA's own part
    gpu_peak_mb: float | None = None

    @property
    def is_launch_bound(self) -> bool:
        """Whether the host takes about as long to enqueue a call as the GPU between two calls.

        Such a time is Python's and the runtime's: CUDA graphs would bring it down, faster kernels
        would not.
        """
        return self.launch_ms is not None and self.launch_ms > _LAUNCH_BOUND * self.median

    @property
    def median(self) -> float:
        """The median over the turns, in milliseconds."""
        return statistics.median(self.turns_ms)

    @property
    def best(self) -> float:
        """The fastest turn, in milliseconds: what the machine does when nothing disturbs it."""
        return min(self.turns_ms)

    @property
    def spread(self) -> float:
        """Half the distance of the quartiles over the median."""
        if len(self.turns_ms) < 3:
            return (max(self.turns_ms) - min(self.turns_ms)) / self.median / 2
        low, _, high = statistics.quantiles(self.turns_ms, n=4, method="inclusive")
        return (high - low) / self.median / 2


class ContenderRecord(Record):
    """A contender of the run, or why it is none."""

    name: str
    label: str
    status: Status
    reason: str = ""
    version: str = ""  # of what built its engine
    load_seconds: float | None = None  # loading, compiling and the first run
    load_again_seconds: float | None = None  # the same with what an engine's first run compiled
    prepare_seconds: float | None = None  # the export of its own file, or the build of its engine
    prepare_again_seconds: float | None = None  # the same build with what the first one measured
    file_mb: float | None = None  # its model file with its weights, or its engine


class Group(Record):
    """All contenders at one size."""

    sizes: dict[str, int]
    tokens: int  # positions of a run: the batch times the lengths
    timings: tuple[Timing, ...]

    @property
    def base(self) -> str:
        """The contender that the others are compared with: ropeexport, or eager where it is out."""
        timed = {timing.contender for timing in self.timings}
        return OURS if OURS in timed or EAGER not in timed else EAGER

    def ratios(self, contender: str, base: str = OURS) -> tuple[float, ...]:
        """Return a contender's time over another's, round by round; empty where one has none.

        Both had their turns one after the other, so what slows a machine down for a while slows
        both.
        """
        turns = {timing.contender: timing.turns_ms for timing in self.timings}
        both = zip(turns.get(contender, ()), turns.get(base, ()), strict=False)
        return tuple(its / bases for its, bases in both)


class Bench(Record):
    """A whole benchmark."""

    schema_version: Version = SCHEMA_VERSION
    model: str
    source: str
    dtype: str
    model_sha256: str
    code_sha256: str  # of ropeexport's sources: an older result is known by it
    date: str
    command: str
    seed: int
    threads: int
    rounds: int
    repeats: int
    device: Device = "cpu"  # cuda: timed by CUDA events, inputs on the GPU beforehand
    processor: str  # with the GPU before it, where that is the device
    cores: int
    environment: Environment
    contenders: tuple[ContenderRecord, ...]
    groups: tuple[Group, ...] = Field(max_length=_MOST_GROUPS)

    @model_validator(mode="after")
    def _known(self) -> Self:
        known = [record.name for record in self.contenders]
        timed = [[timing.contender for timing in group.timings] for group in self.groups]
        for name in (name for names in timed for name in names):
            if name not in known:
                raise ValueError(f"groups: expected one of the contenders, got {name!r}")
        for names in (known, *timed):
            if len(set(names)) < len(names):
                raise ValueError("expected each contender once, got one again")
        return self
