"""Evaluate a few nodes of a graph in float64, at trial sizes, from chosen values.

Each operator is onnx's own reference implementation, so a region means here what the standard says.
"""

from __future__ import annotations

import math
from collections.abc import Container, Iterable, Mapping, Sequence
from functools import cache, partial
from itertools import cycle
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray
from onnx.reference.ops._op_list import load_op

from ropeexport.dtypes import HALVES
from ropeexport.fusion import contrib
from ropeexport.onnx_files.budget import check_size
from ropeexport.onnx_files.dimensions import size_at, symbols_of
from ropeexport.operators import is_standard
from ropeexport.ops.registry import op_of

Array = NDArray[Any]
Given = Mapping[ir.Value, Array]

# distinct, so that no two axes are confused, and none of them 1, which would broadcast
EVEN_SIZES = (2, 6, 4, 10, 8, *range(12, 82, 2))
ODD_SIZES = (3, 7, 5, *range(9, 83, 2))
_SMALLEST = 2  # an axis of 1 would broadcast, one of 0 says nothing
_MOST_GROWN = 1 << 12  # a size beyond it is not doubled
_MOST_TRIED = 1 << 24  # elements of a value; a proof holds a dozen of its size at once
_LARGEST_CONSTANT = 1 << 22  # elements; a larger one is a weight, and no part of a rope


_HALVES = tuple(kind.ir for kind in HALVES)


class UnevaluableError(Exception):
    """A value cannot be computed at trial sizes; the text says why."""

    def __init__(self, text: str, value: ir.Value | None = None) -> None:
        super().__init__(text)
        self.value = value


class Trial:
    """A size for every symbolic dimension of a graph.

    Parameters
    ----------
    graph : ir.Graph
        Its inputs' dimensions are the symbols.
    opset : int
        Of ONNX's own operators.
    sizes : sequence of int
        For one symbol after the other, from the front again where there are more.  Where the graph
        makes an axis of fewer than two elements of them, as convolutions do, those that it is made
        of are doubled, as far as that helps.
    rounded : set of Value
        Values that are rounded to their half type; whatever else is floating stays in float64.
    """

    def __init__(
        self,
        graph: ir.Graph,
        opset: int,
        sizes: Sequence[int] = EVEN_SIZES,
        rounded: Container[ir.Value] = (),
    ) -> None:
        self.opset = opset
        self.rounded = rounded
        symbols = {
            symbol: None
            for dim in _symbolic(graph.inputs)
            for symbol in sorted(symbols_of(dim) or ())
        }
        given = dict(zip(symbols, cycle(sizes), strict=False))
        made = _symbolic(value for node in graph for value in node.outputs)
        self.symbols = _grown(made, given)

    def shape(self, value: ir.Value) -> tuple[int, ...]:
        """Return a value's shape, or raise where it is not known or too large to be filled."""
        sizes = self.sizes(value)
        if math.prod(sizes) > _MOST_TRIED:
            raise UnevaluableError(f"{value.name} of {sizes} is too large to be tried", value)
        return sizes

    def sizes(self, value: ir.Value) -> tuple[int, ...]:
        """Return a value's shape, however large, or raise where it is not known."""
        if value.shape is None:
            raise UnevaluableError(f"the shape of {value.name} is not known", value)
        return tuple(self._size(dim, value) for dim in value.shape)

    def _size(self, dim: int | ir.SymbolicDim, value: ir.Value) -> int:
        if isinstance(dim, int):
            return dim
        size = size_at(dim.value, self.symbols) if dim.value is not None else None
        if size is None:
            raise UnevaluableError(f"a dimension of {value.name} is not known", value)
        if size < 0:
            raise UnevaluableError(f"the size of {value.name} is negative at trial sizes", value)
        return size


def _symbolic(values: Iterable[ir.Value]) -> dict[str, None]:
    """Return the dimensions of values that are no sizes, each once."""
    dims = (dim for value in values for dim in value.shape or ())
    return {d.value: None for d in dims if isinstance(d, ir.SymbolicDim) and d.value is not None}


def _grown(dims: Iterable[str], symbols: Mapping[str, int]) -> Mapping[str, int]:
    """Return sizes at which as many dimensions as can be have two elements, distinct as before."""
    for dim in dims:
        needed = {name for name in symbols_of(dim) or () if name in symbols}
        sizes = dict(symbols)
        while _is_short(dim, sizes) and needed and max(sizes[n] for n in needed) < _MOST_GROWN:
            for name in needed:
                sizes[name] *= 2
                while sizes[name] in (size for other, size in sizes.items() if other != name):
                    sizes[name] *= 2
        symbols = symbols if _is_short(dim, sizes) else sizes
    return symbols


def _is_short(dim: str, symbols: Mapping[str, int]) -> bool:
    size = size_at(dim, symbols)
    return size is not None and size < _SMALLEST


def evaluate(value: ir.Value, given: Given, trial: Trial, memo: dict[ir.Value, Array]) -> Array:
    """Compute a value from those given; floating data is float64 throughout.

    Raises
    ------
    UnevaluableError
        Where a value is needed that is neither given, constant, nor computed from those.
    """
    pending = [value]
    while pending:  # a chain of nodes may be longer than Python's stack
        x = pending[-1]
        missing = [] if x in given or x in memo else _missing(x, given, trial, memo)
        pending.extend(missing)
        if not missing:
            if x not in given and x not in memo:
                memo.update(_computed(x, given, trial, memo))
            pending.pop()
    return given[value] if value in given else memo[value]


