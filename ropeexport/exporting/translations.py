"""What torch's exporter writes for our ops, and for operators that it has no translation of.

The nodes of our ops are emitted by name.  Handing the exporter an onnxscript function instead would
inline it, and the custom node would be lost; the bodies are attached to the finished model.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxscript
import torch

import ropeexport.ops.cache_update  # noqa: F401 - its torch op is one of those below
from ropeexport.ops import names
from ropeexport.ops.op import Op, resolve
from ropeexport.ops.registry import OPS


def translation_table(max_position: int) -> dict[Any, Callable[..., Any]]:
    """Return the exporter's ``custom_translation_table``.

    ``max_position`` is the largest that tables of angles must hold.
    """
    table: dict[Any, Callable[..., Any]] = {
        torch.ops.aten.einsum.default: _einsum,
        torch.ops.aten.scalar_tensor.default: _scalar_tensor,
        torch.ops.aten.sort.stable: _sort,
        torch.ops.aten.expm1.default: partial(_in_float, _expm1),
        torch.ops.aten.special_expm1.default: partial(_in_float, _expm1),
        torch.ops.aten.erfinv.default: partial(_in_float, _erfinv),
        torch.ops.aten.special_erfinv.default: partial(_in_float, _erfinv),
        torch.ops.aten.log1p.default: partial(_in_float, _log1p),
        torch.ops.aten.special_log1p.default: partial(_in_float, _log1p),
        torch.ops.aten.logaddexp.default: partial(_in_float, _logaddexp),
        torch.ops.aten.repeat_interleave.self_int: _repeat_interleave,
        torch.sym_sqrt: onnxscript.opset23.Sqrt,
        torch.ops.aten._grouped_mm.default: _grouped_product,
        torch.ops.aten._is_all_true.default: partial(_of_all, "ReduceMin"),
        torch.ops.aten._is_any_true.default: partial(_of_all, "ReduceMax"),
        torch.ops.ropeexport.cache_update.default: _cache_update,
    }
    if hasattr(torch.ops.transformers, "grouped_mm_fallback"):  # where transformers is in use
        table[torch.ops.transformers.grouped_mm_fallback.default] = _grouped_product
    for op in OPS:
        for torch_op in op.torch_ops:
            translation = resolve(torch_op.translation)
            table[torch_op.overload] = translation(_node(op), max_position)
    return table


def _node(op: Op) -> Callable[..., Any]:
    """Return what emits a node of an op, with the attributes that every one has."""
    opset = onnxscript.values.Opset(names.DOMAIN, names.DOMAIN_VERSION)
    return partial(onnxscript.values.Op(opset, op.op_type, schema_of(op)), **op.attributes)


def schema_of(op: Op) -> onnx.defs.OpSchema:
    """Return an op's ONNX schema."""
    schema = onnx.defs.OpSchema
    options = dict.fromkeys(op.attributes, "string") | dict(op.options)
    return schema(
        op.op_type,
        names.DOMAIN,
        names.DOMAIN_VERSION,
        doc=op.contract,
        inputs=[schema.FormalParameter(*item) for item in op.inputs.items()],
        outputs=[schema.FormalParameter(*item) for item in op.outputs.items()],
        type_constraints=[(letter, list(types), "") for letter, types in op.types.items()],
        attributes=[
            schema.Attribute(name, getattr(schema.AttrType, kind.upper()), required=False)
            for name, kind in options.items()
        ],
    )


def _cache_update(past: Any, new: Any, write: Any) -> Any:
    """Write a TensorScatter, of an opset that this onnxscript has no module of."""
    schema = onnx.defs.get_schema("TensorScatter", names.CACHE_OPSET, "")
    opset = onnxscript.values.Opset("", names.CACHE_OPSET)
    return onnxscript.values.Op(opset, schema.name, schema)(past, new, write, axis=2)


