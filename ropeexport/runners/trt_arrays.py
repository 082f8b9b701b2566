"""An engine's inputs and outputs in a device's memory, their types held to its record."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ropeexport.errors import EngineError
from ropeexport.manifest import TensorSpec
from ropeexport.runners.arrays import Arrays

if TYPE_CHECKING:
    from torch import Tensor

Shapes = dict[str, tuple[int, ...]]
Addresses = tuple[tuple[str, int], ...]


@dataclass(frozen=True)
class Loaded:
    """A run's inputs and outputs, with all that a call needs to know of them.

    Parameters
    ----------
    shapes : dict of str to tuple of int
        Of the inputs.
    addresses : tuple of (str, int)
        Of the inputs and of the outputs.
    inputs, outputs : dict of str to Tensor
        By the engine's names; a call fills the outputs.
    """

    shapes: Shapes
    addresses: Addresses
    inputs: dict[str, Tensor]
    outputs: dict[str, Tensor]


def place(specs: Iterable[TensorSpec], inputs: Arrays, device: str) -> dict[str, Tensor]:
    """Return inputs in a device's memory.

    Raises
    ------
    EngineError
        Where one is missing, or is of another type than the engine takes.
    """
    return {spec.name: _on_device(spec, _checked(spec, inputs), device) for spec in specs}


def make_tensor(spec: TensorSpec, shape: tuple[int, ...], device: str) -> Tensor:
    """Return a tensor of any values, whose memory is of one element at least.

    TensorRT refuses the null address that a tensor of length zero would have.

    Raises
    ------
    EngineError
        Where a dimension is not known before a run.
    """
    import torch

    from ropeexport.runners.torch_arrays import tensor_from

    if any(dim < 0 for dim in shape):
        raise EngineError(f"{spec.name}: expected a shape that its inputs decide, got {shape}")
    size = math.prod(shape)
    dtype = tensor_from(np.empty(0, np.dtype(spec.dtype))).dtype
    return torch.empty(max(size, 1), dtype=dtype, device=device)[:size].view(shape)


def addresses_of(tensors: dict[str, Tensor]) -> Addresses:
    """Return where the memory of tensors begins, by name; it is never null."""
    # data_ptr is 0 for a tensor of length zero, whatever memory it has
    return tuple(
        (name, tensor.data_ptr() or tensor.untyped_storage().data_ptr())
        for name, tensor in tensors.items()
    )


def _on_device(spec: TensorSpec, array: NDArray[np.generic], device: str) -> Tensor:
    from ropeexport.runners.torch_arrays import tensor_from

    if array.size == 0:
        return make_tensor(spec, array.shape, device)
    return tensor_from(array).to(device).contiguous()


def _checked(spec: TensorSpec, inputs: Arrays) -> NDArray[np.generic]:
    if spec.name not in inputs:
        raise EngineError(f"{spec.name}: expected as an input, got {', '.join(inputs) or 'none'}")
    found = inputs[spec.name]
    if str(found.dtype) != spec.dtype:
        raise EngineError(f"{spec.name}: expected {spec.dtype}, got {found.dtype}")
    return found
