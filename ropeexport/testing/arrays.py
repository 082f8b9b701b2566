"""``assert_parity``: arrays against a float64 reference, within a derived bound."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ropeexport.dtypes import float_type, is_float
from ropeexport.errors import ChangedInputError
from ropeexport.parity import tolerance
from ropeexport.parity.compare import Difference, compare
from ropeexport.parity.references import (
    NotRepeatableError,
    Truth,
    floats_in_float64,
    run_twice,
    size_of,
    truth_of,
)
from ropeexport.parity.tolerance import Bound, Size, Yardstick, share_of
from ropeexport.runners.runner import Arrays, Float64s, same_bits
from ropeexport.testing import log

_SEED = 0


def assert_parity(
    got: Any,
    expected: Any,
    *,
    inputs: Mapping[str, Any] | None = None,
    eager: Any = None,
    terms: int | None = None,
    atol: float | None = None,
    rtol: float | None = None,
    name: str = "out",
) -> None:
    """Assert that ``got`` is as near to the exact result as its type allows.

    The bound is that of ``docs/parity.md``.  NaN, infinity, another shape or type, a missing or an
    unexpected output, and nothing to compare fail, whatever the bound.

    Parameters
    ----------
    got : array, tensor, or mapping or sequence of them
        What the implementation under test returned.
    expected : the same, or callable
        The exact result, in float64; or the function that computes it, which is called with
        ``inputs`` as float64 NumPy arrays by keyword.  The function is the better choice: called
        again on perturbed inputs, it tells how much rounding alone moves the result.
    inputs : mapping of str to array or tensor
        The very inputs that the implementation had; needed with a function.
    eager : like ``got``
        What a trusted implementation returned in the same type; its own error is a second
        yardstick.
    terms : int
        Length of the longest sum; by default the longest axis of any input or output.
    atol, rtol : float
        The test's own bound in place of the derived one: ``|got - expected| <= atol + rtol *
        |expected|`` for every element.
    name : str
        Of a single output, in messages.

    Raises
    ------
    AssertionError
        With the worst element, ULPs, relative L2 error and cosine; where ``expected`` is no
        function of its inputs (state, random numbers); where a derived bound is larger than the
        output itself, which would prove nothing.
    TypeError
        Where ``expected`` is a function and ``inputs`` are missing.
    """
    mine = named_arrays(got, name)
    truth = _truth(expected, inputs, name, mine)
    bounds = _bounds(truth, mine, inputs, named_arrays(eager, name), terms)
    if atol is not None or rtol is not None:
        bounds = dict.fromkeys(bounds, tolerance.override(atol or 0.0, rtol or 0.0))
    problems = [f"{extra}: not an expected output" for extra in mine if extra not in truth.outputs]
    if not truth.outputs:
        problems.append("nothing to compare: no output is expected")
    for output, exact in truth.outputs.items():
        difference = compare(mine.get(output), exact, _type_of(mine, output), bounds[output].rtol)
        problems += _held(output, difference, bounds[output], truth.sizes[output])
    if problems:
        raise AssertionError("\n".join(problems))


def _held(name: str, difference: Difference, bound: Bound, size: Size) -> list[str]:
    """Keep a note of one output; return what is wrong with it."""
    broken = bound.broken_by(difference) or bound.too_wide_for(size)
    text = broken or f"largest error {difference.max_abs:.3g}, bound {bound.max_abs:.3g}"
    share = float("inf") if difference.faults else share_of(difference, bound)
    log.add(log.Note(name, "FAIL" if broken else "PASS", share, text))
    return [f"{name}: {broken}{_details(name, difference)}"] if broken else []


def _details(name: str, difference: Difference) -> str:
    if not difference.elements:
        return ""
    lines = []
    if (worst := difference.worst) is not None:
        place = ", ".join(map(str, worst.index))
        lines.append(f"worst: {name}[{place}]: got {worst.got:.8g}, expected {worst.expected:.8g}")
    lines.append(
        f"errors of {difference.elements} elements: rms {difference.rms:.3g}, "
        f"relative L2 {difference.relative_l2:.3g}, cosine {difference.cosine:.9f}, "
        f"{difference.ulps_at_rms:.3g} ULP of an element of the root mean square"
    )
    return "".join(f"\n  {line}" for line in lines)


def _truth(expected: Any, inputs: Mapping[str, Any] | None, name: str, got: Arrays) -> Truth:
    if callable(expected):
        if inputs is None:
            raise TypeError("inputs: expected those of the implementation, to call `expected` with")
        return _truth_of_function(_Function(expected, name), _as_arrays(inputs))
    exact = {key: x.astype(np.float64) for key, x in named_arrays(expected, name).items()}
    sizes = {key: size_of(x) for key, x in exact.items()}
    data = [size_of(array(x).astype(np.float64)).rms for x in (inputs or {}).values()]
    return Truth(
        outputs=exact,
        sizes=sizes,
        sensitivity={key: _well_conditioned(sizes[key], _type_of(got, key)) for key in exact},
        data_rms=max([1.0, *data]),
    )


def _truth_of_function(function: _Function, inputs: Arrays) -> Truth:
    """Return what a function makes of inputs; AssertionError where it is none of them alone."""
    try:
        run_twice("the function `expected`", function, {**inputs, **floats_in_float64(inputs)})
    except NotRepeatableError as error:
        raise AssertionError(error.explained()) from None
    return truth_of(function.call, inputs, _SEED)


@dataclass(frozen=True)
class _Function:
    """The user's function as a reference, called on copies of its inputs."""

    function: Callable[..., Any]
    name: str

    def call(self, inputs: Arrays) -> dict[str, Float64s]:
        copies = {key: x.copy() for key, x in inputs.items()}
        found = named_arrays(self.function(**copies), self.name)
        for key, x in inputs.items():
            if not same_bits(copies[key], x):
                raise ChangedInputError(key)
        return {key: x.astype(np.float64) for key, x in found.items()}

    def in_a_row(self, calls: Sequence[Arrays]) -> list[dict[str, Float64s]]:
        return [self.call(inputs) for inputs in calls]

    def cause(self, before: Sequence[Arrays], inputs: Arrays) -> str:
        return "make what it keeps from call to call, or draws at random, one of its inputs"


