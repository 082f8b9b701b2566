"""What a result was found on: the processor, the system and the packages."""

from __future__ import annotations

import platform
from pathlib import Path
from typing import TYPE_CHECKING

import ropeexport
from ropeexport.packages import versions_of
from ropeexport.parity.records import Environment
from ropeexport.runners.registry import distributions
from ropeexport.trt.gpu import find_gpu

if TYPE_CHECKING:
    from ropeexport.runners.registry import Device

_PACKAGES = ("numpy", "ml_dtypes", "onnx", "onnxscript", "torch")


def describe() -> Environment:
    """Return the environment of this process."""
    return Environment(
        ropeexport=ropeexport.__version__,
        python=platform.python_version(),
        platform=platform.platform(),
        machine=platform.machine(),
        packages=versions_of((*_PACKAGES, *distributions())),
    )


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