def _scalar_tensor(s: float, dtype: int = ir.DataType.FLOAT, **_: Any) -> Any:
    """Write a number of Python's in its own type; torch.onnx makes float32 of it on the way."""
    if isinstance(s, bool | int | float):
        array = np.array(s, dtype=ir.DataType(dtype).numpy())
        return onnxscript.opset23.Constant(value=ir.tensor(array))
    return onnxscript.opset23.Cast(s, to=dtype)


def _einsum(equation: str, tensors: Sequence[Any], path: Sequence[int] | None = None) -> Any:
    """Write an Einsum; ONNX's takes no bfloat16, whose sums eager has in float32 as well."""
    op, types = onnxscript.opset23, {x.dtype for x in tensors}
    if types != {ir.DataType.BFLOAT16}:
        return op.Einsum(*tensors, equation=equation)
    wide = [op.Cast(x, to=ir.DataType.FLOAT) for x in tensors]
    return op.Cast(op.Einsum(*wide, equation=equation), to=ir.DataType.BFLOAT16)


def _in_float(write: Callable[..., Any], *inputs: Any) -> Any:
    """Write a function of tensors of one type, in float32 where that type is a narrow one.

    ``write`` also takes what makes a constant of the type that it is written in.
    """
    op, kind = onnxscript.opset23, inputs[0].dtype
    if kind == ir.DataType.DOUBLE:
        return write(*inputs, lambda x: op.Constant(value=ir.tensor(np.array(x, np.float64))))
    wide = [x if kind == ir.DataType.FLOAT else op.Cast(x, to=ir.DataType.FLOAT) for x in inputs]
    found = write(*wide, lambda x: op.Constant(value=ir.tensor(np.array(x, np.float32))))
    return found if kind in (ir.DataType.FLOAT, None) else op.Cast(found, to=kind)


def _expm1(x: Any, constant: Callable[[float], Any]) -> Any:
    """Write ``tanh(x / 2) (exp(x) + 1)``; torch's own ``exp(x) - 1`` loses all digits near zero."""
    op = onnxscript.opset23
    return op.Mul(op.Tanh(op.Mul(x, constant(0.5))), op.Add(op.Exp(x), constant(1.0)))


def _log1p(x: Any, constant: Callable[[float], Any]) -> Any:
    """Write ``log(u) x / (u - 1)`` near zero, where ``u = 1 + x`` has lost digits of ``x``.

    Source: W. Kahan's; the rounding of ``u`` is in both factors.
    """
    op, one = onnxscript.opset23, constant(1.0)
    near = op.Less(op.Abs(x), constant(0.5))
    small = op.Where(near, x, constant(0.25))  # elsewhere any number that divides
    above = op.Add(one, small)
    rest = op.Sub(above, one)
    is_lost = op.Equal(rest, constant(0.0))
    quotient = op.Div(op.Mul(op.Log(above), small), op.Where(is_lost, one, rest))
    return op.Where(near, op.Where(is_lost, small, quotient), op.Log(op.Add(one, x)))


_NEAR = (  # of w - 2.5, and of sqrt(w) - 3, the highest power first
    2.81022636e-08, 3.43273939e-07, -3.5233877e-06, -4.39150654e-06, 0.00021858087, -0.00125372503,
    -0.00417768164, 0.246640727, 1.50140941,
)  # fmt: skip
_FAR = (
    -0.000200214257, 0.000100950558, 0.00134934322, -0.00367342844, 0.00573950773, -0.0076224613,
    0.00943887047, 1.00167406, 2.83297682,
)  # fmt: skip