def _missing(
    value: ir.Value, given: Given, trial: Trial, memo: Mapping[ir.Value, Array]
) -> list[ir.Value]:
    """Return what has to be computed before a value can be."""
    node = value.producer()
    if value.const_value is not None and (node is None or is_standard(node, "Constant")):
        return []
    if node is None:
        raise UnevaluableError(f"{value.name} depends on the model's data", value)
    if static_shape(node, trial) is not None:
        return []
    return [x for x in node.inputs if x is not None and x not in given and x not in memo]


def static_shape(node: ir.Node, trial: Trial) -> Array | None:
    """Return what a Shape gives at trial sizes, whatever its input's values are."""
    shaped = node.inputs[0] if is_standard(node, "Shape") else None
    if shaped is None:
        return None
    start, end = node.attributes.get_int("start", 0), node.attributes.get_int("end", None)
    try:
        return np.array(trial.sizes(shaped)[start:end], dtype=np.int64)
    except UnevaluableError:
        return None


def _computed(
    value: ir.Value, given: Given, trial: Trial, memo: Mapping[ir.Value, Array]
) -> dict[ir.Value, Array]:
    """Return a value, and with it all that its node computes."""
    node = value.producer()
    if value.const_value is not None and (node is None or is_standard(node, "Constant")):
        return {value: _constant(value)}
    assert node is not None  # what is missing was asked for
    shape = static_shape(node, trial)
    if shape is not None:
        return {value: shape}
    inputs = [None if x is None else given[x] if x in given else memo[x] for x in node.inputs]
    try:
        with np.errstate(all="ignore"):  # what is not finite is compared, not printed
            results = _run(node, inputs, trial.opset)
    except UnevaluableError as error:
        raise UnevaluableError(str(error), value) from error
    except (ValueError, TypeError, IndexError, RuntimeError, NotImplementedError) as error:
        raise UnevaluableError(f"{node.op_type} {node.name}: {error}", value) from error
    pairs = zip(node.outputs, results, strict=True)
    return {output: _rounded(output, x, trial) for output, x in pairs}


def _rounded(value: ir.Value, x: Array, trial: Trial) -> Array:
    """Return what a value holds of numbers, where its half type is to count."""
    if value.dtype not in _HALVES or value not in trial.rounded:
        return x
    rounded: Array = x.astype(value.dtype.numpy()).astype(np.float64)
    return rounded


def has_meaning(node: ir.Node) -> bool:
    """Say whether it is known what a node's operator computes."""
    is_ours = op_of(node.domain, node.op_type) is not None
    return is_standard(node) or is_ours or contrib.is_rotary(node)


def _run(node: ir.Node, inputs: list[Any], opset: int) -> Any:
    op = op_of(node.domain, node.op_type)
    if op is not None:
        return op.evaluate({name: a.value for name, a in node.attributes.items()}, inputs)
    if contrib.is_rotary(node):
        attributes = {name: a.value for name, a in node.attributes.items()}
        return (contrib.evaluate_rotary(attributes, *inputs),)
    if not is_standard(node):
        raise UnevaluableError(f"no meaning is known of {node.domain}::{node.op_type}")
    if node.op_type in ("Cast", "CastLike", "Identity"):
        return (_cast(node, inputs[0]),)
    kwargs = {name: _attribute(a.value) for name, a in node.attributes.items()}
    check_size(node.op_type, opset, inputs, partial(_message, node))
    if node.op_type == "ConstantOfShape":  # onnx's kernel takes no value but from a message
        value = kwargs.get("value", np.zeros(1, np.float32)).reshape(-1)[0]
        is_whole = value.dtype.kind in "biu"
        return (np.full(tuple(inputs[0]), value if is_whole else np.float64(value)),)
    kernel = _kernel(node.op_type, opset)
    result = kernel.eval(*inputs, n_outputs=len(node.outputs), **kwargs)
    return result if isinstance(result, (tuple, list)) else (result,)


def _message(node: ir.Node) -> onnx.NodeProto:
    """Return a node for onnx's inference, its values by place: in a rewrite they lack names."""
    inputs = ["" if value is None else f"x{place}" for place, value in enumerate(node.inputs)]
    outputs = [f"y{place}" for place in range(len(node.outputs))]
    message = onnx.helper.make_node(node.op_type, inputs, outputs, domain=node.domain)
    message.attribute.extend(ir.to_proto(each) for each in node.attributes.values())
    return message


def _attribute(value: Any) -> Any:
    """Return an attribute as onnx's kernels take it."""
    if isinstance(value, tuple):
        return list(value)
    return value.numpy() if isinstance(value, ir.TensorProtocol) else value


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
        raise UnevaluableError(f"{value.name} is a weight", value)
    try:
        array = tensor.numpy()
    except (OSError, ValueError) as error:  # external data that is not in its place yet
        raise UnevaluableError(f"{value.name} cannot be read: {error}", value) from error
    is_float = tensor.dtype.is_floating_point()
    values: Array = array.astype(np.float64) if is_float else array
    return values


@cache
def _kernel(op_type: str, opset: int) -> Any:
    try:
        version = onnx.defs.get_schema(op_type, opset).since_version
    except onnx.defs.SchemaError:
        raise UnevaluableError(f"opset {opset} has no operator {op_type}") from None
    return load_op("", op_type, version)
