"""The shapes of a graph's values as onnxruntime infers them, arithmetic of shapes included.

onnx's inference follows no shape through a Reshape whose sizes are computed from names, as every
older exporter writes them; onnxruntime's does, with SymPy.
"""

from __future__ import annotations

import logging
import math
import resource
from collections.abc import Container, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from onnx_ir.passes import common as passes

from ropeexport.onnx_files.dimensions import symbols_of
from ropeexport.operators import is_standard

_LARGEST_VALUE = 1024  # bytes of a constant that may say a shape; a larger one is a weight
_MOST_VALUES = 1 << 10  # of a tensor that says sizes
_MOST_BITS = 64
_FOLLOWED = (
    "Add", "Cast", "Concat", "Gather", "Mul", "Slice", "Squeeze", "Sub", "Unsqueeze",
)  # fmt: skip
_LONGEST_VECTOR = 1 << 20
_MOST_MEMORY, _FOR_A_NODE = 1 << 30, 1 << 12
_UNBOUNDED = 2**31 - 1  # what an exporter writes for "to the end"

INVENTED = "unk__"  # what onnx calls a dimension that it cannot infer

Dims = tuple[int | str | None, ...]


@dataclass(frozen=True)
class Inferred:
    """What onnxruntime infers of a value: sizes, and its type, None where it has none."""

    dims: Dims
    dtype: ir.DataType | None


def symbolic_shapes(model: ir.Model) -> dict[str, Inferred]:
    """Return the shapes and types that onnxruntime infers, by the value's name.

    Parameters
    ----------
    model : ir.Model
        With names that can be computed with for the dynamic axes of its inputs; stays as it is.

    Returns
    -------
    dict of str to Inferred
        Sizes, or expressions of the inputs' names; None for a size that depends on data.  Without
        onnxruntime, or where its inference ends early, there are fewer, or none.
    """
    if find_spec("onnxruntime") is None or find_spec("sympy") is None:
        return {}
    from onnxruntime.tools import symbolic_shape_infer

    # its public function writes the model into the working directory where it ends early
    own = symbolic_shape_infer.SymbolicShapeInference
    kind = symbolic_shape_infer.SymbolicShapeInference = _bounded(own)  # for branches it makes more
    inference = kind(_UNBOUNDED, auto_merge=True, guess_output_rank=False, verbose=0)
    with silent(symbolic_shape_infer.__name__):
        try:
            inference._preprocess(_light(model))
            while inference.run_:
                inference._infer_impl()
        except Exception:  # it asserts much of a graph; what it has found so far holds
            pass
        finally:
            symbolic_shape_infer.SymbolicShapeInference = own
    found = getattr(inference, "out_mp_", None)
    return dict(_found(found.graph, _free_symbols(model))) if found is not None else {}


def _bounded(inference: type[Any]) -> type[Any]:
    """Return onnxruntime's inference, which keeps no values that are too many or too large.

    It computes with whole numbers of any length: products of products would never end.
    """

    class Bounded(inference):  # type: ignore[misc]  # onnxruntime has no types
        @property
        def sympy_data_(self) -> dict[str, Any]:
            return self._values

        @sympy_data_.setter
        def sympy_data_(self, values: dict[str, Any]) -> None:
            self._values = _Values(values)

        def _infer_ConstantOfShape(self, node: Any) -> None:  # noqa: N802  # its name
            sizes = self._get_int_or_float_values(node)[0]
            count = math.prod(sizes) if isinstance(sizes, list) else sizes or 0
            if isinstance(count, int | float) and count > _MOST_VALUES:
                raise ValueError(f"{count} values are no sizes")
            super()._infer_ConstantOfShape(node)

        def _new_symbolic_shape(self, rank: int, *given: Any) -> Any:
            if rank > _MOST_VALUES:
                raise ValueError(f"{rank} axes are none")
            return super()._new_symbolic_shape(rank, *given)

        def _infer_Concat(self, node: Any) -> None:  # noqa: N802  # its name
            super()._infer_Concat(node)
            joined = self._values.pop(node.output[0], None)  # a list that grew after it was kept
            if joined is not None:
                self._values[node.output[0]] = joined

    return Bounded


class _Values(dict[str, Any]):
    """Values by name; those that are no sizes are left out."""

    def __setitem__(self, name: str, value: Any) -> None:
        parts = value if isinstance(value, list) else [value]
        if len(parts) <= _MOST_VALUES and all(map(_is_short, parts)):
            super().__setitem__(name, value)

    def copy(self) -> _Values:
        return _Values(self)


