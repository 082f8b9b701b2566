"""onnxruntime on tensors of torch's: its inputs and outputs bound where they lie.

Source: onnxruntime's Python API reference (IOBinding), its CUDA provider's ``user_compute_stream``
and the run option ``disable_synchronize_execution_providers``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import onnx
import torch
from torch import Tensor

from ropeexport.bench.contenders.contender import Arrays, Run
from ropeexport.runners.torch_arrays import array_from, tensor_from

# names of types: onnxruntime's where torch has another, and torch's where ONNX has another
_TORCH = {"float": "float32", "double": "float64"}
_ONNX = {"float32": "FLOAT", "float64": "DOUBLE"}


@dataclass(frozen=True)
class _Loaded:
    binding: Any
    inputs: tuple[Tensor, ...]  # the binding has their addresses alone
    outputs: tuple[Tensor, ...]


def bound_run(session: Any, names: Sequence[str], device: str) -> Run:
    """Return a session's run on inputs and outputs in a device's memory, without waiting for it.

    Parameters
    ----------
    session : onnxruntime.InferenceSession
        On that device; on a GPU, on torch's current stream.
    names : sequence of str
        What its first outputs are called.
    device : str
        As torch and onnxruntime both call it.
    """
    import onnxruntime

    wanted = [value.name for value in session.get_inputs()]
    options = onnxruntime.RunOptions()
    options.add_run_config_entry("disable_synchronize_execution_providers", "1")

    def load(inputs: Arrays) -> _Loaded:
        tensors = tuple(tensor_from(inputs[name]).to(device).contiguous() for name in wanted)
        binding = session.io_binding()
        for name, tensor in zip(wanted, tensors, strict=True):
            _bind(binding.bind_input, name, tensor)
        return _Loaded(binding, tensors, _bound_outputs(session, binding, device))

    def call(loaded: _Loaded) -> tuple[Tensor, ...]:
        session.run_with_iobinding(loaded.binding, options)
        return loaded.outputs

    def read(outputs: tuple[Tensor, ...]) -> Arrays:
        return dict(zip(names, map(array_from, outputs), strict=False))

    return Run(load, call, read)


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
