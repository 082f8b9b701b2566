"""Packages that are not always there: ask for one, or learn which command brings it."""

from __future__ import annotations

from collections.abc import Iterable
from importlib import metadata
from importlib.util import find_spec

from ropeexport.errors import MissingError

# the set of pyproject.toml that brings each, or the package of another name
_BROUGHT_BY = {
    "cloudpickle": "ropeexport[cpu]",
    "diffusers": "ropeexport[models]",
    "torch": "ropeexport[export]",
    "transformers": "ropeexport[models]",
    "onnxscript": "ropeexport[export]",
    "onnxruntime": "ropeexport[cpu]",
    "onnxruntime_ep_nv_tensorrt_rtx": "onnxruntime-ep-nv-tensorrt-rtx",
    "onnxruntime_ep_openvino": "onnxruntime-ep-openvino",
    "openvino": "ropeexport[bench]",
    "tensorrt": "ropeexport[gpu]",
    "tensorrt-rtx": "ropeexport[cpu]",
    "jinja2": "ropeexport[report]",
    "matplotlib": "ropeexport[report]",
}


def require(*names: str) -> None:
    """Raise :class:`MissingError` with the command that brings the first package not installed."""
    for name in names:
        if find_spec(name) is None:
            raise MissingError(f"{name} is not installed; run: {cure_of(name)}")


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
