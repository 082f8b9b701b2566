"""The rotary ops, ``ropeexport::ApplyRope`` and its kin: bodies, NumPy meaning, what stages ask.

Three bodies compute one contract.  ``adaptive`` decides at run time and is what a file is exported
with.  ``general`` (products and a sum, right for any matrix, equal to eager bit for bit) and
``rotation`` (``RotaryEmbedding``, right for rotations only) are what a TensorRT build swaps in, see
:func:`with_body`.  Where the tables are rotations by contract, ``adaptive`` is ``rotation``; where
``RotaryEmbedding`` knows no such pairs, all three are ``general``.

This module needs onnx alone, so that a build imports no torch.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import onnx

from ropeexport.manifest import Role
from ropeexport.ops import names
from ropeexport.ops.forms import APPLY_ROPE, FORMS, PAIRINGS, ROTARY_SIZE, Form
from ropeexport.ops.op import FLOATS, Array, Op, TorchOp, function_of

Body = Literal["adaptive", "general", "rotation"]

_FLOAT = onnx.TensorProto.FLOAT

# RotaryEmbedding wants tables of the data's batch and without a head axis: (B, L, P).
_EXPANDED = """
  batch = Shape<start = 0, end = 1>(q)
  ones = Constant<value_ints = [1, 1]>()
  table_shape = Concat<axis = 0>(batch, ones)
  cos_b = Expand(cos_1, table_shape)
  sin_b = Expand(sin_1, table_shape)
"""

_WIDE_EACH = f"\n  {{x}}_wide = Cast<to = {_FLOAT}>({{x}})\n"
_ROTARY_EACH = """
  {x}_rotated = RotaryEmbedding<interleaved = {interleaved}{part}>({x}_wide, cos_b, sin_b)
"""

_PRODUCTS_EACH = """
  {x}_00 = Mul(m00, {x}_0)
  {x}_01 = Mul(m01, {x}_1)
  {x}_10 = Mul(m10, {x}_0)
  {x}_11 = Mul(m11, {x}_1)
  {x}_row0 = Add({x}_00, {x}_01)
  {x}_row1 = Add({x}_10, {x}_11)
"""

# the part of a head that is rotated, and the rest, which passes
_PARTS = """
  last = Constant<value_ints = [3]>()
  start = Constant<value_ints = [0]>()
  end = Constant<value_ints = [9223372036854775807]>()
  table_pairs = Shape<start = 3, end = 4>(m00)
  rotary_size = Add(table_pairs, table_pairs)
"""
_PARTS_EACH = """
  {x}_part = Slice({x}, start, rotary_size, last)
  {x}_rest = Slice({x}, rotary_size, end, last)
"""
_JOINED_EACH = """
  {x}_part_out = CastLike({x}_rotated, {x})
  {x}_out = Concat<axis = 3>({x}_part_out, {x}_rest)
"""

# onnxruntime drops a cast to the same type unless it makes a graph's output; an Identity it always
# drops, so with one behind the cast, both go.
_CAST_BACK_EACH = """
  {x}_narrow = CastLike({x}_rotated, {x})
  {x}_out = Identity({x}_narrow)
