"""The NVIDIA GPU of this machine, asked of the driver itself: no torch, no TensorRT.

Source: CUDA Driver API reference (cuInit, cuDriverGetVersion, cuDeviceGetName,
cuDeviceGetAttribute).
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass

_MAJOR, _MINOR = 75, 76  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR, _MINOR
_NAME_BYTES = 256


@dataclass(frozen=True)
class Gpu:
    """The first NVIDIA GPU that the driver lists."""

    name: str
    compute_capability: str  # "8.9"
    driver_cuda: str  # the newest CUDA that the driver runs, "13.0"


def find_gpu() -> Gpu | None:
    """Return the first GPU, or None where there is no driver or no device."""
    try:
        cuda = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return None
    device = ctypes.c_int()
    if cuda.cuInit(0) != 0 or cuda.cuDeviceGet(ctypes.byref(device), 0) != 0:
        return None
    return Gpu(_name(cuda, device), _compute_capability(cuda, device), _driver_cuda(cuda))


def _name(cuda: ctypes.CDLL, device: ctypes.c_int) -> str:
    buffer = ctypes.create_string_buffer(_NAME_BYTES)
    cuda.cuDeviceGetName(buffer, _NAME_BYTES, device)
    return buffer.value.decode()


def _compute_capability(cuda: ctypes.CDLL, device: ctypes.c_int) -> str:
    numbers = []
    for attribute in (_MAJOR, _MINOR):
        number = ctypes.c_int()
        cuda.cuDeviceGetAttribute(ctypes.byref(number), attribute, device)
        numbers.append(str(number.value))
    return ".".join(numbers)


def _driver_cuda(cuda: ctypes.CDLL) -> str:
    version = ctypes.c_int()
    cuda.cuDriverGetVersion(ctypes.byref(version))
    return f"{version.value // 1000}.{version.value % 1000 // 10}"
