"""The float64 oracle: the module on the exact inputs, and on perturbed ones for its sensitivity.

The inputs of a case are numbers of their own type; the oracle takes those very numbers, widened.
Matrices ``pe`` are such an input.  Where a module makes them itself from integer positions,
``ropeexport.rope`` rounds them to float32 by contract, in the oracle as in eager.  What else a
module casts to a narrower type stays in float64, and what its casts to float32 and its tables in
float32 cost is measured on its own: a conversion is rounded once and grows in no sum.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ropeexport.parity.floats import Float64s, float_type
from ropeexport.parity.truth import Truth, floats_in_float64, size_of, truth_of
from ropeexport.parity.widening import Widened
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
        own = copy.deepcopy(module).to("cpu")
        tables = [name for name, x in own.named_buffers() if x.dtype is torch.float32]
        self._module = own.double().eval()
        self._tables = [self._module.get_buffer(name) for name in tables]
        self._output_names = tuple(output_names)
        self.widest = max((max(p.shape, default=1) for p in module.parameters()), default=1)

    def truth(self, inputs: Arrays, seed: int) -> Truth:
        """Return the exact outputs of a case, and the change under perturbations of ``seed``."""
        widened = Widened(single=True)
        with widened:
            truth = truth_of(self._run, inputs, seed)
        if not (widened.met_single or self._tables):
            return truth
        with Widened(single=False), self._rounded_tables(seed):
            coarse = self._run({**inputs, **floats_in_float64(inputs)})
        moves = {name: size_of(x - truth.outputs[name]) for name, x in coarse.items()}
        return dataclasses.replace(truth, conversions=moves)

    @torch.no_grad()
    def _run(self, inputs: Mapping[str, NDArray[np.generic]]) -> dict[str, Float64s]:
        tensors = {name: tensor_from(x) for name, x in inputs.items()}
        outputs = call(self._module, tensors, self._output_names)
        return {name: x.to(torch.float64).numpy() for name, x in outputs.items()}

    @contextmanager
    def _rounded_tables(self, seed: int) -> Iterator[None]:
        """Perturb the buffers that a module keeps in float32 by its unit roundoff, for a while."""
        generator = torch.Generator().manual_seed(seed)
        kept = [x.clone() for x in self._tables]
        try:
            for table in self._tables:
                table.mul_(1.0 + _noise(table, generator))
            yield
        finally:
            for table, values in zip(self._tables, kept, strict=True):
                table.copy_(values)


def _noise(table: Tensor, generator: torch.Generator) -> Tensor:
    signs = 2.0 * torch.rand(table.shape, dtype=torch.float64, generator=generator) - 1.0
    return float_type("float32").unit_roundoff * signs
