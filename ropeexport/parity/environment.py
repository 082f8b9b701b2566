"""The machine and packages of a run, for its report."""

from __future__ import annotations

import platform
from importlib import metadata

import ropeexport
from ropeexport.parity.records import Environment
from ropeexport.runners.registry import distributions

_PACKAGES = ("numpy", "ml_dtypes", "onnx", "torch")


def describe() -> Environment:
    """Return the environment of this process."""
    return Environment(
        ropeexport=ropeexport.__version__,
        python=platform.python_version(),
        platform=platform.platform(),
        machine=platform.machine(),
        packages={
            name: version for name in (*_PACKAGES, *distributions()) if (version := _version(name))
        },
    )


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
