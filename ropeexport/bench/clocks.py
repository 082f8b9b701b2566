"""How a run is timed, over inputs that rotate: by the wall on a CPU, by CUDA events on a GPU."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cached_property, partial
from typing import Any

from ropeexport.bench.device import CudaDevice, count_sets, use_own_stream
from ropeexport.bench.processes import Turn
from ropeexport.manifest import Manifest
from ropeexport.parity.cases import Case, Sizes, space_of
from ropeexport.parity.inputs import make_inputs
from ropeexport.runners.registry import Device
from ropeexport.runners.runner import Arrays, Runner

_CACHE_BYTES = 64 << 20  # larger than the last cache of most processors
_MOST_MADE = 8  # sets of inputs that differ
_STRETCH_US = 20_000.0  # between two events, at least
_LAUNCHES = 5  # of which the median is a turn's


class InputSets(dict[int, Arrays]):
    """Sets of inputs of a model at one size, of the first kind that ``check`` tries, by number.

    Parameters
    ----------
    record : Manifest
        Of the model.
    sizes : dict of str to int
        Of its axes.
    seed : int
        Of the first set.
    """

    def __init__(self, record: Manifest, sizes: Sizes, seed: int) -> None:
        super().__init__()
        self._model = record.model
        self._case = Case("bench", space_of(record).kinds[0], sizes, seed)

    def __missing__(self, number: int) -> Arrays:
        case = replace(self._case, seed=self._case.seed + number)
        self[number] = made = make_inputs(case, self._model.inputs, self._model.max_position)
        return made

    @cached_property
    def set_bytes(self) -> int:
        """Size of a set."""
        return max(1, sum(x.nbytes for x in self[0].values()))


def make_clock(device: Device) -> WallClock | EventClock:
    """Return the clock of a device; on a GPU, before the contender is set up."""
    if device == "cpu":
        return WallClock()
    use_own_stream()
    return EventClock(CudaDevice())


class WallClock:
    """Times each run by itself, arrays in, arrays out, over sets that leave the cache between."""

    def settle(self) -> None:
        """Note nothing: the system knows a process's memory."""

    def once(self, run: Runner, given: Arrays) -> Arrays:
        """Run once between two turns, untimed."""
        return run.run(given)

    def turn(self, run: Runner, inputs: InputSets, repeats: int) -> Turn:
        """Return the seconds of so many runs."""
        sets = min(_MOST_MADE, -(-_CACHE_BYTES // inputs.set_bytes))
        seconds = tuple(self._seconds(run, inputs, number % sets) for number in range(repeats))
        return Turn(seconds=seconds)

    def _seconds(self, run: Runner, inputs: InputSets, number: int) -> float:
        given = inputs[number]
        start = time.perf_counter()
        run.run(given)
        return time.perf_counter() - start


class EventClock:
    """Times stretches of calls between two events; inputs are on the GPU beforehand.

    A pass calls the contender once on each set, and there are enough sets to pass the L2.  The
    outputs of a pass are held until its next, so that they go round as the inputs do.
    """

    def __init__(self, device: CudaDevice) -> None:
        self._device = device
        self._inputs: InputSets | None = None
        self._loaded: list[Any] = []
        self._passes = 0  # of a stretch
        self._memory = HeldMemory(lambda: device.untaken_bytes)

    def settle(self) -> None:
        """Note the GPU's memory that the contender took to set itself up."""
        self._memory.end()

    def once(self, run: Runner, given: Arrays) -> Arrays:
        """Run once between two turns, untimed; what memory that takes counts."""
        self._memory.begin()
        outputs = run.run(given)
        self._memory.end()
        return outputs

    def turn(self, run: Runner, inputs: InputSets, repeats: int) -> Turn:
        """Return the seconds of a call in each of so many stretches, and of a launch."""
        self._memory.begin()
        if self._inputs is not inputs:
            self._load(run, inputs)
        seconds = self._stretches(run, repeats)
        launch = statistics.median(self._launches(run))
        self._memory.end()
        peak_mb = self._memory.peak_bytes / 1e6
        return Turn(seconds=seconds, launch_seconds=launch, gpu_peak_mb=peak_mb)

    def _stretches(self, run: Runner, repeats: int) -> tuple[float, ...]:
        held: list[Any] = [None] * len(self._loaded)

        def one_pass() -> None:
            for index, loaded in enumerate(self._loaded):
                held[index] = run.call(loaded)

        if not self._passes:
            one_pass()  # compiles, and takes its memory
            self._passes = math.ceil(_STRETCH_US / max(1.0, self._device.elapsed_us(one_pass, 1)))
        calls = self._passes * len(self._loaded)
        stretches = (self._device.elapsed_us(one_pass, self._passes) for _ in range(repeats))
        return tuple(1e-6 * elapsed / calls for elapsed in stretches)

    def _launches(self, run: Runner) -> Iterator[float]:
        for number in range(_LAUNCHES):
            loaded = self._loaded[number % len(self._loaded)]
            yield 1e-6 * self._device.launch_us(partial(run.call, loaded))

    def _load(self, run: Runner, inputs: InputSets) -> None:
        self._loaded, self._passes = [], 0  # first give back what the former size held
        self._inputs = inputs
        sets = count_sets(inputs.set_bytes, self._device.l2_bytes)
        self._loaded = [run.load(inputs[number % _MOST_MADE]) for number in range(sets)]


class HeldMemory:
    """Adds up the GPU's memory that this process takes and gives back.

    The driver tells no more than what is left.  Other processes stand still in this one's turn and
    take memory of their own between its turns, so what is left is compared within a turn only.

    Parameters
    ----------
    untaken : callable
        Returns the bytes that no process has taken.
    """

    def __init__(self, untaken: Callable[[], int]) -> None:
        self._untaken = untaken
        self._held = 0
        self.peak_bytes = 0  # the most that was held at an end
        self.begin()

    def begin(self) -> None:
        """Start to count."""
        self._before = self._untaken()

    def end(self) -> None:
        """Count what was taken since."""
        self._held += self._before - self._untaken()
        self.peak_bytes = max(self.peak_bytes, self._held)
