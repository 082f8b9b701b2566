"""Packages that are not always there: ask for one, or learn which command brings it."""

from __future__ import annotations

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


def cure_of(name: str) -> str:
    """Return the command that brings a package, or a flavour of TensorRT."""
    return f"pip install '{_BROUGHT_BY.get(name, name)}'"
