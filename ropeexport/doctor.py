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
from ropeexport.packages import cure_of
from ropeexport.runners.registry import Runtime, chosen
from ropeexport.trt import plugin_library, toolchain
from ropeexport.trt.gpu import Gpu, find_gpu

EXPORT_CURE = cure_of("torch")
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
    needed = ["torch", "onnx", "onnxscript", "onnx_ir"]
    missing = [name for name in needed if name not in found]
    # of a runtime that comes in several packages, one is enough
    lines = [list(look(runtime)) for runtime in chosen() if not runtime.optional]
    missing += [names[0] for names in lines if not found.intersection(names)]
    return Diagnosis(ropeexport=__version__, items=items, missing=tuple(missing), ok=not missing)


def _items() -> Iterator[Item]:
    gpu = find_gpu()
    yield Item(name="python", found=sys.version.split()[0], purpose="all")
    yield _item("torch", "export, check", lambda: _torch(gpu), EXPORT_CURE)
    for name in ("onnx", "onnxscript", "onnx_ir"):
        yield _item(name, "export", lambda name=name: _package(name), EXPORT_CURE)  # type: ignore[misc]
    for runtime in chosen():
        yield from _runtime(runtime)
    yield _item("gpu", "running engines", lambda: _gpu_text(gpu), _GPU_CURE)
    yield _item("nvcc", "plugin build", _nvcc, toolchain.NVCC_CURE)
    yield _item("cmake", "plugin build", _cmake, toolchain.CMAKE_CURE)
    yield _item("plugin", "build --impl plugin", _plugin, "ropeexport plugin build")


_GPU_CURE = "an NVIDIA GPU and its driver: sudo ubuntu-drivers install, or NVIDIA's installer"


def look(runtime: Runtime) -> dict[str, str | None]:
    """Return what is here of a runtime, by the name of each line that is shown of it."""
    found = runtime.look()
    package = next(iter((*runtime.packages, *runtime.distributions)), runtime.name)
    return {runtime.name: _package(package)} if found is None else found


def _runtime(runtime: Runtime) -> Iterator[Item]:
    purpose = "check" if runtime.runs == "file" else "build, check"
    for name, found in look(runtime).items():
        yield _item(name, purpose, lambda found=found: found, cure_of(name))  # type: ignore[misc]
    for provider in runtime.providers:
        if provider.package:
            purpose = f"check --runtime {runtime.name}:{provider.name}"
            package = provider.package
            yield _item(
                provider.distribution,
                purpose,
                lambda package=package: _package(package),  # type: ignore[misc]
                cure_of(provider.package),
            )


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
