"""What onnxruntime executes with: its own providers, and plug-ins that are packages.

Source: onnxruntime's documentation of its CUDA provider (``use_tf32``), of its installation
(``preload_dlls``) and of plug-in providers (``register_execution_provider_library``,
``get_ep_devices``, ``add_provider_for_devices``).
"""

from __future__ import annotations

import contextlib
import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any

from ropeexport.errors import (
    MissingError,
    first_line,
)
from ropeexport.machine import require
from ropeexport.runners.registry import CPU, CUDA, Device, Provider, find

if TYPE_CHECKING:
    pass

_ASSIGNMENT = "session.record_ep_graph_assignment_info"
_KINDS = {"cpu": "CPU", "cuda": "GPU"}
BY_DEVICE = {None: None, "cpu": CPU, "cuda": CUDA}  # what is part of onnxruntime


def cuda_provider(**more: str) -> tuple[str, dict[str, str]]:
    """Return the CUDA provider with its options, ``more`` among them, for the next session.

    The CUDA and cuDNN of the ``nvidia-*`` wheels lie where no loader looks, so they are loaded
    beforehand; what cannot be is said on standard error, and the session goes without the provider.
    """
    import onnxruntime

    if hasattr(onnxruntime, "preload_dlls"):  # since 1.21
        with contextlib.redirect_stdout(sys.stderr):  # it prints
            onnxruntime.preload_dlls()
    # float32 means float32: TF32 has the roundoff of float16
    return CUDA.executes, {"use_tf32": "0", **more}


def require_provider(device: Device | None, provider: Provider | None) -> None:
    """Raise :class:`MissingError` where onnxruntime was built without a device's provider."""
    import onnxruntime

    asked = provider or BY_DEVICE[device]
    if asked is None or asked.package:
        return
    present = onnxruntime.get_available_providers()
    if asked.executes not in present:
        cure = "run: pip uninstall --yes onnxruntime; pip install 'ropeexport[gpu]'"
        here = f"it has {', '.join(present)}"
        raise MissingError(
            f"onnxruntime {onnxruntime.__version__} has no {asked.executes}; "
            f"{cure if asked.executes == CUDA.executes else here}",
            code="RX908",
        )


def providers_of(provider: Provider | None, **more: str) -> list[Any]:
    """Return what a session is given for a provider that is part of onnxruntime.

    None is onnxruntime's own choice: CUDA where it was built with it, and the CPU.
    """
    import onnxruntime

    if provider is None:
        present = CUDA.executes in onnxruntime.get_available_providers()
        provider = CUDA if present else CPU
    options = {**dict(provider.options), **more}
    if provider.executes == CPU.executes:
        return [(CPU.executes, options)]
    is_cuda = provider.executes == CUDA.executes
    first = cuda_provider(**options) if is_cuda else (provider.executes, options)
    return [first, CPU.executes]


def add_plugin(options: Any, provider: Provider) -> None:
    """Give a session's options the devices of a provider that is a library of its own.

    Raises
    ------
    MissingError
        Where its package is not installed, its library cannot be loaded, or it finds no device.
    """
    import onnxruntime

    require(provider.package)
    library = import_module(provider.package).get_library_path()
    try:
        onnxruntime.register_execution_provider_library(provider.package, library)
    except Exception as error:  # its own classes, whose names differ from version to version
        if "already registered" not in str(error):
            raise MissingError(
                f"{provider.distribution}: its library cannot be loaded: {first_line(error)}",
                code="RX908",
            ) from error
    kind = _KINDS[provider.device]
    devices = [
        device
        for device in onnxruntime.get_ep_devices()
        if (device.ep_name, device.device.type.name) == (provider.executes, kind)
    ]
    if not devices:
        raise MissingError(
            f"{provider.distribution} is loaded, and finds no {kind} here that it knows",
            code="RX908",
        )
    options.add_provider_for_devices(devices[:1], dict(provider.options))
    options.add_session_config_entry(_ASSIGNMENT, "1")


def require_taken(session: Any, provider: Provider) -> None:
    """Raise :class:`MissingError` where a session runs without the provider that was asked for.

    onnxruntime goes on with its CPU provider where another cannot be loaded, and only warns; and
    a plug-in that is loaded may leave every node of a model to it.
    """
    if session.get_providers()[0] != provider.executes:
        needs = "its own CUDA and cuDNN; run: pip install 'onnxruntime-gpu[cuda,cudnn]'"
        cure = f", which needs {needs}" if provider.executes == CUDA.executes else ""
        raise MissingError(f"onnxruntime cannot load its {provider.executes}{cure}", code="RX908")
    if provider.package and not any(
        part.ep_name == provider.executes for part in session.get_provider_graph_assignment_info()
    ):
        raise MissingError(f"{provider.executes} took no node of this model", code="RX513")


def device_of(executes: str) -> str:
    """Return where a provider computes, by onnxruntime's name of it."""
    known = {provider.executes: provider.device for provider in find("onnxruntime").providers}
    return known.get(executes, "")
