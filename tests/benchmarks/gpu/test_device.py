"""The order in which CUDA is asked, with stand-ins for what in ``torch.cuda`` needs a GPU."""

from __future__ import annotations

from contextlib import contextmanager
from types import SimpleNamespace

import pytest
import torch

from benchmarks.gpu.device import CudaDevice


@pytest.fixture
def told(monkeypatch) -> list[str]:
    """What was asked of CUDA, in order."""
    asked: list[str] = []
    current = [SimpleNamespace(name="default", cuda_stream=0)]

    class Stream:
        count = 0

        def __init__(self, device) -> None:
            Stream.count += 1
            self.name, self.cuda_stream = f"stream {Stream.count}", Stream.count

        def wait_stream(self, other) -> None:
            asked.append(f"{self.name} waits for {other.name}")

    current[0].wait_stream = lambda other: asked.append(f"default waits for {other.name}")

    @contextmanager
    def on(stream):
        current.append(stream)
        yield
        current.pop()

    class Event:
        def __init__(self, enable_timing: bool) -> None:
            assert enable_timing

        def record(self) -> None:
            asked.append("record")

        def synchronize(self) -> None:
            asked.append("wait for the event")

        def elapsed_time(self, end) -> float:
            return 0.25  # milliseconds

    @contextmanager
    def graph(captured, *, capture_error_mode: str):
        asked.append(f"capture, {capture_error_mode}")
        yield
        asked.append("end of the capture")

    properties = SimpleNamespace(L2_cache_size=50 << 20)
    stand_ins = {
        "Stream": Stream,
        "stream": on,
        "current_stream": lambda device: current[-1],
        "Event": Event,
        "CUDAGraph": lambda: SimpleNamespace(replay=lambda: asked.append("replay")),
        "graph": graph,
        "synchronize": lambda device: asked.append("synchronize"),
        "get_device_properties": lambda device: properties,
        "mem_get_info": lambda device: (1000, 2000),
        "memory_reserved": lambda device: 500,
        "memory_allocated": lambda device: 100,
        "empty_cache": lambda: asked.append("empty cache"),
    }
    for name, stand_in in stand_ins.items():
        monkeypatch.setattr(torch.cuda, name, stand_in)  # raises for a name that torch has not
    return asked


def test_sizes(told) -> None:
    device = CudaDevice()
    assert device.l2_bytes == 50 << 20
    assert device.free_bytes == 1000 + 500 - 100
    assert device.stream() == 0


def test_at_once_each_work_has_a_stream(told) -> None:
    device = CudaDevice()
    streams: list[int] = []
    device.at_once([lambda: streams.append(device.stream())] * 3)
    assert len(set(streams)) == 3
    assert 0 not in streams
    assert told == ["synchronize", "synchronize"]
    assert device.stream() == 0


def test_a_warm_up_is_on_a_side_stream(told) -> None:
    device = CudaDevice()
    streams: list[int] = []
    device.warm_up(lambda: streams.append(device.stream()))
    assert len(streams) == 3
    assert 0 not in streams
    assert told[0].endswith("waits for default")
    assert told[1].startswith("default waits for stream")
    assert told[2] == "synchronize"


def test_a_capture_holds_this_thread_alone(told) -> None:
    replay = CudaDevice().capture(lambda: told.append("work"))
    replay()
    assert told == ["capture, thread_local", "work", "end of the capture", "replay"]


def test_elapsed_time_is_microseconds_between_two_events(told) -> None:
    elapsed = CudaDevice().elapsed_us(lambda: told.append("work"), 2)
    assert elapsed == 250.0
    assert told == ["record", "work", "work", "record", "wait for the event"]


def test_release_gives_memory_back(told) -> None:
    CudaDevice().release()
    assert told == ["empty cache"]
