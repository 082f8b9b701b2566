"""onnxruntime on tensors of torch's: its inputs and outputs bound where they lie.

Source: onnxruntime's Python API reference (IOBinding), its CUDA provider's ``user_compute_stream``
and the run option ``disable_synchronize_execution_providers``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from onnx_ir.tensor_adapters import from_torch_dtype
from torch import Tensor

from ropeexport.dtypes import FLOATS
from ropeexport.runners.arrays import Arrays
from ropeexport.runners.torch_arrays import array_from, tensor_from

_FLOATS = {kind.onnx_text: kind.torch for kind in FLOATS}


@dataclass(frozen=True)
class _Loaded:
    binding: Any
    inputs: tuple[Tensor, ...]  # the binding has their addresses alone
    outputs: tuple[Tensor, ...]


class BoundMemory:
    """A session's inputs and outputs in a device's memory, and its calls without waiting for it.

    Parameters
    ----------
    session : onnxruntime.InferenceSession
        On that device; on a GPU, on torch's current stream.
    device : str
        As torch and onnxruntime both call it.
    """

    def __init__(self, session: Any, device: str) -> None:
        import onnxruntime

        self._session = session
        self._device = device
        self._options = onnxruntime.RunOptions()
        self._options.add_run_config_entry("disable_synchronize_execution_providers", "1")

    def load(self, inputs: Arrays) -> _Loaded:
        """Bind inputs, in the session's order, and memory for the outputs."""
        tensors = {name: tensor_from(x).to(self._device).contiguous() for name, x in inputs.items()}
        binding = self._session.io_binding()
        for name, tensor in tensors.items():
            _bind(binding.bind_input, name, tensor)
        outputs = _bound_outputs(self._session, binding, self._device)
        return _Loaded(binding, tuple(tensors.values()), outputs)

    def call(self, loaded: _Loaded) -> tuple[Tensor, ...]:
        """Enqueue a run, which fills the outputs that are returned."""
        self._session.run_with_iobinding(loaded.binding, self._options)
        return loaded.outputs

    def read(self, outputs: tuple[Tensor, ...]) -> list[NDArray[np.generic]]:
        """Return the arrays of outputs, in the session's order."""
        return [array_from(output) for output in outputs]


def _bound_outputs(session: Any, binding: Any, device: str) -> tuple[Tensor, ...]:
    """Bind outputs of the shapes and types that a first run gives."""
    names = [value.name for value in session.get_outputs()]
    for name in names:
        binding.bind_output(name, device)
    session.run_with_iobinding(binding)
    outputs = tuple(
        torch.empty(value.shape(), dtype=_dtype(value.data_type()), device=device)
        for value in binding.get_outputs()
    )
    for name, output in zip(names, outputs, strict=True):
        _bind(binding.bind_output, name, output)
    return outputs


def _bind(bind: Any, name: str, tensor: Tensor) -> None:
    number, index = int(from_torch_dtype(tensor.dtype)), tensor.device.index or 0
    bind(name, tensor.device.type, index, number, tuple(tensor.shape), tensor.data_ptr())


def _dtype(text: str) -> torch.dtype:
    """Return the type that onnxruntime calls ``tensor(float16)``."""
    own = text.removeprefix("tensor(").removesuffix(")")  # what is no floating type: torch's name
    found: torch.dtype = _FLOATS.get(text) or getattr(torch, own)
    return found