def _is_short(value: Any) -> bool:
    if isinstance(value, int):
        return value.bit_length() <= _MOST_BITS
    if isinstance(value, np.ndarray):
        return value.size <= _MOST_VALUES
    operations = getattr(value, "count_ops", None)  # of an expression of SymPy's
    return operations is None or operations() <= _MOST_VALUES


def infer(model: ir.Model, **options: bool) -> None:
    """Let onnx infer the types and shapes of a model, in place, within bounds.

    It follows the values of sizes through arithmetic, and takes each vector for such: one of 2^30
    elements would fill the memory.
    """
    bytes_ = _MOST_MEMORY + _FOR_A_NODE * sum(1 for _ in model.graph.all_nodes())
    with (
        silent("onnx_ir"),
        _bounded_memory(bytes_),
    ):  # of a graph that it refuses, it logs a traceback
        follow = not _has_long_vectors(model)
        made = passes.ShapeInferencePass(**{"data_prop": follow, **options})(model)
        if follow and not made.modified and _has_unknown(model):
            # a vector of a length that nobody wrote down; its shape is found without its values
            passes.ShapeInferencePass(**{**options, "data_prop": False})(model)


def _has_unknown(model: ir.Model) -> bool:
    return any(x.shape is None for node in model.graph for x in node.outputs)


def _has_long_vectors(model: ir.Model) -> bool:
    read = (x for node in model.graph if is_standard(node, *_FOLLOWED) for x in node.inputs)
    shapes = (tuple(x.shape) for x in read if x is not None and x.shape is not None)
    return any(len(s) == 1 and isinstance(s[0], int) and s[0] > _LONGEST_VECTOR for s in shapes)


@contextmanager
def _bounded_memory(most: int) -> Iterator[None]:
    """Let memory that C++ code takes beyond so many bytes be its error, where Linux counts it."""
    try:
        taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        former = resource.getrlimit(resource.RLIMIT_AS)
        wanted = taken + most
        if former[0] == resource.RLIM_INFINITY or wanted < former[0]:
            resource.setrlimit(resource.RLIMIT_AS, (wanted, former[1]))
    except (OSError, ValueError):
        yield
        return
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, former)


def is_unknown(dim: int | ir.SymbolicDim) -> bool:
    """Say whether nothing is known of a dimension, not even a name, or one that onnx made up."""
    return not isinstance(dim, int) and (dim.value is None or INVENTED in dim.value)


@contextmanager
def silent(library: str) -> Iterator[None]:
    """Keep a library's notes to its own developers from the terminal."""
    logger = logging.getLogger(library)
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(level)


def _light(model: ir.Model) -> onnx.ModelProto:
    """Return a model's message, its weights as inputs without values."""
    copy = model.clone()
    for name, value in list(copy.graph.initializers.items()):
        tensor = value.const_value
        if tensor is not None and tensor.nbytes > _LARGEST_VALUE:
            value.shape, value.dtype = ir.Shape(tensor.shape), tensor.dtype
            copy.graph.initializers.pop(name)
            value.const_value = None
            if not value.is_graph_input():
                copy.graph.inputs.append(value)
    return ir.serde.serialize_model(copy)


def _free_symbols(model: ir.Model) -> frozenset[str]:
    dims = (dim for value in model.graph.inputs for dim in value.shape or ())
    named = (dim for dim in dims if isinstance(dim, ir.SymbolicDim))
    return frozenset(name for dim in named for name in symbols_of(dim.value or "") or ())


def _found(graph: onnx.GraphProto, known: frozenset[str]) -> Iterator[tuple[str, Inferred]]:
    for value in graph.value_info:
        tensor = value.type.tensor_type
        if value.type.HasField("tensor_type") and tensor.HasField("shape"):
            dims = tuple(_size(dim, known) for dim in tensor.shape.dim)
            dtype = ir.DataType(tensor.elem_type) if tensor.elem_type else None
            yield value.name, Inferred(dims, dtype)


def _size(dim: onnx.TensorShapeProto.Dimension, known: Container[str]) -> int | str | None:
    """Return a size, or an expression of known names; None for a name that was made up."""
    if dim.HasField("dim_value"):
        return int(dim.dim_value)
    symbols = symbols_of(dim.dim_param)
    is_known = symbols and all(symbol in known for symbol in symbols)
    return str(dim.dim_param) if is_known else None