def _well_conditioned(size: Size, dtype: str) -> Size:
    """Without a function, rounding an input is taken to move the output by as much, relative."""
    roundoff = float_type(dtype).unit_roundoff
    return Size(roundoff * size.rms, roundoff * size.largest)


def _bounds(
    truth: Truth,
    got: Arrays,
    inputs: Mapping[str, Any] | None,
    eager: Arrays,
    terms: int | None,
) -> dict[str, Bound]:
    given = _as_arrays(inputs or {})
    arrays = (*given.values(), *truth.outputs.values())
    longest = terms or max((size for x in arrays for size in x.shape), default=1)
    types = [str(x.dtype) for x in given.values() if is_float(str(x.dtype))]
    bounds = {}
    for output, exact in truth.outputs.items():
        dtype = _type_of(got, output)
        coarsest = max(float_type(kind).unit_roundoff for kind in (dtype, *types))
        yardstick = Yardstick(
            dtype=dtype,
            working_roundoff=coarsest,
            terms=longest,
            output=truth.sizes[output],
            sensitivity=truth.sensitivity[output],
            data_rms=truth.data_rms,
            eager=tolerance.size_of_error(compare(eager.get(output), exact, dtype)),
        )
        bounds[output] = tolerance.bound(yardstick)
    return bounds


def _type_of(got: Arrays, name: str) -> str:
    return str(got[name].dtype) if name in got else "float64"


def _as_arrays(inputs: Mapping[str, Any]) -> Arrays:
    return {name: array(x) for name, x in inputs.items()}


def named_arrays(values: Any, name: str) -> Arrays:
    """Return arrays by name.

    Parameters
    ----------
    values : array, tensor, or mapping or sequence of them
        None among them stays out: a missing output.
    name : str
        Of one array; those of a sequence are ``name[0]``, ``name[1]`` and so on.
    """
    if isinstance(values, Mapping):
        return {str(key): array(x) for key, x in values.items() if x is not None}
    if isinstance(values, (list, tuple)):
        return {f"{name}[{i}]": array(x) for i, x in enumerate(values) if x is not None}
    return {} if values is None else {name: array(values)}


def array(value: Any) -> NDArray[np.generic]:
    """Return a torch tensor, or whatever NumPy reads, as an array of the same type."""
    if hasattr(value, "detach"):  # a torch tensor, without importing torch to say so
        from ropeexport.runners.torch_arrays import array_from

        return array_from(value)
    result: NDArray[np.generic] = np.asarray(value)
    if result.dtype == object:
        raise TypeError(f"expected an array, a tensor, or a mapping or sequence of them: {value!r}")
    return result
