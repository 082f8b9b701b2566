"""Memory that an onnxruntime session reads and writes by itself: arrays, and torch's on any device.

Source: onnxruntime's Python API reference (IOBinding), its CUDA provider's ``user_compute_stream``
and the run option ``disable_synchronize_execution_providers``.
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_ir as ir

from ropeexport.dtypes import FOREIGN
from ropeexport.runners.runner import Array, Arrays

if TYPE_CHECKING:
    import torch
    from torch import Tensor

Place = tuple[str, int]  # a device and its index, as onnxruntime calls it

# onnxruntime's names of the types that NumPy lacks
_FOREIGN = {kind.onnx_text: kind for kind in FOREIGN.values()}


@dataclass(frozen=True)
class Memory:
    """A tensor in memory, as a binding takes it; ``holder`` keeps that memory."""

    device: str
    index: int
    element_type: int  # ONNX's number
    shape: tuple[int, ...]
    address: int
    holder: Any

    @classmethod
    def of_array(cls, array: Array) -> Memory:
        """Return an array's memory, or that of a C-contiguous copy."""
        whole = np.ascontiguousarray(array).reshape(array.shape)
        number = int(ir.DataType.from_numpy(whole.dtype))
        return cls("cpu", 0, number, whole.shape, whole.ctypes.data, whole)

    @classmethod
    def of_tensor(cls, tensor: Tensor) -> Memory:
        """Return a tensor's memory, or that of a contiguous copy."""
        from onnx_ir.tensor_adapters import from_torch_dtype

        whole = tensor.detach().contiguous()
        number, device = int(from_torch_dtype(whole.dtype)), whole.device
        shape = tuple(whole.shape)
        return cls(device.type, device.index or 0, number, shape, whole.data_ptr(), whole)

    @classmethod
    def of_value(cls, value: Any, dtype: np.dtype[np.generic], place: Place) -> Memory:
        """Return the memory of an OrtValue whose bits are of some type."""
        number = int(ir.DataType.from_numpy(dtype))
        return cls(*place, number, tuple(value.shape()), value.data_ptr(), value)

    def bind(self, bind: Any, name: str) -> None:
        """Hand it to ``bind_input`` or ``bind_output`` of a binding."""
        bind(name, self.device, self.index, self.element_type, self.shape, self.address)


def zeros(shape: tuple[int, ...], dtype: np.dtype[np.generic], place: Place) -> Any:
    """Return an OrtValue of zeros on a device: whole numbers as wide as a type, for its bits."""
    import onnxruntime as ort

    bits = np.zeros(shape, np.dtype(f"u{dtype.itemsize}"))
    return ort.OrtValue.ortvalue_from_numpy(bits, *place)


def array_of(value: Any) -> Array:
    """Return an OrtValue as an array, which may share a CPU's memory, and keeps it then."""
    import onnxruntime as ort

    kind = _FOREIGN.get(value.data_type())
    if kind is None:
        array: Array = value.numpy()
        return array
    # onnxruntime knows no NumPy type for it, so the bits are read where they lie
    shape = tuple(value.shape())
    if value.device_name() != "cpu":
        host = ort.OrtValue.ortvalue_from_shape_and_type(shape, kind.onnx_type)
        host.update_inplace(value)
        value = host
    size = math.prod(shape) * kind.bits.itemsize
    bits = (ctypes.c_uint8 * size).from_address(value.data_ptr())
    return np.frombuffer(bits, dtype=kind.numpy).reshape(shape).copy()


def run_bound(
    session: Any, inputs: Mapping[str, Memory], outputs: Mapping[str, Memory], options: Any
) -> None:
    """Run a session once, from memory into memory."""
    binding = session.io_binding()
    for name, memory in inputs.items():
        memory.bind(binding.bind_input, name)
    for name, memory in outputs.items():
        memory.bind(binding.bind_output, name)
    session.run_with_iobinding(binding, options)


def without_waiting() -> Any:
    """Return the options of a run that a GPU is not waited for after."""
    import onnxruntime

    options = onnxruntime.RunOptions()
    options.add_run_config_entry("disable_synchronize_execution_providers", "1")
    return options


def stream_of_its_own() -> torch.cuda.Stream:
    """Return torch's current stream; a stream of its own in place of the default one.

    onnxruntime takes the default stream's address, zero, for none.
    """
    import torch

    current = torch.cuda.current_stream()
    return current if current.cuda_stream else torch.cuda.Stream()  # type: ignore[no-untyped-call]


@contextmanager
def in_order(stream: torch.cuda.Stream) -> Iterator[None]:
    """Have what is enqueued on a stream run in the order of torch's current one."""
    import torch

    current = torch.cuda.current_stream()
    stream.wait_stream(current)
    try:
        yield
    finally:  # of a run that failed half-way too: torch takes the inputs' memory back
        current.wait_stream(stream)


@dataclass(frozen=True)
class _Loaded:
    binding: Any
    inputs: list[Memory]  # the binding has their addresses alone
    outputs: list[Tensor]


class BoundMemory:
    """A session's inputs and outputs in a device's memory, and its calls without waiting for it.

    Parameters
    ----------
    session : onnxruntime.InferenceSession
        On that device; on a GPU, on torch's current stream.
    device : str
        As torch and onnxruntime both call it.
    options : onnxruntime.RunOptions
        Of each run, such as :func:`without_waiting`.
    """

    def __init__(self, session: Any, device: str, options: Any) -> None:
        self._session = session
        self._device = device
        self._options = options

    def load(self, inputs: Arrays) -> _Loaded:
        """Bind inputs, in the session's order, and memory for the outputs."""
        import torch
        from onnx_ir.tensor_adapters import to_torch_dtype

        from ropeexport.runners.torch_arrays import tensor_from

        tensors = {name: tensor_from(x).to(self._device) for name, x in inputs.items()}
        memories = {name: Memory.of_tensor(x) for name, x in tensors.items()}
        binding = self._session.io_binding()
        for name, memory in memories.items():
            memory.bind(binding.bind_input, name)
        # outputs of the shapes and types that a first run gives
        names = [value.name for value in self._session.get_outputs()]
        for name in names:
            binding.bind_output(name, self._device)
        self._session.run_with_iobinding(binding)
        outputs = []
        for name, value in zip(names, binding.get_outputs(), strict=True):
            dtype = to_torch_dtype(ir.DataType(value.element_type()))
            outputs.append(torch.empty(value.shape(), dtype=dtype, device=self._device))
            Memory.of_tensor(outputs[-1]).bind(binding.bind_output, name)
        return _Loaded(binding, list(memories.values()), outputs)

    def call(self, loaded: _Loaded) -> list[Tensor]:
        """Enqueue a run, which fills the outputs that are returned."""
        self._session.run_with_iobinding(loaded.binding, self._options)
        return loaded.outputs

    def read(self, outputs: list[Tensor]) -> list[Array]:
        """Return the arrays of outputs, in the session's order."""
        from ropeexport.runners.torch_arrays import array_from

        return [array_from(output) for output in outputs]
