"""What a result was measured on."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version

from ropeexport.bench.machine import processor

_PACKAGES = ("ropeexport", "torch", "onnx", "onnxscript", "onnxruntime", "numpy")


def describe(*packages: str) -> dict[str, object]:
    """Return the machine's processor, cores, system and versions, those of more packages too."""
    return {
        "processor": processor(),
        "cores": os.cpu_count(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in (*_PACKAGES, *packages)},
    }


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"
