"""What this machine has of what ropeexport needs, and the command that brings the rest."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from importlib.util import find_spec

from ropeexport import __version__
from ropeexport.errors import PluginError
from ropeexport.machine import Gpu, cure_of, driver_version, find_gpu, version_of
from ropeexport.manifest import Record
from ropeexport.runners.registry import Runtime, chosen
from ropeexport.trt import plugin_build, plugin_library

EXPORT_CURE = cure_of("torch")
_GPU_CURE = "an NVIDIA GPU and its driver: sudo ubuntu-drivers install, or NVIDIA's installer"


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
    yield _item("torch", "export, check", _torch(gpu), EXPORT_CURE)
    for name in ("onnx", "onnxscript", "onnx_ir"):
        yield _item(name, "export", _package(name), EXPORT_CURE)
    for runtime in chosen():
        yield from _runtime(runtime)
    yield _item("gpu", "running engines", _gpu_text(gpu) if gpu else None, _GPU_CURE)
    yield _item("nvcc", "plugin build", _tool(plugin_build.find_nvcc()), plugin_build.NVCC_CURE)
    yield _item("cmake", "plugin build", _tool(plugin_build.find_cmake()), plugin_build.CMAKE_CURE)
    yield _item("plugin", "build --impl plugin", _plugin(), "ropeexport plugin build")


def look(runtime: Runtime) -> dict[str, str | None]:
    """Return what is here of a runtime, by the name of each line that is shown of it."""
    found = runtime.look()
    package = next(iter((*runtime.packages, *runtime.distributions)), runtime.name)
    return {runtime.name: _package(package)} if found is None else found


def _runtime(runtime: Runtime) -> Iterator[Item]:
    purpose = "check" if runtime.runs == "file" else "build, check"
    for name, found in look(runtime).items():
        yield _item(name, purpose, found, cure_of(name))
    for provider in runtime.providers:
        if provider.package:
            purpose = f"check --runtime {runtime.name}:{provider.name}"
            found = _package(provider.package)
            yield _item(provider.distribution, purpose, found, cure_of(provider.package))


def _item(name: str, purpose: str, found: str | None, cure: str) -> Item:
    return Item(name=name, found=found, purpose=purpose, cure=None if found else cure)


def _package(name: str) -> str | None:
    """Return an installed package's version without importing it."""
    if find_spec(name) is None:
        return None
    return version_of(name) or "version unknown"  # on the path by hand


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


def _gpu_text(gpu: Gpu) -> str:
    driver = " ".join(filter(None, ("driver", driver_version())))
    return (
        f"{gpu.name}, compute capability {gpu.compute_capability}, {driver} for CUDA "
        f"{gpu.driver_cuda}"
    )


def _tool(path: str | None) -> str | None:
    release = plugin_build.release_of(path) if path else ""
    return f"{release} ({path})" if release else None


def _plugin() -> str | None:
    try:
        path = plugin_library.find()
    except PluginError:  # named by the environment, and not there
        return None
    return str(path) if path else None
