"""Write valid ONNX in the way that onnxruntime has kernels for.

onnxruntime 1.32's Attention refuses a mask with one row for all queries, which the standard lets
broadcast, and its Where has no booleans.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from ropeexport.operators import is_standard

_MASK = 3  # Attention's input
_ROWS = -2


def make_portable(model: ir.Model) -> int:
    """Rewrite, in place, what onnxruntime would refuse; return how many nodes."""
    count = 0
    for node in list(model.graph):
        if not is_standard(node):
            continue
        if node.op_type == "Attention" and _has_one_row(node):
            _expand_mask(node)
            count += 1
        elif node.op_type == "Where" and node.outputs[0].dtype == ir.DataType.BOOL:
            _choose_by_logic(node)
            count += 1
    return count


def _has_one_row(node: ir.Node) -> bool:
    mask = node.inputs[_MASK] if len(node.inputs) > _MASK else None
    return mask is not None and mask.shape is not None and mask.shape[_ROWS] == 1


def _expand_mask(node: ir.Node) -> None:
    """Repeat the row for every query."""
    query, mask = node.inputs[0], node.inputs[_MASK]
    assert query is not None
    assert mask is not None
    length = ir.node("Shape", [query], {"start": 2, "end": 3})
    one = ir.node("Constant", [], {"value": ir.tensor(np.array([1], dtype=np.int64))})
    shape = ir.node("Concat", [length.outputs[0], one.outputs[0]], {"axis": 0})
    expanded = ir.node("Expand", [mask, shape.outputs[0]])
    expanded.outputs[0].dtype = mask.dtype
    _insert_before(node, length, one, shape, expanded)
    node.replace_input_with(_MASK, expanded.outputs[0])


def _choose_by_logic(node: ir.Node) -> None:
    """Write ``c ? a : b`` of booleans as ``(c and a) or (not c and b)``."""
    condition, first, second = node.inputs
    inverse = ir.node("Not", [condition])
    chosen = ir.node("And", [condition, first])
    other = ir.node("And", [inverse.outputs[0], second])
    either = ir.node("Or", [chosen.outputs[0], other.outputs[0]])
    old, new = node.outputs[0], either.outputs[0]
    new.dtype, new.shape = old.dtype, old.shape
    _insert_before(node, inverse, chosen, other, either)
    ir.convenience.replace_all_uses_with(old, new, replace_graph_outputs=True)


def _insert_before(node: ir.Node, *nodes: ir.Node) -> None:
    assert node.graph is not None  # it was found in one
    node.graph.insert_before(node, nodes)
