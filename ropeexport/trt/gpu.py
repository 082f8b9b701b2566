"""The NVIDIA GPU of this machine, asked of the driver itself: no torch, no TensorRT.

Source: CUDA Driver API reference (cuInit, cuDriverGetVersion, cuDeviceGetName,
cuDeviceGetAttribute).
"""

from __future__ import annotations

import ctypes
import re
from dataclasses import dataclass
from pathlib import Path

_MAJOR, _MINOR = 75, 76  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR, _MINOR
_NAME_BYTES = 256
_DRIVER = Path("/proc/driver/nvidia/version")


@dataclass(frozen=True)
class Gpu:
    """The first NVIDIA GPU that the driver lists."""

    name: str
    compute_capability: str  # "8.9"
    driver_cuda: str  # the newest CUDA that the driver runs, "13.0"


def find_gpu() -> Gpu | None:
    """Return the first GPU, or None where there is no driver or no device that answers."""
    try:
        cuda = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return None
    device, major, minor, version = (ctypes.c_int() for _ in range(4))
    name = ctypes.create_string_buffer(_NAME_BYTES)
    failed = (  # each returns 0 where it succeeds; the first failure ends it
        cuda.cuInit(0)
        or cuda.cuDeviceGet(ctypes.byref(device), 0)
        or cuda.cuDeviceGetName(name, _NAME_BYTES, device)
        or cuda.cuDeviceGetAttribute(ctypes.byref(major), _MAJOR, device)
        or cuda.cuDeviceGetAttribute(ctypes.byref(minor), _MINOR, device)
        or cuda.cuDriverGetVersion(ctypes.byref(version))
    )
    if failed:
        return None
    return Gpu(
        name.value.decode(),
        f"{major.value}.{minor.value}",
        f"{version.value // 1000}.{version.value % 1000 // 10}",
    )


def driver_version(text: str | None = None) -> str:
    """Return the driver's version, as a text or the kernel's own file has it; empty: unknown."""
    if text is None:
        text = _DRIVER.read_text() if _DRIVER.is_file() else ""
    match = re.search(r"\b(\d{3}\.\d+(?:\.\d+)?)\b", text)
    return match[1] if match else ""
