"""Compare a finished model with the graph that it was made from, output by output, in float64.

Both are evaluated by onnx's reference implementation on the same random inputs: the finished model
with the function bodies that are written into its file, the other as it was traced, or as it came
in.  Everything between the two is held to that, whichever pass did it.

Tolerance.  In float64 the two may differ by what was rounded on the way: constants that were folded
in float32, and frequencies that are exact now.  The graph as it was makes roundings of the same
kind and size, and more of them, when it is evaluated in float32; so its own error E there, on the
same inputs, is the measure: 8 E, and 32 units of float32's rounding of the output's size for
outputs that E meets by luck.  A graph with half types is compared from where its constants are
folded, which rounds to them.  Elements of a mask's size (beyond 1e30) are held to equality.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from functools import partial
from itertools import cycle
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from ropeexport.axes import names_of
from ropeexport.dtypes import HALVES, SINGLE, is_float
from ropeexport.errors import ExportError, first_line
from ropeexport.manifest import Comparison, TensorSpec
from ropeexport.onnx_files import contract as onnx_specs
from ropeexport.onnx_files.onnx_file import weight_bytes
from ropeexport.onnx_files.variants import float64_twin, single_twin, whole_message
from ropeexport.parity.cases import Case, work_of
from ropeexport.parity.inputs import make_inputs
from ropeexport.parity.kernel_ops import Evaluator

MOST_WEIGHT_BYTES = 256 * 10**6
_MOST_WORK = 2e10  # multiply-adds of one run
_MOST_NODES = 20_000  # those of branches too: a hundred layers have ten thousand

_SIZES = ((2, 6, 3, 10, 8), (4,), (1,))  # axes unlike each other, all alike, all single
_MASK = 1e30  # what is added to logits to leave them out is of such a size
_HALVES = tuple(kind.ir for kind in HALVES)
_SINGLE = SINGLE.unit_roundoff
_ERROR_MULTIPLE = 8.0
_ROUNDINGS = 32.0
_AT_A_TIME = 1 << 20  # elements that are compared

Arrays = Mapping[str, NDArray[np.generic]]


def is_compared(model: ir.Model) -> bool:
    """Say whether a model's weights are small enough for its whole graph to be evaluated."""
    return weight_bytes(model) < MOST_WEIGHT_BYTES


def compare_whole(
    before: ir.Model, after: ir.Model, single: Container[str] = ()
) -> tuple[float | None, str]:
    """Compare two models of the same inputs and outputs, see :func:`with_whole`.

    Parameters
    ----------
    before, after : ir.Model
        With the bodies of their functions.
    single : container of str
        Axes that broadcast, and so have size 1.

    Returns
    -------
    worst : float or None
        The largest error as a share of what is allowed; None where nothing was compared.
    reason : str
        Why nothing was compared.

    Raises
    ------
    ExportError
        Where an output of the two differs, with its name and by how much.
    """
    if not is_compared(before):
        size = weight_bytes(before) / 1e6
        return None, f"its weights take {size:.0f} MB, {MOST_WEIGHT_BYTES / 1e6:.0f} or more"
    count = sum(1 for _ in before.graph.all_nodes())
    if count > _MOST_NODES:
        return None, f"it has {count:,} nodes, more than {_MOST_NODES:,}"
    specs = onnx_specs.input_specs(after)
    cases = [
        make_inputs(Case("", "random matrices", sizes, seed=0), specs)
        for sizes in _sizes(specs, single)
        if work_of(specs, sizes) <= _MOST_WORK
    ]
    if not cases:
        return None, "it would take too long"
    try:  # one twin in memory at a time, and one result beside those that are expected
        expected = list(_evaluated(float64_twin, before, cases, np.float64))
        own = _evaluated(single_twin, before, cases, np.float32)
        allowed = [_tried(_allowed, *pair) for pair in zip(expected, own, strict=True)]
        found = _evaluated(float64_twin, after, cases, np.float64)
        names = [str(value.name) for value in after.graph.outputs]
        results = [
            _tried(partial(_shares, names), *triple)
            for triple in zip(found, expected, allowed, strict=True)
        ]
    except _UnreadableError as error:
        return None, f"its weights cannot be read: {error}"
    failed = [result for result in results if isinstance(result, _UnevaluableError)]
    shares = [share for result in results if isinstance(result, list) for share in result]
    if shares:
        return max(shares), ""
    reason = f"onnx's reference implementation cannot evaluate it: {failed[-1]}" if failed else ""
    return None, reason


def with_whole(
    comparison: Comparison,
    before: ir.Model | None,
    folded: ir.Model,
    after: ir.Model,
    single: Container[str] = (),
) -> Comparison:
    """Return what was compared of the regions, and of the whole graph with it.

    Parameters
    ----------
    comparison : Comparison
        Of the regions.
    before, folded, after : ir.Model
        As it was (None: too large to be compared); the same with its constants folded; finished.
    single : container of str
        Axes that broadcast, and so have size 1.
    """
    source = folded if before is None or has_halves(folded) else before
    worst, reason = compare_whole(source, after, single)
    return comparison.model_copy(update={"worst_whole": worst, "without_whole": reason})