"""


def _each(form: Form, template: str, suffix: str = "", of: str = "") -> str:
    part = f", {ROTARY_SIZE}: int = @{ROTARY_SIZE}" if form.partial else ""
    facts = {"part": part, "interleaved": form.pairs.interleaved}
    text = "".join(template.format(x=f"{x}{of}", **facts) for x in form.data_inputs)
    return text.replace("_rotated", f"_rotated{suffix}")


def _products(form: Form, suffix: str = "", of: str = "") -> str:
    pairs = form.pairs
    return _each(form, _WIDE_EACH + pairs.split + _PRODUCTS_EACH + pairs.join, suffix, of)


def _general(form: Form, suffix: str = "") -> str:
    return form.pairs.constants + _products(form, suffix)


def _general_part(form: Form) -> str:
    head = _PARTS + _each(form, _PARTS_EACH) + form.pairs.constants
    products = _products(form, of="_part").replace("_part_rotated", "_rotated")
    return head + products + _each(form, _JOINED_EACH)


def _rotation(form: Form, suffix: str = "") -> str:
    return (
        form.coefficients.rotary_nodes + _EXPANDED + _each(form, _WIDE_EACH + _ROTARY_EACH, suffix)
    )


def _adaptive(form: Form) -> str:
    rotated = ", ".join(f"{x}_rotated" for x in form.data_inputs)
    rotations = _branch(form, "rotations", _rotation(form, "_by_rotary"), "_by_rotary")
    matrices = _branch(form, "matrices", _general(form, "_by_products"), "_by_products")
    return (
        f"{form.coefficients.decision_nodes} {rotated} = If (use_rotary) "
        f"<then_branch = {rotations}, else_branch = {matrices}>"
    )


def _branch(form: Form, name: str, nodes: str, suffix: str) -> str:
    # The branches cast up, the function casts back: so onnxruntime drops both casts for float32.
    outputs = ", ".join(f"float[b, h_{x}, l, d] {x}_rotated{suffix}" for x in form.data_inputs)
    return f"{name} () => ({outputs}) {{ {nodes} }}"


def _nodes(form: Form, body: Body) -> str:
    tables = form.coefficients
    # a converter to float16 narrows the tables too, which cost their accuracy and no more
    widened = "".join(_WIDE_EACH.format(x=x) for x in form.table_inputs)
    by_products = body == "general" or form.pairs.interleaved is None
    decides = body == "adaptive" and not tables.rotations_only
    if form.partial and (by_products or decides):
        return widened + tables.entry_nodes + _general_part(form)
    if by_products:
        middle = tables.entry_nodes + _general(form)
    elif tables.rotations_only:
        middle = _rotation(form)
    else:
        middle = tables.entry_nodes + (_adaptive(form) if decides else _rotation(form))
    return widened + middle + _each(form, _CAST_BACK_EACH)


def rope_function(form: Form, opset: int, body: Body = "adaptive") -> onnx.FunctionProto:
    """Return the model-local function of a rotary op for a model of ``opset``."""
    inputs = ", ".join((*form.data_inputs, *form.table_inputs))
    outputs = ", ".join(f"{x}_out" for x in form.data_inputs)
    return function_of(
        f'<domain: "{names.DOMAIN}", opset_import: ["" : {opset}]>\n'
        f"{form.op_type} <{', '.join(form.attribute_names)}> ({inputs}) => ({outputs}) "
        f"{{ {_nodes(form, body)} }}",
        form.contract,
    )


def apply_form(form: Form, *inputs: Array) -> tuple[Array, ...]:
    """Run a rotary op on arrays: data (B, H, L, D), tables as :class:`Form` has them."""
    data, tables = inputs[: form.tensors], inputs[form.tensors :]
    entries = form.coefficients.entries(*tables)
    return tuple(rotate(x, form.pairing, *entries) for x in data)


def rotate(x: Array, pairing: str, *entries: Array) -> Array:
    """Multiply each pair of the last axis by its matrix; what no pair covers passes."""
    m00, m01, m10, m11 = entries
    first, second = PAIRINGS[pairing].slices(m00.shape[-1])
    rotated = np.array(x)
    rotated[..., first] = m00 * x[..., first] + m01 * x[..., second]
    rotated[..., second] = m10 * x[..., first] + m11 * x[..., second]
    return rotated


_TORCH = "ropeexport.ops.apply_rope_torch"
_TORCH_OP = TorchOp("apply_rope", f"{_TORCH}:translation", f"{_TORCH}:plain")


def _op(form: Form) -> Op:
    data, outputs = form.data_inputs, tuple(f"{x}_out" for x in form.data_inputs)
    types = tuple(f"T{x}" for x in data)
    tensors = dict(zip(data, types, strict=True))
    tables: dict[str, Role] = dict.fromkeys(form.table_inputs, form.coefficients.role)
    results: dict[str, Role] = dict.fromkeys(outputs, "rotated")
    return Op(
        op_type=form.op_type,
        contract=form.contract,
        inputs=tensors | dict.fromkeys(form.table_inputs, "tensor(float)"),
        outputs=dict(zip(outputs, types, strict=True)),
        types=dict.fromkeys(types, FLOATS),
        functions=lambda opset: (rope_function(form, opset),),
        evaluate=lambda _, inputs: apply_form(form, *inputs),
        attributes=form.attributes,
        options=form.options,
        roles=tables | results,
        results=tuple("_".join(filter(None, (x, "rotated", form.suffix.lower()))) for x in data),
        terms=1,  # a bound knows of the two products by itself
        rule="ropeexport.ops.apply_rope_bound:rotation_bound",
        torch_ops=(_TORCH_OP,) if form == APPLY_ROPE else (),
    )


OPS = tuple(_op(form) for form in FORMS.values() if not form.normed)