def _erfinv(x: Any, constant: Callable[[float], Any]) -> Any:
    """Write the inverse of the error function, in float32's precision; 1 and -1 give infinity.

    Source: M. Giles, "Approximating the erfinv function" (2010), polynomials of
    ``w = -log(1 - x^2)``.
    """
    op, one = onnxscript.opset23, constant(1.0)
    w = op.Neg(op.Add(_log1p(op.Neg(x), constant), _log1p(x, constant)))
    is_near = op.Less(w, constant(5.0))
    near = op.Sub(w, constant(2.5))
    far = op.Sub(op.Sqrt(op.Max(w, constant(0.0))), constant(3.0))
    found = []
    for powers, of in ((_NEAR, near), (_FAR, far)):
        total = constant(powers[0])
        for power in powers[1:]:
            total = op.Add(op.Mul(total, of), constant(power))
        found.append(total)
    ends = op.Div(x, constant(0.0))
    inner = op.Mul(op.Where(is_near, *found), x)
    return op.Where(op.Equal(op.Abs(x), one), ends, inner)


def _logaddexp(x: Any, y: Any, constant: Callable[[float], Any]) -> Any:
    """Write ``max + log1p(exp(-|x - y|))``, of which nothing overflows."""
    op = onnxscript.opset23
    apart = op.Where(op.Equal(x, y), constant(0.0), op.Sub(x, y))  # infinite ones too
    return op.Add(op.Max(x, y), _log1p(op.Exp(op.Neg(op.Abs(apart))), constant))


def _sort(x: Any, *, stable: bool | None = None, dim: int = -1, descending: bool = False) -> Any:
    """Write a TopK of all, which keeps the order of what is equal."""
    op = onnxscript.opset23
    last = op.Shape(x, start=dim, end=dim + 1 if dim != -1 else None)
    return op.TopK(x, last, axis=dim, largest=int(descending), sorted=1)


def _repeat_interleave(
    x: Any, repeats: Any, dim: int | None = None, *, output_size: Any = None
) -> Any:
    """Write a tensor whose elements along an axis stand so many times each, one after the other.

    torch's own translation repeats along a wrong axis where ``repeats`` is a dynamic size.
    """
    op = onnxscript.opset23
    rank, one = 1 if dim is None else len(x.shape), op.Constant(value_ints=[1])
    if dim is None:
        x = op.Reshape(x, op.Constant(value_ints=[-1]))
    axis = (dim or 0) % rank
    is_fixed = isinstance(repeats, int)
    count = op.Constant(value_ints=[repeats]) if is_fixed else op.Reshape(repeats, one)
    tiles = [one] * (axis + 1) + [count] + [one] * (rank - axis - 1)
    sizes = [op.Shape(x, start=place, end=place + 1) for place in range(rank)]
    sizes[axis] = op.Mul(sizes[axis], count)
    apart = op.Unsqueeze(x, op.Constant(value_ints=[axis + 1]))
    return op.Reshape(op.Expand(apart, op.Concat(*tiles, axis=0)), op.Concat(*sizes, axis=0))


def _of_all(reduction: str, x: Any) -> Any:
    """Write whether all elements of a boolean tensor are true, or any."""
    op = onnxscript.opset23
    found = getattr(op, reduction)(op.Cast(x, to=ir.DataType.INT32), keepdims=0)
    return op.Cast(found, to=ir.DataType.BOOL)


def _grouped_product(x: Any, weights: Any, ends: Any, *_: Any) -> Any:
    """Write the product of each row with the matrix of its expert: one product an expert.

    Rows (S, K) are sorted by expert, of whose rows ``ends`` (E,) says the last, in int32; matrices
    are (E, K, N).  No expert's matrix is gathered for a row of its own, and no row meets another's.
    """
    op, axis = onnxscript.opset23, onnxscript.opset23.Constant(value_ints=[0])
    lasts = op.Cast(ends, to=ir.DataType.INT64)
    parts, start = [], op.Constant(value_ints=[0])
    for expert in range(weights.shape[0]):
        end = op.Gather(lasts, op.Constant(value_ints=[expert]), axis=0)
        matrix = op.Gather(weights, op.Constant(value_int=expert), axis=0)
        parts.append(op.MatMul(op.Slice(x, start, end, axis), matrix))
        start = end
    return op.Concat(*parts, axis=0)