def evaluated_in_float32(model: ir.Model, inputs: Arrays) -> list[NDArray[Any]] | None:
    """Return the outputs of a model of floats, with its bodies; None where none can be had."""
    try:
        found = next(_evaluated(single_twin, model, [inputs], np.float32))
    except _UnreadableError:
        return None
    return None if isinstance(found, _UnevaluableError) else found


class _UnevaluableError(Exception):
    """The graph as it was cannot be evaluated; the text says why."""


class _UnreadableError(Exception):
    """External data is not in its place yet; the text says which."""


def _tried(function: Callable[..., list[float]], *results: Any) -> Any:
    """Return a function of some results, or the error that one of them is."""
    errors = (result for result in results if isinstance(result, _UnevaluableError))
    return next(errors, None) or function(*results)


def _allowed(expected: Sequence[Any], own: Sequence[Any]) -> list[float]:
    """Return the error that each output may have, of what the graph as it was gives in float32."""
    allowed = []
    for x, y in zip(own, expected, strict=True):
        own_error = _error(x, y, finite=True) if np.shape(x) == np.shape(y) else 0.0
        allowed.append(_ERROR_MULTIPLE * own_error + _ROUNDINGS * _SINGLE * _size(y))
    return allowed


def _shares(
    names: Sequence[str], found: Sequence[Any], expected: Sequence[Any], allowed: Sequence[float]
) -> list[float]:
    """Return each output's error as a share of what is allowed, of the results of one case."""
    shares = []
    for name, x, y, most in zip(names, found, expected, allowed, strict=True):
        error = _error(x, y) if np.shape(x) == np.shape(y) else math.inf
        if not error <= most:
            raise ExportError(
                f"output {name!r}: the rewritten graph departs from the one that it was "
                f"made from: expected at most {most:.3g} on values of up to {_size(y):.3g}, got "
                f"{error:.3g}; this is a fault of ropeexport, and nothing was written: report it "
                "with the model",
                code="RX211",
            )
        shares.append(error / most if most else 0.0)
    return shares


def _error(found: Any, expected: Any, *, finite: bool = False) -> float:
    """Return the largest difference; NaN is equal to NaN, and infinity to itself.

    Where only what is ``finite`` counts, what is not in one of the two allows nothing: either may
    overflow where the other does not.
    """
    return max(
        (_error_of(x, y, finite) for x, y in zip(_pieces(found), _pieces(expected), strict=True)),
        default=0.0,
    )


def _error_of(x: NDArray[Any], y: NDArray[Any], finite: bool) -> float:
    counted = ~((x == y) | (np.isnan(x) & np.isnan(y)))
    if finite:
        counted &= np.isfinite(x) & np.isfinite(y)
    x, y = x[counted], y[counted]
    if not (np.isfinite(x).all() and np.isfinite(y).all()):
        return math.inf
    errors, sizes = np.abs(x - y), np.abs(y)
    masked = (sizes > _MASK) & (errors <= sizes * _ROUNDINGS * _SINGLE)
    return float(errors[~masked].max(initial=0.0))


def _size(x: Any) -> float:
    sizes = (np.abs(piece) for piece in _pieces(x))
    return max((float(size[size <= _MASK].max(initial=0.0)) for size in sizes), default=0.0)


def _pieces(x: Any) -> Iterator[NDArray[Any]]:
    """Yield an array's elements in float64, some at a time: an output may take much memory."""
    flat = np.asarray(x).reshape(-1)
    for start in range(0, flat.size, _AT_A_TIME):
        yield flat[start : start + _AT_A_TIME].astype(np.float64)


def has_halves(model: ir.Model) -> bool:
    """Say whether some of its tensors are of half types."""
    values = (*model.graph.inputs, *model.graph.initializers.values())
    computed = (value for node in model.graph for value in node.outputs)
    return any(value.dtype in _HALVES for value in (*values, *computed))


def _evaluated(
    twin: Callable[[ir.Model], ir.Model], model: ir.Model, cases: Sequence[Arrays], floats: type
) -> Iterator[Any]:
    """Evaluate a twin of a model whose floating data is of another type: results, or an error."""
    try:
        message = whole_message(twin(model))
    except (OSError, ValueError) as error:
        raise _UnreadableError(first_line(error)) from error
    evaluator: Evaluator | None = None
    for inputs in cases:
        given = {n: x.astype(floats) if is_float(str(x.dtype)) else x for n, x in inputs.items()}
        try:
            evaluator = evaluator or Evaluator(message)
            with np.errstate(all="ignore"):  # what is not finite is compared, not printed
                result = evaluator.run(None, given)
        except Exception as error:  # an operator of onnx's reference may raise anything
            result = _UnevaluableError(first_line(error))
        yield result
        del result  # the next one is as large


def _sizes(specs: Sequence[TensorSpec], single: Container[str]) -> Iterator[dict[str, int]]:
    """Yield sizes of the dynamic axes, in order of their names' first mention."""
    axes = names_of(dim for spec in specs for dim in spec.shape)
    free = [name for name in axes if name not in single]
    for sizes in _SIZES if free else _SIZES[:1]:
        yield dict.fromkeys(axes, 1) | dict(zip(free, cycle(sizes), strict=False))
