"""The exact outputs of a case, and how they move when its inputs are rounded anew; NumPy only.

Whatever computes in float64 can be an oracle: a torch module, an ONNX graph, a user's function.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ropeexport.dtypes import float_type, is_float
from ropeexport.parity.tolerance import Size, samples_for
from ropeexport.runners.arrays import Arrays, Float64s
from ropeexport.runners.runner import Repeatable

# Takes inputs whose floating arrays are float64, returns outputs in float64
Exact = Callable[[Mapping[str, NDArray[np.generic]]], Mapping[str, Float64s]]

_STEPS = 128


@dataclass(frozen=True)
class Truth:
    """The exact outputs of a case and how they move when its inputs are rounded anew.

    ``data_rms`` is the root mean square of the largest floating input; ``conversions`` is the
    change of each output where the module's own conversions to float32 are as they are written,
    empty where it has none.
    """

    outputs: Mapping[str, Float64s]
    sizes: dict[str, Size]
    sensitivity: dict[str, Size]
    data_rms: float = 1.0
    conversions: Mapping[str, Size] = field(default_factory=dict)


class TruthTeller(Repeatable, Protocol):
    """What a judge asks for the exact outputs; ``widest`` is the longest axis of its weights."""

    widest: int

    def truth(self, inputs: Arrays, seed: int) -> Truth:
        """Return the exact outputs of a case, and the change under perturbations of ``seed``."""
        ...


def truth_of(exact: Exact, inputs: Arrays, seed: int) -> Truth:
    """Return what an exact function makes of a case.

    An input of whole numbers alone, such as positions, is exact in every type: it is not perturbed.

    Parameters
    ----------
    exact : callable
        Computes in float64.
    inputs : mapping
        The arrays of the case, in their own types.
    seed : int
        Of the perturbations.
    """
    wide = floats_in_float64(inputs)
    roundoffs = {name: float_type(str(inputs[name].dtype)).unit_roundoff for name in wide}
    outputs = exact({**inputs, **wide})
    smallest = min((x.size for x in outputs.values()), default=0)
    exactly = {name for name, x in wide.items() if np.array_equal(x, np.rint(x))}
    moves: dict[str, list[Size]] = {name: [] for name in outputs}
    rng = np.random.Generator(np.random.SFC64(seed))
    for _ in range(samples_for(smallest)):
        noisy = {
            name: x if name in exactly else _perturbed(x, roundoffs[name], rng)
            for name, x in wide.items()
        }
        for name, x in exact({**inputs, **noisy}).items():
            moves[name].append(size_of(x - outputs[name]))
    return Truth(
        outputs=outputs,
        sizes={name: size_of(x) for name, x in outputs.items()},
        sensitivity={name: joined(sizes) for name, sizes in moves.items()},
        data_rms=max((size_of(x).rms for x in wide.values()), default=1.0),
    )


def floats_in_float64(inputs: Arrays) -> dict[str, Float64s]:
    """Return the floating arrays of a case, widened."""
    floats = {name: x for name, x in inputs.items() if is_float(str(x.dtype))}
    return {name: x.astype(np.float64) for name, x in floats.items()}


def size_of(x: Float64s) -> Size:
    """Return root mean square and largest absolute value of a float64 array."""
    if x.size == 0:
        return Size(0.0, 0.0)
    flat = x.reshape(-1)
    # not through BLAS, whose threads would spin against those of the runtimes
    squares = float(np.einsum("i,i->", flat, flat))
    return Size(math.sqrt(squares / flat.size), float(max(-flat.min(), flat.max())))


def _perturbed(wide: Float64s, roundoff: float, rng: np.random.Generator) -> Float64s:
    """Return values with random relative errors of up to ``roundoff``, in steps of a 128th.

    Bytes are the cheapest random numbers there are, and the noise is much of what an oracle costs
    at small sizes.
    """
    factors: Float64s = rng.integers(-_STEPS, _STEPS, wide.shape, dtype=np.int8).astype(np.float64)
    factors += 0.5
    factors *= roundoff / _STEPS
    factors += 1.0
    factors *= wide
    return factors


def joined(sizes: Sequence[Size]) -> Size:
    """Return the root mean square and the largest over several draws."""
    mean = sum(size.rms**2 for size in sizes) / max(1, len(sizes))
    return Size(math.sqrt(mean), max((size.largest for size in sizes), default=0.0))
