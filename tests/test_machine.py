"""The driver's answers: each is asked for its result, or a GPU would be one of no name."""

from __future__ import annotations

import ctypes

import pytest

from ropeexport import machine

CALLS = ("cuInit", "cuDeviceGet", "cuDeviceGetName", "cuDeviceGetAttribute", "cuDriverGetVersion")


class Driver:
    def __init__(self, fails: str = "") -> None:
        self.fails, self.asked = fails, []

    def _answer(self, call: str) -> int:
        self.asked.append(call)
        return 3 if call == self.fails else 0

    def cuInit(self, flags):  # noqa: N802 - the driver's names
        return self._answer("cuInit")

    def cuDeviceGet(self, device, ordinal):  # noqa: N802
        return self._answer("cuDeviceGet")

    def cuDeviceGetName(self, name, size, device):  # noqa: N802
        name.value = b"NVIDIA H200"
        return self._answer("cuDeviceGetName")

    def cuDeviceGetAttribute(self, number, attribute, device):  # noqa: N802
        number._obj.value = {75: 9, 76: 0}[attribute]
        return self._answer("cuDeviceGetAttribute")

    def cuDriverGetVersion(self, version):  # noqa: N802
        version._obj.value = 13010
        return self._answer("cuDriverGetVersion")


def test_a_gpu_is_what_the_driver_says(monkeypatch) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda name: Driver())
    assert machine.find_gpu() == machine.Gpu("NVIDIA H200", "9.0", "13.1")


@pytest.mark.parametrize("call", CALLS)
def test_a_call_that_fails_is_no_gpu(monkeypatch, call) -> None:
    driver = Driver(call)
    monkeypatch.setattr(ctypes, "CDLL", lambda name: driver)
    assert machine.find_gpu() is None
    assert driver.asked[-1] == call


def test_no_driver_is_no_gpu(monkeypatch) -> None:
    def missing(name: str) -> None:
        raise OSError(f"{name}: cannot open shared object file")

    monkeypatch.setattr(ctypes, "CDLL", missing)
    assert machine.find_gpu() is None
