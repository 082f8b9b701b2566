"""The GPU, its driver and the versions of what was measured."""

from __future__ import annotations

import platform
import re
import subprocess
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from benchmarks.gpu.compiler import release
from ropeexport.trt.gpu import Gpu

_PACKAGES = (
    "ropeexport", "torch", "triton", "numpy", "onnx", "onnxruntime", "tensorrt-rtx", "tensorrt",
    "tensorrt-rtx-cu13-libs", "liger-kernel", "flash-attn", "flashinfer-python",
)  # fmt: skip
_DRIVER_FILE = Path("/proc/driver/nvidia/version")
_DRIVER = re.compile(r"\b(\d{3}\.\d+(?:\.\d+)?)\b")


@dataclass(frozen=True)
class Machine:
    """What a result was measured on."""

    gpu: str
    compute_capability: str
    driver: str
    versions: dict[str, str]

    @property
    def architecture(self) -> str:
        """The compute capability as nvcc writes it: ``90``."""
        return self.compute_capability.replace(".", "")

    def record(self) -> dict[str, Any]:
        """Return the machine as a result file keeps it."""
        return {
            "gpu": self.gpu,
            "compute_capability": self.compute_capability,
            "driver": self.driver,
            "versions": self.versions,
        }


def describe(gpu: Gpu, nvcc: Path | None = None) -> Machine:
    """Return the machine of a GPU."""
    versions = {
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
    }
    versions |= {name: found for name in _PACKAGES if (found := _version(name))}
    versions["cuda of the driver"] = gpu.driver_cuda
    if nvcc is not None:
        versions["nvcc"] = release(nvcc)
    return Machine(gpu.name, gpu.compute_capability, driver_version(), versions)


def driver_version(file: Path = _DRIVER_FILE) -> str:
    """Return the driver's version by nvidia-smi, else by the kernel's file; empty: unknown."""
    text = _said("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader")
    if not text and file.is_file():
        text = file.read_text()
    match = _DRIVER.search(text)
    return match[1] if match else ""


def slug(name: str) -> str:
    """Return a name as part of a file's: ``NVIDIA H100 80GB HBM3`` is ``nvidia-h100-80gb-hbm3``."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def _said(*command: str) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout if done.returncode == 0 else ""


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:  # not installed, or put on the path by hand
        return None
