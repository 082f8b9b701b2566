"""The shapes of a graph's values as onnxruntime infers them, arithmetic of shapes included.

onnx's inference follows no shape through a Reshape whose sizes are computed from names, as every
older exporter writes them; onnxruntime's does, with SymPy.
"""

from __future__ import annotations

import logging
from collections.abc import Container, Iterator
from contextlib import contextmanager
from importlib.util import find_spec

import onnx
import onnx_ir as ir

_LARGEST_VALUE = 1024  # bytes of a constant that may say a shape; a larger one is a weight
_UNBOUNDED = 2**31 - 1  # what an exporter writes for "to the end"

INVENTED = "unk__"  # what onnx calls a dimension that it cannot infer

Dims = tuple[int | str | None, ...]


def symbolic_shapes(model: ir.Model) -> dict[str, Dims]:
    """Return the shapes that onnxruntime infers, by the value's name.

    Parameters
    ----------
    model : ir.Model
        With names that can be computed with for the dynamic axes of its inputs; stays as it is.

    Returns
    -------
    dict of str to tuple
        Sizes, or expressions of the inputs' names; None for a size that depends on data.  Without
        onnxruntime, or where its inference ends early, there are fewer, or none.
    """
    if find_spec("onnxruntime") is None or find_spec("sympy") is None:
        return {}
    from onnxruntime.tools import symbolic_shape_infer

    # its public function writes the model into the working directory where it ends early
    inference = symbolic_shape_infer.SymbolicShapeInference(
        _UNBOUNDED, auto_merge=True, guess_output_rank=False, verbose=0
    )
    with silent(symbolic_shape_infer.__name__):
        try:
            inference._preprocess(_light(model))
            while inference.run_:
                inference._infer_impl()
        except Exception:  # it asserts much of a graph; what it has found so far holds
            pass
    known = _free_symbols(model)
    return dict(_found(inference.out_mp_.graph, known)) if inference.out_mp_ is not None else {}


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
    return frozenset(symbol for dim in named for symbol in dim.free_symbols())


def _found(graph: onnx.GraphProto, known: frozenset[str]) -> Iterator[tuple[str, Dims]]:
    for value in graph.value_info:
        tensor = value.type.tensor_type
        if value.type.HasField("tensor_type") and tensor.HasField("shape"):
            yield value.name, tuple(_size(dim, known) for dim in tensor.shape.dim)


def _size(dim: onnx.TensorShapeProto.Dimension, known: Container[str]) -> int | str | None:
    """Return a size, or an expression of known names; None for a name that was made up."""
    if dim.HasField("dim_value"):
        return int(dim.dim_value)
    try:
        symbols = ir.SymbolicDim(dim.dim_param or None).free_symbols()
    except ValueError:
        return None
    is_known = symbols and all(symbol in known for symbol in symbols)
    return str(dim.dim_param) if is_known else None
