"""What runtimes are compared with: the exact outputs of a case, by a reference that repeats itself.

Whatever computes in float64 can be an oracle: a torch module, an ONNX graph, a user's function.  It
says how its outputs move when its inputs are rounded anew.

State and randomness would inflate every bound until anything passed: an output that changes by
itself has no sensitivity.  So a reference runs twice in every case, the same bits again, whatever
ran before; and first of all in two orders on cases of little cost, where what an earlier call has
left shows in a later one.  NumPy only.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ropeexport.dtypes import float_type, is_float
from ropeexport.errors import ChangedInputError, ParityError
from ropeexport.parity.tolerance import MOST_SAMPLES, Size, samples_for
from ropeexport.runners.runner import Arrays, Float64s, Repeatable, same_bits

Outputs = Mapping[str, Float64s]
# Takes inputs whose floating arrays are float64, returns outputs in float64
Exact = Callable[[Arrays], Outputs]

# One draw for the tables of a small output may undo a conversion's own error by luck
TABLE_DRAWS = 4
_STEPS = 128
_Returned = Mapping[str, NDArray[Any]]
# What a module may raise on what an earlier call has left; a case's own failure is told elsewhere
_FAILURES = (RuntimeError, ValueError, TypeError, LookupError, AttributeError)
_MANY = 9  # calls, in which what counts them may show
_SAME = "between two calls on the same inputs"
_OTHER = "after calls on other inputs"


@dataclass(frozen=True)
class Truth:
    """The exact outputs of a case and how they move when its inputs are rounded anew.

    ``data_rms`` is the root mean square of the largest floating input; ``unsummed`` is the change
    by inputs that no sum goes over, where it is known apart; ``conversions`` is the change of
    each output where the module's own conversions to float32 are as they are written, empty where
    it has none.
    """

    outputs: Outputs
    sizes: dict[str, Size]
    sensitivity: dict[str, Size]
    data_rms: float = 1.0
    conversions: Mapping[str, Size] = field(default_factory=dict)
    unsummed: Mapping[str, Size] = field(default_factory=dict)


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
    perturbed = [name for name, x in wide.items() if not np.array_equal(x, np.rint(x))]
    rng = np.random.Generator(np.random.SFC64(seed))

    def draw(_: int) -> Outputs:
        noisy = {name: _perturbed(wide[name], roundoffs[name], rng) for name in perturbed}
        return exact({**inputs, **wide, **noisy})

    return Truth(
        outputs=outputs,
        sizes={name: size_of(x) for name, x in outputs.items()},
        sensitivity=moves_of(outputs, draw, MOST_SAMPLES if perturbed else 0),
        data_rms=max((size_of(x).rms for x in wide.values()), default=1.0),
    )


def moves_of(outputs: Outputs, draw: Callable[[int], Outputs], most: int) -> dict[str, Size]:
    """Return how outputs move in several draws, as many as their sizes need and ``most`` at most.

    The root mean square is that of all draws, and the largest change that of any.
    """
    smallest = min((x.size for x in outputs.values()), default=0)
    moves: dict[str, list[Size]] = {name: [] for name in outputs}
    for number in range(min(most, samples_for(smallest))):
        for name, x in draw(number).items():
            if x.shape == outputs[name].shape:  # how many elements there are may be a result too
                with np.errstate(invalid="ignore"):  # what is not finite has no change
                    moves[name].append(size_of(x - outputs[name]))
    return {name: _joined(sizes) for name, sizes in moves.items()}


def _joined(sizes: list[Size]) -> Size:
    mean = sum(size.rms**2 for size in sizes) / max(1, len(sizes))
    return Size(math.sqrt(mean), max((size.largest for size in sizes), default=0.0))


def floats_in_float64(inputs: Arrays) -> dict[str, Float64s]:
    """Return the floating arrays of a case, widened."""
    floats = {name: x for name, x in inputs.items() if is_float(str(x.dtype))}
    return {name: x.astype(np.float64) for name, x in floats.items()}


def size_of(x: Float64s) -> Size:
    """Return root mean square and largest absolute value of what is finite in a float64 array."""
    flat = x.reshape(-1)
    # not through BLAS, whose threads would spin against those of the runtimes
    squares = float(np.einsum("i,i->", flat, flat))
    if not math.isfinite(squares):
        flat = flat[np.isfinite(flat)]
        squares = float(np.einsum("i,i->", flat, flat))
    if flat.size == 0:
        return Size(0.0, 0.0)
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


class NotRepeatableError(ParityError):
    """A reference gives another result when it is run again: there is nothing to compare with.

    Parameters
    ----------
    text : str
        What changed, and by how much.
    output : str
        Of which output; empty where it is none.
    cause : callable, optional
        Finds the cause.  It seeds generators that all threads share, so nothing else may run.
    """

    code = "RX209"

    def __init__(self, text: str, output: str = "", cause: Callable[[], str] | None = None) -> None:
        super().__init__(text)
        self.output = output
        self._cause = cause

    def explained(self) -> str:
        """Return what changed and its cause, in one line."""
        text = f"{self}: {self._cause()}" if self._cause else str(self)
        return " ".join(text.split())


def run_twice(name: str, reference: Repeatable, inputs: Arrays) -> _Returned:
    """Run a reference twice on the same inputs and return its outputs.

    Raises
    ------
    NotRepeatableError
        Where they differ in one bit, or where an input was changed in place.
    """
    first, second = _in_a_row(name, reference, [inputs, inputs])
    _check_same(name, first, second, _SAME, partial(reference.cause, [inputs], inputs))
    return first


def run_many_times(name: str, reference: Repeatable, inputs: Arrays) -> None:
    """Run a reference again and again: what counts its calls may show in the fourth alone.

    Raises
    ------
    NotRepeatableError
        Where two results differ in one bit.
    """
    first, *others = _in_a_row(name, reference, [inputs] * _MANY)
    for number, outputs in enumerate(others, 1):
        cause = partial(reference.cause, [inputs] * number, inputs)
        _check_same(name, first, outputs, _SAME, cause)


def run_in_two_orders(name: str, reference: Repeatable, probes: Sequence[Arrays]) -> None:
    """Run a reference on some inputs in turn, and in the opposite turn.

    What the first call stores for later ones (a cache, a longest length so far) shows in one of the
    two orders only.

    Raises
    ------
    NotRepeatableError
        Where the results on the same inputs differ in one bit.
    """
    row, opposite = [probes[0], *probes], list(reversed(probes))
    try:
        again, *there = _in_a_row(name, reference, row)
        back = _in_a_row(name, reference, opposite)
    except _FAILURES as error:
        alone = [inputs for inputs in probes if _runs(reference, inputs)]
        if len(alone) == len(probes):
            raise NotRepeatableError(
                f"{name} fails {_OTHER}: {type(error).__name__}: {error}",
                cause=partial(reference.cause, row[:-1], row[-1]),
            ) from error
        if alone:
            run_in_two_orders(name, reference, alone)
        return
    _check_same(name, again, there[0], _SAME, partial(reference.cause, row[:1], row[0]))
    for number, outputs in enumerate(reversed(back)):
        before = opposite[:-1] if number == 0 else row[: number + 1]
        cause = partial(reference.cause, before, probes[number])
        _check_same(name, there[number], outputs, _OTHER, cause)


def _in_a_row(name: str, reference: Repeatable, calls: Sequence[Arrays]) -> Sequence[_Returned]:
    try:
        return reference.in_a_row(calls)
    except ChangedInputError as error:
        raise NotRepeatableError(f"{name} {error}") from error


def _runs(reference: Repeatable, inputs: Arrays) -> bool:
    try:
        reference.in_a_row([inputs])
    except _FAILURES:
        return False
    return True


def _check_same(
    name: str, first: _Returned, second: _Returned, when: str, cause: Callable[[], str]
) -> None:
    """Raise unless two results are the same bit for bit."""
    for output, x in first.items():
        y = second[output]
        if not same_bits(x, y):
            text = f"{name} is no function of its inputs: {output} {_change(x, y)} {when}"
            raise NotRepeatableError(text, output, cause)


def _change(one: NDArray[Any], other: NDArray[Any]) -> str:
    """Say how far two results of the same inputs are apart."""
    if one.shape != other.shape or one.dtype != other.dtype:
        return f"changes from {one.dtype} {one.shape} to {other.dtype} {other.shape}"
    with np.errstate(invalid="ignore", over="ignore"):
        apart = np.abs(one.astype(np.float64) - other.astype(np.float64))
    if not np.isfinite(apart).all():
        return "changes in what is not finite"
    return f"changes by up to {apart.max():.3g}"
