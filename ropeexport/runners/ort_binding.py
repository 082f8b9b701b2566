"""onnxruntime on tensors of torch's: its inputs and outputs bound where they lie.

Source: onnxruntime's Python API reference (IOBinding), its CUDA provider's ``user_compute_stream``
and the run option ``disable_synchronize_execution_providers``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from torch import Tensor

from ropeexport.runners.arrays import Arrays
from ropeexport.runners.torch_arrays import array_from, tensor_from

# names of types: onnxruntime's where torch has another, and torch's where ONNX has another
_TORCH = {"float": "float32", "double": "float64"}
_ONNX = {"float32": "FLOAT", "float64": "DOUBLE"}


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
    kind = str(tensor.dtype).removeprefix("torch.")
    number = onnx.TensorProto.DataType.Value(_ONNX.get(kind, kind.upper()))
    index = tensor.device.index or 0
    bind(name, tensor.device.type, index, number, tuple(tensor.shape), tensor.data_ptr())


def _dtype(text: str) -> torch.dtype:
    """Return the type that onnxruntime calls ``tensor(float16)``."""
    kind = text.removeprefix("tensor(").removesuffix(")")
    found: torch.dtype = getattr(torch, _TORCH.get(kind, kind))
    return found
