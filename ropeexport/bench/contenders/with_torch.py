"""Contenders that run in torch: the module itself, and what torch.compile makes of it."""

from __future__ import annotations

import dataclasses
import shutil
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ropeexport.bench.contenders.contender import Setting
from ropeexport.errors import MissingError
from ropeexport.runners.arrays import Arrays
from ropeexport.runners.registry import Device
from ropeexport.runners.runner import Facts, Runner

if TYPE_CHECKING:
    from torch import Tensor

    from ropeexport.models.example import Example


def needs_compiler(device: Device) -> None:
    """Raise where torch.compile cannot compile for a device."""
    if shutil.which("g++") is None and shutil.which("c++") is None:
        raise MissingError("torch.compile needs a C++ compiler; install g++")
    if device == "cuda" and find_spec("triton") is None:
        raise MissingError("torch.compile needs triton on a GPU; run: pip install triton")


def eager(setting: Setting) -> Runner:
    """Run the module itself."""
    from ropeexport.models.example import bound

    example = _example(setting)
    return _TorchRunner(bound(example).to(setting.device), setting)


def compiled(setting: Setting) -> Runner:
    """Run the module in plain operations through ``torch.compile``."""
    import torch
    from torch.export.passes import move_to_device_pass

    from ropeexport.bench.plain import plain_program
    from ropeexport.models.example import bound

    example = _example(setting)
    program = move_to_device_pass(plain_program(example), setting.device)
    module: Any = program.module(check_guards=False)
    example = dataclasses.replace(example, module=module)
    run = torch.compile(bound(example).to(setting.device), dynamic=False)
    return _TorchRunner(run, setting)


def _example(setting: Setting) -> Example:
    """Return what was exported."""
    import torch

    from ropeexport.models import sources

    torch.set_num_threads(setting.threads)
    return sources.rebuild_example(setting.artifact, setting.module)


class _TorchRunner(Runner):
    """Runs a module on tensors of its device, whatever it leaves in itself."""

    def __init__(self, module: Any, setting: Setting) -> None:
        import torch

        from ropeexport.runners.torch_arrays import caller

        self._call = caller(module, setting.outputs)
        self._device = setting.device
        self.facts = Facts(torch.__version__, device=setting.device)

    def load(self, inputs: Arrays) -> dict[str, Tensor]:
        from ropeexport.runners.torch_arrays import tensor_from

        return {name: tensor_from(x).to(self._device) for name, x in inputs.items()}

    def call(self, loaded: dict[str, Tensor]) -> dict[str, Tensor]:
        import torch

        with torch.inference_mode():
            return self._call(loaded)

    def read(self, results: dict[str, Tensor]) -> dict[str, NDArray[np.generic]]:
        from ropeexport.runners.torch_arrays import array_from

        return {name: array_from(x) for name, x in results.items()}
