"""Arrays in torch's memory: as tensors, and as a module's inputs."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from ropeexport.dtypes import FOREIGN
from ropeexport.errors import ParityError
from ropeexport.runners.runner import Array

_FOREIGN = {kind.torch: kind for kind in FOREIGN.values()}


def tensor_from(array: Array) -> Tensor:
    """Return a tensor of an array's values; it shares the memory where the array is writable."""
    whole = np.require(array, requirements=["C", "W"])
    kind = FOREIGN.get(str(whole.dtype))
    if kind is not None:
        return torch.from_numpy(whole.view(kind.bits)).view(kind.torch)
    return torch.from_numpy(whole)


def array_from(tensor: Tensor) -> Array:
    """Return an array of a tensor's values; it shares a CPU's memory that is contiguous."""
    host = tensor.detach().cpu().contiguous()
    kind = _FOREIGN.get(host.dtype)
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
                f"has ({', '.join(output_names)}), the module returned {len(outputs)}",
                code="RX707",
            )
        return dict(zip(output_names, outputs, strict=True))

    return run
