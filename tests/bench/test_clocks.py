"""How runs are timed: the event clock's calls, counted with a device that is none."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from ropeexport.bench.clocks import EventClock, HeldMemory, WallClock
from ropeexport.bench.device import count_sets
from ropeexport.runners.runner import Runner

CALL_US = 500.0
LAUNCHES_US = (90.0, 30.0, 20.0)


class Sets:
    """Inputs that are their own number."""

    def __init__(self, set_bytes: int) -> None:
        self.set_bytes = set_bytes

    def __getitem__(self, number):
        return {"x": np.array(number)}


class Recorder(Runner):
    """A runner that keeps what it was asked."""

    def __init__(self) -> None:
        self.loaded: list[int] = []
        self.called: list[int] = []
        self.reads = 0
        self.results: list[object] = []

    def load(self, inputs):
        self.loaded.append(int(inputs["x"]))
        return len(self.loaded) - 1  # where it lies on the device

    def call(self, place):
        self.called.append(place)
        self.results.append(object())
        return self.results[-1]

    def read(self, outputs):
        self.reads += 1
        return {}


class Device:
    """A GPU on which every call takes the same time; it keeps how long each stretch was."""

    l2_bytes = 1000

    def __init__(self, recorder: Recorder, call_us: float = CALL_US) -> None:
        self._recorder, self._call_us = recorder, call_us
        self.stretches: list[int] = []
        self.launched: list[int] = []
        self.others_bytes = 0

    @property
    def untaken_bytes(self) -> int:
        """Every set that is loaded takes a megabyte."""
        return 80_000_000_000 - self.others_bytes - 1_000_000 * len(self._recorder.loaded)

    def launch_us(self, work) -> float:
        work()
        self.launched.append(self._recorder.called.pop())
        return LAUNCHES_US[len(self.launched) % len(LAUNCHES_US)]

    def elapsed_us(self, work, times):
        before = len(self._recorder.called)
        for _ in range(times):
            work()
        self.stretches.append(len(self._recorder.called) - before)
        return self._call_us * self.stretches[-1]


def test_a_stretch_goes_round_the_sets_and_lasts_long_enough() -> None:
    recorder = Recorder()
    device = Device(recorder)
    turn = EventClock(device).turn(recorder, Sets(1000), repeats=3)
    assert turn.seconds == pytest.approx([CALL_US * 1e-6] * 3)
    assert recorder.loaded == [0, 1, 2, 3]  # 1 + three caches of inputs
    # a pass of 4 calls takes 2 ms, so a stretch of 20 ms is ten of them
    assert device.stretches == [4, 40, 40, 40]
    assert recorder.called == list(itertools.islice(itertools.cycle(range(4)), 4 + 4 + 120))
    assert recorder.reads == 0  # outputs stay on the device


def test_a_call_that_is_longer_than_a_stretch_is_timed_by_passes() -> None:
    recorder = Recorder()
    device = Device(recorder, call_us=1e6)
    turn = EventClock(device).turn(recorder, Sets(1 << 20), repeats=1)
    assert turn.seconds == pytest.approx([1.0])
    assert device.stretches == [2, 2]


def test_inputs_are_loaded_once_a_size_and_the_next_turn_is_timed_at_once() -> None:
    recorder = Recorder()
    device = Device(recorder)
    clock, small, large = EventClock(device), Sets(1000), Sets(3000)
    clock.turn(recorder, small, repeats=1)
    clock.turn(recorder, small, repeats=2)
    assert device.stretches == [4, 40, 40, 40]
    assert len(recorder.loaded) == 4
    clock.turn(recorder, large, repeats=1)
    assert len(recorder.loaded) == 4 + 2
    assert device.stretches[-2:] == [2, 40]
    assert set(recorder.called[-40:]) == {4, 5}  # the former size is let go


def test_sets_that_differ_are_few_though_their_places_are_many() -> None:
    recorder = Recorder()
    EventClock(Device(recorder)).turn(recorder, Sets(100), repeats=1)
    assert len(recorder.loaded) == 31
    assert set(recorder.loaded) == set(range(8))
    assert set(recorder.called) == set(range(31))


@pytest.mark.parametrize(
    ("set_bytes", "l2_bytes", "sets"),
    [(50, 50, 4), (1, 50_000_000, 512), (1 << 30, 50_000_000, 2), (151, 50, 2)],
)
def test_sets_pass_three_caches(set_bytes, l2_bytes, sets) -> None:
    assert count_sets(set_bytes, l2_bytes) == sets


def test_the_wall_times_each_run_with_its_arrays() -> None:
    recorder = Recorder()
    turn = WallClock().turn(recorder, Sets(32 << 20), repeats=5)
    assert len(turn.seconds) == 5
    assert min(turn.seconds) > 0
    assert (turn.launch_seconds, turn.gpu_peak_mb) == (None, None)
    assert recorder.loaded == [0, 1, 0, 1, 0]
    assert (len(recorder.called), recorder.reads) == (5, 5)


def test_launches_are_timed_apart_from_the_stretches() -> None:
    recorder = Recorder()
    device = Device(recorder)
    turn = EventClock(device).turn(recorder, Sets(1000), repeats=1)
    assert device.launched == [0, 1, 2, 3, 0]
    assert turn.launch_seconds == pytest.approx(30e-6)


def test_the_gpus_memory_is_counted_while_the_others_stand_still() -> None:
    recorder = Recorder()
    device = Device(recorder)
    clock, small, large = EventClock(device), Sets(1000), Sets(3000)
    recorder.loaded.append(0)  # what setting up takes
    clock.settle()
    device.others_bytes += 7_000_000_000  # others set themselves up, and are stopped
    assert clock.turn(recorder, small, repeats=1).gpu_peak_mb == 1 + 4
    device.others_bytes += 7_000_000_000
    assert clock.turn(recorder, small, repeats=1).gpu_peak_mb == 1 + 4
    device.others_bytes -= 14_000_000_000  # they failed and were closed
    assert clock.turn(recorder, large, repeats=1).gpu_peak_mb == 1 + 4 + 2
    device.others_bytes += 7_000_000_000
    clock.once(recorder, large[0])  # a check in between loads a set more
    assert clock.turn(recorder, large, repeats=1).gpu_peak_mb == 1 + 4 + 2 + 1
    assert recorder.reads == 1


def test_memory_that_is_given_back_leaves_the_peak() -> None:
    left = [100]
    memory = HeldMemory(lambda: left[0])
    for now in (40, 70, 65):
        left[0] = now
        memory.end()
        memory.begin()
    assert memory.peak_bytes == 60
