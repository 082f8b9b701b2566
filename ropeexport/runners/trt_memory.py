"""The memory of an engine's runs: torch's tensors, where TensorRT takes them."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING

from ropeexport.errors import EngineError
from ropeexport.manifest import TensorSpec
from ropeexport.runners.runner import Arrays
from ropeexport.runners.trt_contexts import Addresses

if TYPE_CHECKING:
    from torch import Tensor


def held(spec: TensorSpec, tensor: Tensor, device: str) -> Tensor:
    """Return a tensor as an engine reads it: contiguous, at an address that is not null."""
    return tensor.contiguous() if tensor.numel() else make_tensor(spec, tuple(tensor.shape), device)


def place(specs: Iterable[TensorSpec], inputs: Arrays, device: str) -> dict[str, Tensor]:
    """Return inputs in a device's memory.

    Raises
    ------
    EngineError
        Where one is missing, or is of another type than the engine takes.
    """
    from ropeexport.runners.torch_arrays import tensor_from

    placed = {}
    for spec in specs:
        name = spec.name
        if name not in inputs:
            raise EngineError(
                f"{name}: expected as an input, got {', '.join(inputs) or 'none'}", code="RX605"
            )
        if str(inputs[name].dtype) != spec.dtype:
            raise EngineError(
                f"{name}: expected {spec.dtype}, got {inputs[name].dtype}", code="RX604"
            )
        placed[name] = held(spec, tensor_from(inputs[name]).to(device), device)
    return placed


def make_tensor(spec: TensorSpec, shape: tuple[int, ...], device: str) -> Tensor:
    """Return a tensor of any values, whose memory is of one element at least.

    TensorRT refuses the null address that a tensor of length zero would have.

    Raises
    ------
    EngineError
        Where a dimension is not known before a run.
    """
    import torch

    if any(dim < 0 for dim in shape):
        raise EngineError(
            f"{spec.name}: expected a shape that its inputs decide, got {shape}", code="RX602"
        )
    size = math.prod(shape)
    made = torch.empty(max(size, 1), dtype=getattr(torch, spec.dtype), device=device)
    return made[:size].view(shape)


def addresses_of(tensors: dict[str, Tensor]) -> Addresses:
    """Return where the memory of tensors begins, by name; it is never null."""
    # data_ptr is 0 for a tensor of length zero, whatever memory it has
    return tuple(
        (name, tensor.data_ptr() or tensor.untyped_storage().data_ptr())
        for name, tensor in tensors.items()
    )
