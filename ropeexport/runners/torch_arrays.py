"""Arrays in torch's memory: as tensors, as a module's inputs, and bound to an onnxruntime session.

Source: onnxruntime's Python API reference (IOBinding), its CUDA provider's ``user_compute_stream``
and the run option ``disable_synchronize_execution_providers``.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from onnx_ir import DataType
from onnx_ir.tensor_adapters import from_torch_dtype, to_torch_dtype
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from ropeexport.dtypes import FOREIGN
from ropeexport.errors import ParityError
from ropeexport.runners.runner import Array, Arrays


def tensor_from(array: Array) -> Tensor:
    """Return a tensor of an array's values; it shares the memory where the array is writable."""
    whole = np.require(array, requirements=["C", "W"])
    kind = FOREIGN.get(str(whole.dtype))
    if kind is not None:
        return torch.from_numpy(whole.view(kind.bits)).view(kind.torch)
    return torch.from_numpy(whole)


def array_from(tensor: Tensor) -> Array:
    """Return an array of a tensor's values."""
    host = tensor.detach().cpu().contiguous()
    kind = FOREIGN.get(str(host.dtype).removeprefix("torch."))
    if kind is not None:
        integer = getattr(torch, str(kind.bits))
        bits: Array = host.view(integer).numpy()
        return bits.view(kind.numpy)
    return host.numpy()


def caller(
    module: nn.Module, output_names: Sequence[str]
) -> Callable[[Mapping[str, Tensor]], dict[str, Tensor]]:
    """Return what calls a module by the names of ``forward``'s arguments, and names its outputs.

    Its signature is read once for many calls, which takes long.
    """
    names = inspect.signature(module.forward).parameters
    takes_any = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in names.values())

    def run(inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        by_name = takes_any or all(name in names for name in inputs)
        result = module(**inputs) if by_name else module(*inputs.values())
        outputs = [x for x in pytree.tree_leaves(result) if isinstance(x, Tensor)]
        if len(outputs) != len(output_names):
            raise ParityError(
                f"{type(module).__name__}: expected {len(output_names)} outputs as the ONNX file "
                f"has ({', '.join(output_names)}), the module returned {len(outputs)}"
            )
        return dict(zip(output_names, outputs, strict=True))

    return run


@dataclass(frozen=True)
class _Loaded:
    binding: Any
    inputs: list[Tensor]  # the binding has their addresses alone
    outputs: list[Tensor]


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
        # outputs of the shapes and types that a first run gives
        names = [value.name for value in self._session.get_outputs()]
        for name in names:
            binding.bind_output(name, self._device)
        self._session.run_with_iobinding(binding)
        outputs = []
        for name, value in zip(names, binding.get_outputs(), strict=True):
            dtype = to_torch_dtype(DataType(value.element_type()))
            outputs.append(torch.empty(value.shape(), dtype=dtype, device=self._device))
            _bind(binding.bind_output, name, outputs[-1])
        return _Loaded(binding, list(tensors.values()), outputs)

    def call(self, loaded: _Loaded) -> list[Tensor]:
        """Enqueue a run, which fills the outputs that are returned."""
        self._session.run_with_iobinding(loaded.binding, self._options)
        return loaded.outputs

    def read(self, outputs: list[Tensor]) -> list[Array]:
        """Return the arrays of outputs, in the session's order."""
        return [array_from(output) for output in outputs]


def _bind(bind: Any, name: str, tensor: Tensor) -> None:
    number, index = int(from_torch_dtype(tensor.dtype)), tensor.device.index or 0
    bind(name, tensor.device.type, index, number, tuple(tensor.shape), tensor.data_ptr())
