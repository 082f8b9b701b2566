"""From torch ops to ONNX nodes: the table that ``torch.onnx.export`` is given.

The nodes are emitted by name.  Handing the exporter an onnxscript function instead would inline it,
and the custom node would be lost; the function bodies are attached to the finished model.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxscript
import torch

import ropeexport.op  # noqa: F401  (registers the ops that the table names)
from ropeexport.onnx_ops import names, rope_table
from ropeexport.reference import frequencies

_FLOATS = ["tensor(float)", "tensor(float16)", "tensor(bfloat16)"]
_INTEGERS = ["tensor(int64)", "tensor(int32)"]


def _parameter(name: str, kind: str) -> onnx.defs.OpSchema.FormalParameter:
    return onnx.defs.OpSchema.FormalParameter(name, kind)


def _apply_rope_schema() -> onnx.defs.OpSchema:
    text = onnx.defs.OpSchema.AttrType.STRING
    return onnx.defs.OpSchema(
        names.APPLY_ROPE,
        names.DOMAIN,
        names.DOMAIN_VERSION,
        doc=names.CONTRACT,
        inputs=[_parameter("q", "Tq"), _parameter("k", "Tk"), _parameter("pe", "tensor(float)")],
        outputs=[_parameter("q_out", "Tq"), _parameter("k_out", "Tk")],
        type_constraints=[("Tq", _FLOATS, "type of q"), ("Tk", _FLOATS, "type of k")],
        attributes=[
            onnx.defs.OpSchema.Attribute(name, text, required=False)
            for name in names.PLUGIN_ATTRIBUTES
        ],
    )


def _rope_table_schema() -> onnx.defs.OpSchema:
    return onnx.defs.OpSchema(
        names.ROPE_TABLE,
        names.DOMAIN,
        names.DOMAIN_VERSION,
        inputs=[
            _parameter("pos", "I"),
            _parameter("coarse", "tensor(float)"),
            _parameter("fine", "tensor(float)"),
        ],
        outputs=[_parameter("pe", "tensor(float)")],
        type_constraints=[("I", _INTEGERS, "type of the positions")],
    )


def _op(schema: onnx.defs.OpSchema) -> onnxscript.values.Op:
    opset = onnxscript.values.Opset(names.DOMAIN, names.DOMAIN_VERSION)
    return onnxscript.values.Op(opset, schema.name, schema)


def translation_table(max_position: int) -> dict[Any, Callable[..., Any]]:
    """Return the exporter's ``custom_translation_table`` for ropeexport's torch ops and two more.

    ``max_position`` is the largest that tables of angles must hold.
    """
    apply_rope_node = _op(_apply_rope_schema())
    rope_table_node = _op(_rope_table_schema())
    tables: dict[tuple[int, float], tuple[Any, Any]] = {}  # one pair for all nodes alike

    def apply_rope(xq: Any, xk: Any, pe: Any) -> Any:
        wide = onnxscript.opset23.Cast(pe, to=ir.DataType.FLOAT) if _is_narrow(pe) else pe
        return apply_rope_node(xq, xk, wide, **names.PLUGIN_ATTRIBUTES)

    def rope_of_positions(pos: Any, dim: int, theta: float) -> Any:
        if (dim, theta) not in tables:
            coarse, fine = rope_table.digit_tables(frequencies(dim, theta).numpy(), max_position)
            tables[dim, theta] = (_constant(coarse), _constant(fine))
        return rope_table_node(pos, *tables[dim, theta])

    return {
        torch.ops.aten.einsum.default: _einsum,
        torch.ops.aten.scalar_tensor.default: _scalar_tensor,
        torch.ops.ropeexport.apply_rope.default: apply_rope,
        torch.ops.ropeexport.rope_table.default: rope_of_positions,
    }


def _scalar_tensor(s: float, dtype: int = ir.DataType.FLOAT, **_: Any) -> Any:
    """Write a number of Python's in its own type; torch.onnx makes float32 of it on the way."""
    if isinstance(s, bool | int | float):
        return _constant(np.array(s, dtype=ir.DataType(dtype).numpy()))
    return onnxscript.opset23.Cast(s, to=dtype)


def _einsum(equation: str, tensors: Sequence[Any], path: Sequence[int] | None = None) -> Any:
    """Write an Einsum; ONNX's takes no bfloat16, whose sums eager has in float32 as well."""
    op, types = onnxscript.opset23, {x.dtype for x in tensors}
    if types != {ir.DataType.BFLOAT16}:
        return op.Einsum(*tensors, equation=equation)
    wide = [op.Cast(x, to=ir.DataType.FLOAT) for x in tensors]
    return op.Cast(op.Einsum(*wide, equation=equation), to=ir.DataType.BFLOAT16)


def _is_narrow(pe: Any) -> bool:
    return pe.dtype is not None and pe.dtype != ir.DataType.FLOAT


def _constant(table: np.ndarray[Any, Any]) -> Any:
    return onnxscript.opset23.Constant(value=ir.tensor(table))
