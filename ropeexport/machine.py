"""What this machine has: packages, or the command that brings them, its processor and its GPU.

The GPU is asked of the driver itself: no torch, no TensorRT.  Source: CUDA Driver API reference
(cuInit, cuDriverGetVersion, cuDeviceGetName, cuDeviceGetAttribute).
"""

from __future__ import annotations

import ctypes
import platform
import re
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from ropeexport.errors import MissingError

if TYPE_CHECKING:
    from ropeexport.runners.registry import Device


# what each set of pyproject.toml brings
_SETS = {
    "bench": ("openvino",),
    "cpu": ("cloudpickle", "onnxruntime", "tensorrt-rtx"),
    "export": ("onnxscript", "torch"),
    "gpu": ("tensorrt",),
    "models": ("diffusers", "transformers"),
    "report": ("jinja2", "matplotlib"),
    "sign": ("OpenSSL", "model_signing"),
}
_BROUGHT_BY = {name: f"ropeexport[{set_}]" for set_, names in _SETS.items() for name in names} | {
    "PIL": "pillow",
    "onnxruntime_ep_nv_tensorrt_rtx": "onnxruntime-ep-nv-tensorrt-rtx",
    "onnxruntime_ep_openvino": "onnxruntime-ep-openvino",
}
_MAJOR, _MINOR = 75, 76  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR, _MINOR
_NAME_BYTES = 256
_DRIVER = Path("/proc/driver/nvidia/version")


def require(*names: str) -> None:
    """Raise :class:`MissingError` with the command that brings the first package not installed."""
    for name in names:
        if find_spec(name) is None:
            raise MissingError(f"{name} is not installed; run: {cure_of(name)}", code="RX901")


def version_of(distribution: str) -> str | None:
    """Return the version of what ``pip`` installed, imported or not; None: it installed no such."""
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:  # not here, or put on the path by hand
        return None


def versions_of(distributions: Iterable[str]) -> dict[str, str]:
    """Return the versions of those that are installed."""
    return {name: found for name in distributions if (found := version_of(name))}


def cure_of(name: str) -> str:
    """Return the command that brings a package, or a flavour of TensorRT."""
    return f"pip install '{_BROUGHT_BY.get(name, name)}'"


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


def output_of(*command: str) -> str:
    """Return what a command prints; nothing where it fails, takes too long or is not here."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def processor(device: Device = "cpu") -> str:
    """Return the processor's name, that of the GPU before it where that is the device."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.is_file() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    name = names[0] if names else platform.processor()
    gpu = find_gpu() if device == "cuda" else None
    return f"{gpu.name}, {name}" if gpu else name


def memory_mb(key: str = "VmHWM") -> float:
    """Return this process's largest resident memory, or what else the kernel keeps of it (VmRSS).

    NaN where it does not; getrusage would count a parent's too.
    """
    status = Path("/proc/self/status")
    lines = status.read_text(encoding="ascii").splitlines() if status.is_file() else []
    found = (int(line.split()[1]) / 1024 for line in lines if line.startswith(f"{key}:"))
    return next(found, float("nan"))
