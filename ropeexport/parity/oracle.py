"""The float64 oracle: the module on the exact inputs, and on perturbed ones for its sensitivity.

The inputs of a case are numbers of their own type; the oracle takes those very numbers, widened.
Matrices ``pe`` are such an input.  Where a module makes them itself from integer positions,
``ropeexport.rope`` rounds them to float32 by contract, in the oracle as in eager.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ropeexport.parity.floats import Float64s, float_type, is_float
from ropeexport.parity.tolerance import Size, samples_for
from ropeexport.runners import Arrays
from ropeexport.runners.torch_arrays import call, tensor_from


@dataclass(frozen=True)
class Truth:
    """The exact outputs of a case and how they move when its inputs are rounded anew.

    ``data_rms`` is the root mean square of the largest floating input.
    """

    outputs: dict[str, Float64s]
    sizes: dict[str, Size]
    sensitivity: dict[str, Size]
    data_rms: float = 1.0


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

    @torch.no_grad()
    def truth(self, inputs: Arrays, seed: int) -> Truth:
        """Return the exact outputs of a case, and the change under perturbations of ``seed``."""
        wide = {name: _widened(x) for name, x in inputs.items()}
        roundoffs = {n: _roundoff(x) for n, x in inputs.items() if is_float(str(x.dtype))}
        exact = self._run(wide)
        smallest = min((x.numel() for x in exact.values()), default=0)
        moves: dict[str, list[Size]] = {name: [] for name in exact}
        rng = np.random.Generator(np.random.SFC64(seed))
        for _ in range(samples_for(smallest)):
            noisy = {n: _perturbed(wide[n], u, rng) for n, u in roundoffs.items()}
            moved = self._run(wide | noisy)
            for name, x in moved.items():
                moves[name].append(size_of(x - exact[name]))
        return Truth(
            outputs={name: x.numpy() for name, x in exact.items()},
            sizes={name: size_of(x) for name, x in exact.items()},
            sensitivity={name: _joined(sizes) for name, sizes in moves.items()},
            data_rms=max((size_of(wide[name]).rms for name in roundoffs), default=1.0),
        )

    def _run(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        outputs = call(self._module, inputs, self._output_names)
        return {name: x.to(torch.float64) for name, x in outputs.items()}


def size_of(x: Tensor) -> Size:
    """Return root mean square and largest absolute value of a float64 tensor."""
    if x.numel() == 0:
        return Size(0.0, 0.0)
    flat = x.flatten()
    low, high = torch.aminmax(flat)
    return Size(float(flat.norm()) / math.sqrt(flat.numel()), max(-float(low), float(high)))


def _roundoff(x: NDArray[np.generic]) -> float:
    return float_type(str(x.dtype)).unit_roundoff


def _widened(x: NDArray[np.generic]) -> Tensor:
    return tensor_from(x.astype(np.float64)) if is_float(str(x.dtype)) else tensor_from(x)


def _perturbed(wide: Tensor, roundoff: float, rng: np.random.Generator) -> Tensor:
    """Return values with random relative errors of up to ``roundoff``, in steps of a 128th.

    Bytes are the cheapest random numbers there are, and the noise is most of what an oracle costs
    at small sizes.
    """
    steps = torch.from_numpy(rng.integers(-128, 128, tuple(wide.shape), dtype=np.int8))
    return wide.addcmul(wide, steps.double().add_(0.5), value=roundoff / 128.0)


def _joined(sizes: list[Size]) -> Size:
    mean = sum(size.rms**2 for size in sizes) / max(1, len(sizes))
    return Size(math.sqrt(mean), max((size.largest for size in sizes), default=0.0))
