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
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager

import torch
from torch import Tensor, nn

from ropeexport.dtypes import SINGLE
from ropeexport.errors import ParityError
from ropeexport.parity.tolerance import Size, samples_for
from ropeexport.parity.truth import Truth, floats_in_float64, joined, size_of, truth_of
from ropeexport.parity.widening import Widened
from ropeexport.runners.arrays import Arrays, Float64s
from ropeexport.runners.cause import cause_of
from ropeexport.runners.module_calls import ModuleCalls

# One draw for the tables of a small output may undo a conversion's own error by luck
_MOST_DRAWS = 4


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
        own = _copied(module).to("cpu")
        tables = [name for name, x in own.named_buffers() if x.dtype is torch.float32]
        own = own.double().eval()
        self._tables = [own.get_buffer(name) for name in tables]
        # an input changed in place is eager's to tell: what is cast there is not cast here
        self._calls = ModuleCalls(own, output_names, may_change_inputs=True)
        self.widest = max((max(p.shape, default=1) for p in module.parameters()), default=1)

    def truth(self, inputs: Arrays, seed: int) -> Truth:
        """Return the exact outputs of a case, and the change under perturbations of ``seed``."""
        widened = Widened(single=True)
        truth = truth_of(lambda x: self._row([x], widened)[0], inputs, seed)
        if not (widened.met_single or self._tables):
            return truth
        return dataclasses.replace(truth, conversions=self._conversions(inputs, truth, seed))

    def _conversions(self, inputs: Arrays, truth: Truth, seed: int) -> dict[str, Size]:
        """Return how the outputs move by the module's own conversions to float32."""
        wide = {**inputs, **floats_in_float64(inputs)}
        moves: dict[str, list[Size]] = {name: [] for name in truth.outputs}
        smallest = min((x.size for x in truth.outputs.values()), default=0)
        for number in range(min(_MOST_DRAWS, samples_for(smallest))):
            coarse = self._row([wide], self._as_written(seed + number))[0]
            for name, x in coarse.items():
                moves[name].append(size_of(x - truth.outputs[name]))
        return {name: joined(sizes) for name, sizes in moves.items()}

    def in_a_row(self, calls: Sequence[Arrays]) -> list[dict[str, Float64s]]:
        """Return the exact outputs of some inputs, nothing put back in between."""
        wide = [{**inputs, **floats_in_float64(inputs)} for inputs in calls]
        return self._row(wide, Widened(single=True))

    def cause(self, before: Sequence[Arrays], inputs: Arrays) -> str:
        """Say why the result on ``inputs`` is another one after the calls ``before``."""
        return cause_of(self._calls, before, inputs)

    def _row(
        self, calls: Sequence[Arrays], within: AbstractContextManager[object]
    ) -> list[dict[str, Float64s]]:
        outputs = self._calls.row(calls, within)
        return [{name: x.to(torch.float64).numpy() for name, x in row.items()} for row in outputs]

    @contextmanager
    def _as_written(self, seed: int) -> Iterator[None]:
        """Leave conversions to float32 as they are, and the tables in float32 off by as much.

        The next row of calls finds the tables as they were.
        """
        self._perturb_tables(seed)
        with Widened(single=False):
            yield

    @torch.no_grad()
    def _perturb_tables(self, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        for table in self._tables:
            table.mul_(1.0 + _noise(table, generator))


def _copied(module: nn.Module) -> nn.Module:
    try:
        return copy.deepcopy(module)
    except Exception as error:  # an attribute's own way of being copied may raise anything
        raise ParityError(
            f"{type(module).__name__} cannot be copied for the float64 oracle: "
            f"{type(error).__name__}: {error}; keep what cannot be copied (a lock, a file) out "
            "of the module"
        ) from error


def _noise(table: Tensor, generator: torch.Generator) -> Tensor:
    signs = 2.0 * torch.rand(table.shape, dtype=torch.float64, generator=generator) - 1.0
    return SINGLE.unit_roundoff * signs
