"""Evaluate a few nodes of a graph in float64, at trial sizes, from chosen values.

Each operator is onnx's own reference implementation, so a region means here what the standard says.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from onnx.reference.ops._op_list import load_op

from ropeexport.onnx_ops.forms import form_of
from ropeexport.onnx_ops.semantics import apply_form

Array = NDArray[Any]
Given = Mapping[ir.Value, Array]

# distinct, so that no two axes are confused, and none of them 1, which would broadcast
_TRIAL_SIZES = (2, 6, 4, 10, 8, 12, 14, 16)
_LARGEST_CONSTANT = 1 << 22  # elements; a larger one is a weight, and no part of a rope


class UnevaluableError(Exception):
    """A value cannot be computed at trial sizes; the text says why."""


class Trial:
    """A size for every symbolic dimension of a graph."""

    def __init__(self, graph: ir.Graph, opset: int) -> None:
        self.opset = opset
        symbols: dict[str, int] = {}
        for value in graph.inputs:
            for dim in value.shape or ():
                if isinstance(dim, ir.SymbolicDim):
                    for symbol in sorted(dim.free_symbols()):
                        symbols.setdefault(symbol, _TRIAL_SIZES[len(symbols) % len(_TRIAL_SIZES)])
        self._symbols = symbols

    def shape(self, value: ir.Value) -> tuple[int, ...]:
        """Return a value's shape, or raise where it is not known."""
        if value.shape is None:
            raise UnevaluableError(f"the shape of {value.name} is not known")
        return tuple(self._size(dim, value) for dim in value.shape)

    def _size(self, dim: int | ir.SymbolicDim, value: ir.Value) -> int:
        if isinstance(dim, int):
            return dim
        size = dim.evaluate(self._symbols)
        if not isinstance(size, int):
            raise UnevaluableError(f"a dimension of {value.name} is not known")
        return size


def evaluate(value: ir.Value, given: Given, trial: Trial, memo: dict[ir.Value, Array]) -> Array:
    """Compute a value from those given; floating data is float64 throughout.

    Raises
    ------
    UnevaluableError
        Where a value is needed that is neither given, constant, nor computed from those.
    """
    if value in given:
        return given[value]
    if value not in memo:
        for output, array in zip(*_outputs(value, given, trial, memo), strict=True):
            memo[output] = array
    return memo[value]


def _outputs(
    value: ir.Value, given: Given, trial: Trial, memo: dict[ir.Value, Array]
) -> tuple[tuple[ir.Value, ...], tuple[Array, ...]]:
    node = value.producer()
    constant = value.const_value
    if constant is not None and (node is None or node.op_type == "Constant"):
        return (value,), (_constant(value),)
    if node is None:
        raise UnevaluableError(f"{value.name} depends on the model's data")
    if node.op_type == "Shape" and node.inputs[0] is not None and node.inputs[0] not in memo:
        start, end = node.attributes.get_int("start", 0), node.attributes.get_int("end", None)
        return (value,), (np.array(trial.shape(node.inputs[0])[start:end], dtype=np.int64),)
    inputs = [None if x is None else evaluate(x, given, trial, memo) for x in node.inputs]
    try:
        return tuple(node.outputs), tuple(_run(node, inputs, trial.opset))
    except (ValueError, TypeError, IndexError, RuntimeError, NotImplementedError) as error:
        raise UnevaluableError(f"{node.op_type} {node.name}: {error}") from error


def _run(node: ir.Node, inputs: list[Any], opset: int) -> Any:
    form = form_of(node.domain, node.op_type)
    if form is not None:
        return apply_form(form, *inputs)
    if node.domain not in ("", "ai.onnx"):
        raise UnevaluableError(f"no meaning is known of {node.domain}::{node.op_type}")
    if node.op_type in ("Cast", "CastLike", "Identity"):
        return (_cast(node, inputs[0]),)
    kwargs = {
        name: list(a.value) if isinstance(a.value, tuple) else a.value
        for name, a in node.attributes.items()
    }
    kernel = _kernel(node.op_type, opset)
    result = kernel.eval(*inputs, n_outputs=len(node.outputs), **kwargs)
    return result if isinstance(result, (tuple, list)) else (result,)


def _cast(node: ir.Node, x: Array) -> Array:
    """Cast among floats is nothing here: rounding is not what is being proven."""
    if node.op_type != "Cast":
        return x
    to = ir.DataType(node.attributes["to"].as_int())
    return x.astype(np.float64 if to.is_floating_point() else to.numpy())


def _constant(value: ir.Value) -> Array:
    tensor = value.const_value
    assert tensor is not None  # asked by the caller
    if tensor.size > _LARGEST_CONSTANT:
        raise UnevaluableError(f"{value.name} is a weight")
    array = tensor.numpy()
    is_float = tensor.dtype.is_floating_point()
    values: Array = array.astype(np.float64) if is_float else array
    return values


@cache
def _kernel(op_type: str, opset: int) -> Any:
    import onnx

    version = onnx.defs.get_schema(op_type, opset).since_version
    return load_op("", op_type, version)
