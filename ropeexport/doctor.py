"""What this machine has of what ropeexport needs, and the command that brings the rest."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

from ropeexport import __version__
from ropeexport.errors import PluginError
from ropeexport.manifest import Record
from ropeexport.trt import plugin_library, toolchain
from ropeexport.trt.flavour import INSTALL, NAMES, available_flavours
from ropeexport.trt.gpu import Gpu, find_gpu

EXPORT_CURE = "pip install 'ropeexport[export]'"
_DRIVER = Path("/proc/driver/nvidia/version")


class Item(Record):
    """One thing that ropeexport can use."""

    name: str
    found: str | None  # version or place
    purpose: str
    cure: str | None = None  # the command that brings it; None where it is there


class Diagnosis(Record):
    """All of them, and whether export, onnxruntime and one TensorRT are there."""

    ropeexport: str
    items: tuple[Item, ...]
    missing: tuple[str, ...]  # of what export, check and build need
    ok: bool


def examine() -> Diagnosis:
    """Look at this machine; nothing that is absent or broken raises."""
    items = tuple(_items())
    found = {item.name for item in items if item.found is not None}
    needed = ["torch", "onnx", "onnxscript", "onnx_ir", "onnxruntime"]
    missing = [name for name in needed if name not in found]
    if not found.intersection(NAMES):
        missing.append(NAMES[0])
    return Diagnosis(ropeexport=__version__, items=items, missing=tuple(missing), ok=not missing)


def _items() -> Iterator[Item]:
    gpu = find_gpu()
    yield Item(name="python", found=sys.version.split()[0], purpose="all")
    yield _item("torch", "export, check", lambda: _torch(gpu), EXPORT_CURE)
    for name in ("onnx", "onnxscript", "onnx_ir"):
        yield _item(name, "export", lambda name=name: _package(name), EXPORT_CURE)  # type: ignore[misc]
    yield _item("onnxruntime", "check", _onnxruntime, INSTALL["tensorrt-rtx"])
    flavours = available_flavours()
    for name in NAMES:
        version = flavours.get(name)
        yield _item(name, "build, check", lambda version=version: version, INSTALL[name])  # type: ignore[misc]
    yield _item("gpu", "running engines", lambda: _gpu_text(gpu), _GPU_CURE)
    yield _item("nvcc", "plugin build", _nvcc, toolchain.NVCC_CURE)
    yield _item("cmake", "plugin build", _cmake, toolchain.CMAKE_CURE)
    yield _item("plugin", "build --impl plugin", _plugin, "ropeexport plugin build")


_GPU_CURE = "an NVIDIA GPU and its driver: sudo ubuntu-drivers install, or NVIDIA's installer"


def _item(name: str, purpose: str, look: Callable[[], str | None], cure: str) -> Item:
    found = look()
    return Item(name=name, found=found, purpose=purpose, cure=None if found else cure)


def _package(name: str) -> str | None:
    """Return an installed package's version without importing it."""
    if find_spec(name) is None:
        return None
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:  # on the path by hand
        return "version unknown"


def _torch(gpu: Gpu | None) -> str | None:
    version = _package("torch")
    if version is None or gpu is None:
        return version
    try:
        import torch

        sees = "sees the GPU" if torch.cuda.is_available() else "sees NO GPU: not a CUDA build"
    except (ImportError, OSError) as error:
        return f"{version}, cannot be imported: {error}"
    return f"{version}, {sees}"


def _onnxruntime() -> str | None:
    if find_spec("onnxruntime") is None:
        return None
    try:
        import onnxruntime
    except (ImportError, OSError):  # there, but broken: the cure is the same
        return None
    providers = (name.removesuffix("ExecutionProvider") for name in _providers(onnxruntime))
    return f"{onnxruntime.__version__} ({', '.join(providers)})"


def _providers(onnxruntime: object) -> list[str]:
    names: list[str] = onnxruntime.get_available_providers()  # type: ignore[attr-defined]
    return names


def _gpu_text(gpu: Gpu | None) -> str | None:
    if gpu is None:
        return None
    return (
        f"{gpu.name}, compute capability {gpu.compute_capability}, "
        f"driver{_driver_version()} for CUDA {gpu.driver_cuda}"
    )


def _driver_version() -> str:
    try:
        match = re.search(r"\b(\d{3}\.\d+(\.\d+)?)\b", _DRIVER.read_text())
    except OSError:
        return ""
    return f" {match[1]}" if match else ""


def _nvcc() -> str | None:
    return _tool_version(toolchain.find_nvcc(), r"release ([\d.]+)")


def _cmake() -> str | None:
    return _tool_version(toolchain.find_cmake(), r"version ([\d.]+)")


def _tool_version(path: str | None, pattern: str) -> str | None:
    if path is None:
        return None
    try:
        done = subprocess.run(
            [path, "--version"], capture_output=True, text=True, timeout=20, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    match = re.search(pattern, done.stdout)
    return f"{match[1]} ({path})" if match else None


def _plugin() -> str | None:
    try:
        path = plugin_library.find()
    except PluginError:  # named by the environment, and not there
        return None
    return str(path) if path else None
