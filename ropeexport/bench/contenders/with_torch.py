"""Contenders that run in torch: the module itself, and what torch.compile makes of it."""

from __future__ import annotations

import dataclasses
import shutil
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from ropeexport import manifest
from ropeexport.bench.contenders.contender import Arrays, Run, Setting
from ropeexport.bench.records import Device
from ropeexport.errors import MissingError

if TYPE_CHECKING:
    from ropeexport.models.example import Example


def needs_compiler(device: Device) -> None:
    """Raise where torch.compile cannot compile for a device."""
    if shutil.which("g++") is None and shutil.which("c++") is None:
        raise MissingError("torch.compile needs a C++ compiler; install g++")
    if device == "cuda" and find_spec("triton") is None:
        raise MissingError("torch.compile needs triton on a GPU; run: pip install triton")


def eager(setting: Setting) -> Run:
    """Run the module itself."""
    from ropeexport.models.example import bound

    example = _example(setting)
    return _run(bound(example).to(setting.device), setting)


def compiled(setting: Setting) -> Run:
    """Run the module in plain operations through ``torch.compile``."""
    import torch
    from torch.export.passes import move_to_device_pass

    from ropeexport.bench.plain import plain_program
    from ropeexport.models.example import bound

    example = _example(setting)
    program = move_to_device_pass(plain_program(example), setting.device)
    module: Any = program.module(check_guards=False)
    example = dataclasses.replace(example, module=module)
    return _run(torch.compile(bound(example), dynamic=False), setting)


def _example(setting: Setting) -> Example:
    """Return what was exported, arguments that are fixed on the device."""
    import torch
    from torch.utils._pytree import tree_map_only

    from ropeexport.models import sources

    torch.set_num_threads(setting.threads)
    example = sources.rebuild_example(manifest.read(setting.folder), setting.folder, setting.module)
    constants = tree_map_only(torch.Tensor, lambda x: x.to(setting.device), example.constants)
    return dataclasses.replace(example, constants=constants)


def _run(module: Any, setting: Setting) -> Run:
    import torch

    from ropeexport.runners.torch_arrays import array_from, caller, tensor_from

    call = caller(module, setting.outputs)

    def load(inputs: Arrays) -> dict[str, torch.Tensor]:
        return {name: tensor_from(x).to(setting.device) for name, x in inputs.items()}

    def run(inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        with torch.inference_mode():
            return call(inputs)

    def read(outputs: dict[str, torch.Tensor]) -> Arrays:
        return {name: array_from(x) for name, x in outputs.items()}

    return Run(load, run, read)
