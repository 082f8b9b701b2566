"""Whether a reference is a function of its inputs: the same bits again, whatever ran before.

State and randomness would inflate every bound until anything passed: an output that changes by
itself has no sensitivity.  So a reference runs twice in every case, and first of all in two orders
on cases of little cost, where what an earlier call has left shows in a later one.  NumPy only.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ropeexport.errors import ChangedInputError, ParityError
from ropeexport.runners.arrays import Arrays, same_bits
from ropeexport.runners.runner import Repeatable

_Outputs = Mapping[str, NDArray[Any]]

# What a module may raise on what an earlier call has left; a case's own failure is told elsewhere
_FAILURES = (RuntimeError, ValueError, TypeError, LookupError, AttributeError)

_MANY = 9  # calls, in which what counts them may show

_SAME = "between two calls on the same inputs"
_OTHER = "after calls on other inputs"


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

    def __init__(self, text: str, output: str = "", cause: Callable[[], str] | None = None) -> None:
        super().__init__(text)
        self.output = output
        self._cause = cause

    def explained(self) -> str:
        """Return what changed and its cause, in one line."""
        text = f"{self}: {self._cause()}" if self._cause else str(self)
        return " ".join(text.split())


def run_twice(name: str, reference: Repeatable, inputs: Arrays) -> _Outputs:
    """Run a reference twice on the same inputs and return its outputs.

    Raises
    ------
    NotRepeatableError
        Where they differ in one bit, or where an input was changed in place.
    """
    first, second = _in_a_row(name, reference, [inputs, inputs])
    _check_same(name, first, second, _SAME, lambda: reference.cause([inputs], inputs))
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
        _check_same(name, first, outputs, _SAME, _asking(reference, [inputs] * number, inputs))


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
            text = f"{name} fails {_OTHER}: {type(error).__name__}: {error}"
            raise NotRepeatableError(
                text, cause=lambda: reference.cause(row[:-1], row[-1])
            ) from error
        if alone:
            run_in_two_orders(name, reference, alone)
        return
    _check_same(name, again, there[0], _SAME, lambda: reference.cause(row[:1], row[0]))
    for number, outputs in enumerate(reversed(back)):
        before = opposite[:-1] if number == 0 else row[: number + 1]
        _check_same(
            name, there[number], outputs, _OTHER, _asking(reference, before, probes[number])
        )


def _asking(reference: Repeatable, before: Sequence[Arrays], inputs: Arrays) -> Callable[[], str]:
    return lambda: reference.cause(before, inputs)


def _in_a_row(name: str, reference: Repeatable, calls: Sequence[Arrays]) -> Sequence[_Outputs]:
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
    name: str, first: _Outputs, second: _Outputs, when: str, cause: Callable[[], str]
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
