"""What a benchmark was measured on, in a line."""

from __future__ import annotations

import platform
from pathlib import Path
from typing import TYPE_CHECKING

from ropeexport.trt.gpu import find_gpu

if TYPE_CHECKING:
    from ropeexport.bench.records import Device


def processor(device: Device = "cpu") -> str:
    """Return the processor's name, that of the GPU before it where that is the device."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.is_file() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    name = names[0] if names else platform.processor()
    gpu = find_gpu() if device == "cuda" else None
    return f"{gpu.name}, {name}" if gpu else name
