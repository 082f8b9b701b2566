"""Axes of one size as that size, and tables that follow from sizes alone as constants.

Positions of a grid of fixed size are no input: what a model computes of them is the same at every
call.  TensorRT refuses some of what older exporters write there; written as constants, the tables
need none of it, and their angles are those of float64.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from ropeexport.fusion.evaluation import Trial, UnevaluableError, evaluate
from ropeexport.fusion.movement import closure, inputs_of
from ropeexport.onnx_files.dimensions import size_at
from ropeexport.operators import is_standard
from ropeexport.ops.forms import form_of


def fix_axes(model: ir.Model, sizes: Mapping[str, int]) -> None:
    """Give the dynamic axes of a model's inputs their sizes, in place."""
    for value in model.graph.inputs:
        if value.shape is not None:
            value.shape = ir.Shape(_fixed(dim, sizes) for dim in value.shape)


def _fixed(dim: int | ir.SymbolicDim, sizes: Mapping[str, int]) -> int | str | None:
    if isinstance(dim, int) or dim.value is None:
        return dim if isinstance(dim, int) else None
    size = size_at(dim.value, sizes)
    return dim.value if size is None else size


def freeze_tables(model: ir.Model) -> int:
    """Make constants of the ops' tables that no input's values go into, in place; count them."""
    trial, frozen = Trial(model.graph, model.opset_imports[""]), 0
    forms = [(node, form_of(node.domain, node.op_type)) for node in model.graph]
    tables = [x for node, form in forms if form for x in form.tables_of(node.inputs)]
    for table in dict.fromkeys(x for x in tables if x is not None and x.const_value is None):
        if not _is_static(table):
            continue
        try:
            numbers = evaluate(table, {}, trial, {})
        except UnevaluableError:
            continue  # a weight goes into it
        _put_constant(model.graph, table, numbers.astype(np.float32))
        frozen += 1
    return frozen


def _is_static(table: ir.Value) -> bool:
    """Say whether a table is made of constants and of sizes that are known."""
    made_of = closure([table], lambda x: () if _is_known_shape(x) else inputs_of(x))
    ends = (x for x in made_of if x.producer() is None)
    return all(x.const_value is not None for x in ends)


def _is_known_shape(value: ir.Value) -> bool:
    node = value.producer()
    shaped = node.inputs[0] if node is not None and is_standard(node, "Shape") else None
    dims = None if shaped is None else shaped.shape
    return dims is not None and all(isinstance(dim, int) for dim in dims)


def _put_constant(graph: ir.Graph, table: ir.Value, numbers: NDArray[np.float32]) -> None:
    tensor = ir.tensor(numbers, name=f"{table.name}_fixed")
    constant = ir.Value(
        name=tensor.name, shape=ir.Shape(numbers.shape), type=ir.TensorType(tensor.dtype),
        const_value=tensor,
    )  # fmt: skip
    graph.register_initializer(constant)
    ir.convenience.replace_all_uses_with(table, constant)
