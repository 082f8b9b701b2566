"""TensorRT-RTX and TensorRT as values: the one importer of ``tensorrt_rtx`` and ``tensorrt``.

Names and versions are read from the installed packages without importing them; :func:`load` imports
one and probes its documented API.  Code asks for a capability, never for a name.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from ropeexport.errors import MissingError, UsageError
from ropeexport.machine import cure_of, find_gpu, version_of

RTX = "tensorrt-rtx"
FULL = "tensorrt"
NAMES = (RTX, FULL)  # as the package registry spells them
INSTALL = {name: cure_of(name) for name in NAMES}
# compute capabilities that a support matrix names (TensorRT-RTX 1.0 to 1.7); TensorRT's names all
# from 7.5 on
_NAMED_GPUS = {RTX: frozenset({"7.5", "8.0", "8.6", "8.9", "12.0", "12.1"})}
_MODULES = {RTX: "tensorrt_rtx", FULL: "tensorrt"}


@dataclass(frozen=True)
class Capabilities:
    """What a flavour can do, found by probing its API."""

    builds_without_gpu: bool  # kernels are finished when the engine is loaded
    runtime_cache: bool  # what was finished at load can be kept in a file
    timing_cache: bool  # what was measured while building can be kept in a file
    strongly_typed_flag: bool  # types from the graph must be asked for
    serialises_plugins: bool  # an engine can carry its plugin library
    engine_host_code: bool  # host code in an engine must be allowed before loading it
    attention: bool  # a fused attention layer that can be marked decomposable
    refit: bool  # weights that are marked by name can be exchanged in an engine
    strip: bool  # such weights can be left out of an engine, until it is loaded
    weight_streaming: bool  # weights can stay in the host's memory until they are needed


@dataclass(frozen=True)
class Flavour:
    """An imported flavour of TensorRT."""

    name: str
    module: Any
    version: str
    capabilities: Capabilities

    @property
    def network_flags(self) -> int:
        """With what a network is created, so that it has the types of the graph."""
        if not self.capabilities.strongly_typed_flag:
            return 0
        return 1 << int(self.module.NetworkDefinitionCreationFlag.STRONGLY_TYPED)


def available_flavours() -> dict[str, str]:
    """Return the version of each installed flavour by name, without importing any."""
    here = [name for name in NAMES if find_spec(_MODULES[name]) is not None]
    # of one that was put on the path by hand only the module knows
    return {name: version_of(name) or load(name).version for name in here}


def pick_flavour(name: str | None = None) -> str:
    """Return the flavour to build with.

    Without a name: ``tensorrt`` where it is installed and this machine has a GPU, which it needs to
    build at all; else ``tensorrt-rtx``, whose engines are finished on the GPU that loads them.

    Raises
    ------
    MissingError
        Naming the command that brings what is not installed.
    """
    if name is not None and name not in NAMES:
        raise UsageError(
            f"--flavour: expected one of {', '.join(NAMES)}, got {name!r}", code="RX110"
        )
    installed = available_flavours()
    if name is None:
        has_gpu = FULL in installed and find_gpu() is not None
        name = FULL if has_gpu or RTX not in installed else RTX
    if not installed:
        raise MissingError(f"no TensorRT is installed; run: {INSTALL[RTX]}", code="RX901")
    if name not in installed:
        raise MissingError(f"{name} is not installed; run: {INSTALL[name]}", code="RX901")
    return name


def names_gpu(flavour: str, compute_capability: str) -> bool:
    """Say whether a flavour's documents name a GPU; on another it may run all the same."""
    named = _NAMED_GPUS.get(flavour)
    return named is None or compute_capability in named


@cache
def load(name: str) -> Flavour:
    """Import a flavour and probe what it can do."""
    try:
        module = import_module(_MODULES[name])
    except (ImportError, OSError) as error:
        raise MissingError(
            f"{name} cannot be imported ({error}); run: {INSTALL[name]}", code="RX902"
        ) from error
    return Flavour(name, module, str(module.__version__), probe(module))


def probe(module: Any) -> Capabilities:
    """Return what the API of a flavour's module offers."""
    finishes_at_load = _has(module, "IRuntimeConfig", "create_runtime_cache")
    return Capabilities(
        builds_without_gpu=finishes_at_load,
        runtime_cache=finishes_at_load,
        # a flavour that measures nothing at build still has the method; it does nothing there
        timing_cache=_has(module, "IBuilderConfig", "create_timing_cache") and not finishes_at_load,
        strongly_typed_flag=_has(module, "NetworkDefinitionCreationFlag", "STRONGLY_TYPED"),
        serialises_plugins=_has(module, "IBuilderConfig", "plugins_to_serialize"),
        engine_host_code=_has(module, "Runtime", "engine_host_code_allowed"),
        attention=_has(module, "IAttentionInputLayer", "attention"),
        refit=_has(module, "BuilderFlag", "REFIT_INDIVIDUAL")
        and _has(module, "INetworkDefinition", "mark_weights_refittable")
        and _has(module, "Refitter", "set_named_weights"),
        strip=_has(module, "BuilderFlag", "STRIP_PLAN"),
        weight_streaming=_has(module, "BuilderFlag", "WEIGHT_STREAMING")
        and _has(module, "ICudaEngine", "weight_streaming_budget_v2"),
    )


def _has(module: Any, holder: str, member: str) -> bool:
    return hasattr(getattr(module, holder, None), member)
