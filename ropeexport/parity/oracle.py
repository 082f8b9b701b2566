"""The float64 oracle: the module on the exact inputs, and on perturbed ones for its sensitivity.

The inputs of a case are numbers of their own type; the oracle takes those very numbers, widened.
Matrices ``pe`` are such an input.  Where a module makes them itself from integer positions,
``ropeexport.rope`` rounds them to float32 by contract, in the oracle as in eager.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from ropeexport.parity.floats import Float64s
from ropeexport.parity.truth import Truth, truth_of
from ropeexport.runners import Arrays
from ropeexport.runners.torch_arrays import call, tensor_from


class Oracle:
    """Computes exact outputs with a float64 copy of a module, on the CPU.

    Parameters
    ----------
    module : nn.Module
        In evaluation mode; it is copied.
    output_names : sequence of str
        Names of what it returns, in order.
    """

    def __init__(self, module: nn.Module, output_names: Sequence[str]) -> None:
        self._module = copy.deepcopy(module).to("cpu").double().eval()
        self._output_names = tuple(output_names)
        self.widest = max((max(p.shape, default=1) for p in module.parameters()), default=1)

    def truth(self, inputs: Arrays, seed: int) -> Truth:
        """Return the exact outputs of a case, and the change under perturbations of ``seed``."""
        return truth_of(self._run, inputs, seed)

    @torch.no_grad()
    def _run(self, inputs: Mapping[str, NDArray[np.generic]]) -> dict[str, Float64s]:
        tensors = {name: tensor_from(x) for name, x in inputs.items()}
        outputs = call(self._module, tensors, self._output_names)
        return {name: x.to(torch.float64).numpy() for name, x in outputs.items()}
