"""Function bodies of the rotary ops: three ways to compute one contract.

``adaptive`` decides at run time and is what a file is exported with.  ``general`` (products and a
sum, right for any matrix, equal to eager bit for bit) and ``rotation`` (``RotaryEmbedding``, right
for rotations only) are what a TensorRT build swaps in, see
:func:`ropeexport.onnx_files.variants.with_body`.  Cosine and sine are
a rotation by contract, so there ``adaptive`` is ``rotation``.

This module needs onnx alone, so that a build imports no torch.
"""

from __future__ import annotations

from typing import Literal

import onnx

from ropeexport.onnx_ops import names
from ropeexport.onnx_ops.forms import APPLY_ROPE, ROTARY_SIZE, Form, Pairing

Body = Literal["adaptive", "general", "rotation"]

_FLOAT = onnx.TensorProto.FLOAT
_BOOL = onnx.TensorProto.BOOL
_INT32 = onnx.TensorProto.INT32

_NUMBERS = """
  zero = Constant<value_int = 0>()
  one = Constant<value_int = 1>()
"""

# pe (Bp, Hp, L, P, 2, 2) to its four entries, each (Bp, Hp, L, P).  Gather with a scalar index is
# the form that onnxruntime fuses into one Split.
_MATRIX_ENTRIES = """
  two = Constant<value_int = 2>()
  three = Constant<value_int = 3>()
  rows = Constant<value_ints = [0, 0, 0, 0, 4]>()
  entries = Reshape(pe, rows)
  m00 = Gather<axis = -1>(entries, zero)
  m01 = Gather<axis = -1>(entries, one)
  m10 = Gather<axis = -1>(entries, two)
  m11 = Gather<axis = -1>(entries, three)
"""

# Every matrix a rotation, bit for bit, and one head axis for all heads.  NaN compares unequal and
# so takes the general branch, which carries it to the output.
_DECISION = f"""
  minus_m01 = Neg(m01)
  diagonal = Equal(m00, m11)
  antidiagonal = Equal(m10, minus_m01)
  rotation = And(diagonal, antidiagonal)
  rotation_bits = Cast<to = {_INT32}>(rotation)
  all_rotations_bit = ReduceMin<keepdims = 0>(rotation_bits)
  all_rotations = Cast<to = {_BOOL}>(all_rotations_bit)
  pe_heads_1d = Shape<start = 1, end = 2>(pe)
  pe_heads = Squeeze(pe_heads_1d)
  shared_by_heads = Equal(pe_heads, one)
  use_rotary = And(all_rotations, shared_by_heads)
"""

# cos and sin (Bp, L, P) to the same four entries, each (Bp, 1, L, P)
_COS_SIN_ENTRIES = """
  head_axis = Constant<value_ints = [1]>()
  m00 = Unsqueeze(cos, head_axis)
  m10 = Unsqueeze(sin, head_axis)
  m01 = Neg(m10)
  m11 = Identity(m00)
"""

# RotaryEmbedding wants tables of the data's batch and without a head axis: (B, L, P).
_MATRIX_TABLES = """
  cos_1 = Gather<axis = 1>(m00, zero)
  sin_1 = Gather<axis = 1>(m10, zero)
"""
_COS_SIN_TABLES = """
  cos_1 = Identity(cos)
  sin_1 = Identity(sin)
"""
_EXPANDED = """
  batch = Shape<start = 0, end = 1>(q)
  ones = Constant<value_ints = [1, 1]>()
  table_shape = Concat<axis = 0>(batch, ones)
  cos_b = Expand(cos_1, table_shape)
  sin_b = Expand(sin_1, table_shape)
"""

_ROTARY_EACH = f"""
  {{x}}_wide = Cast<to = {_FLOAT}>({{x}})
  {{x}}_rotated = RotaryEmbedding<interleaved = {{interleaved}}{{part}}>({{x}}_wide, cos_b, sin_b)
"""

_PRODUCTS = """
  pairs = Constant<value_ints = {pair_shape}>()
  pair_axis = Constant<value_ints = [{axis}]>()
"""

_PRODUCTS_EACH = f"""
  {{x}}_wide = Cast<to = {_FLOAT}>({{x}})
  {{x}}_pairs = Reshape({{x}}_wide, pairs)
  {{x}}_0 = Gather<axis = {{axis}}>({{x}}_pairs, zero)
  {{x}}_1 = Gather<axis = {{axis}}>({{x}}_pairs, one)
  {{x}}_00 = Mul(m00, {{x}}_0)
  {{x}}_01 = Mul(m01, {{x}}_1)
  {{x}}_10 = Mul(m10, {{x}}_0)
  {{x}}_11 = Mul(m11, {{x}}_1)
  {{x}}_row0 = Add({{x}}_00, {{x}}_01)
  {{x}}_row1 = Add({{x}}_10, {{x}}_11)
  {{x}}_col0 = Unsqueeze({{x}}_row0, pair_axis)
  {{x}}_col1 = Unsqueeze({{x}}_row1, pair_axis)
  {{x}}_stacked = Concat<axis = {{axis}}>({{x}}_col0, {{x}}_col1)
  {{x}}_shape = Shape({{x}})
  {{x}}_rotated = Reshape({{x}}_stacked, {{x}}_shape)
"""

# the part of a head that is rotated, and the rest, which passes
_PARTS = """
  last = Constant<value_ints = [3]>()
  start = Constant<value_ints = [0]>()
  end = Constant<value_ints = [9223372036854775807]>()
  cos_pairs = Shape<start = 2, end = 3>(cos)
  rotary_size = Add(cos_pairs, cos_pairs)
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

# how the last axis is seen as pairs, and which axis of that view holds the two of a pair
_PAIR_VIEWS: dict[Pairing, dict[str, str]] = {
    "interleaved": {"pair_shape": "[0, 0, 0, -1, 2]", "axis": "-1", "interleaved": "1"},
    "half": {"pair_shape": "[0, 0, 0, 2, -1]", "axis": "-2", "interleaved": "0"},
}


def _each(form: Form, template: str, suffix: str = "", of: str = "") -> str:
    part = f", {ROTARY_SIZE}: int = @{ROTARY_SIZE}" if form.partial else ""
    views = _PAIR_VIEWS[form.pairing]
    text = "".join(template.format(x=f"{x}{of}", part=part, **views) for x in form.data_inputs)
    return text.replace("_rotated", f"_rotated{suffix}")


def _general(form: Form, suffix: str = "") -> str:
    head = _PRODUCTS.format(**_PAIR_VIEWS[form.pairing])
    return head + _each(form, _PRODUCTS_EACH, suffix)


def _general_part(form: Form) -> str:
    head = _PARTS + _each(form, _PARTS_EACH) + _PRODUCTS.format(**_PAIR_VIEWS[form.pairing])
    products = _each(form, _PRODUCTS_EACH, of="_part").replace("_part_rotated", "_rotated")
    return head + products + _each(form, _JOINED_EACH)


def _rotation(form: Form, suffix: str = "") -> str:
    tables = _MATRIX_TABLES if form.tables == "matrices" else _COS_SIN_TABLES
    return tables + _EXPANDED + _each(form, _ROTARY_EACH, suffix)


def _adaptive(form: Form) -> str:
    rotated = ", ".join(f"{x}_rotated" for x in form.data_inputs)
    rotations = _branch(form, "rotations", _rotation(form, "_by_rotary"), "_by_rotary")
    matrices = _branch(form, "matrices", _general(form, "_by_products"), "_by_products")
    return (
        f"{_DECISION} {rotated} = If (use_rotary) "
        f"<then_branch = {rotations}, else_branch = {matrices}>"
    )


def _branch(form: Form, name: str, nodes: str, suffix: str) -> str:
    # The branches cast up, the function casts back: so onnxruntime drops both casts for float32.
    outputs = ", ".join(f"float[b, h_{x}, l, d] {x}_rotated{suffix}" for x in form.data_inputs)
    return f"{name} () => ({outputs}) {{ {nodes} }}"


def _nodes(form: Form, body: Body) -> str:
    entries = _MATRIX_ENTRIES if form.tables == "matrices" else _COS_SIN_ENTRIES
    if body == "general" and form.partial:
        return _NUMBERS + entries + _general_part(form)
    if body == "general":
        middle = entries + _general(form)
    elif form.tables == "cos_sin":
        middle = _rotation(form)
    else:
        middle = entries + (_adaptive(form) if body == "adaptive" else _rotation(form))
    return _NUMBERS + middle + _each(form, _CAST_BACK_EACH)


def rope_function(form: Form, opset: int, body: Body = "adaptive") -> onnx.FunctionProto:
    """Return the model-local function of a rotary op for a model of ``opset``."""
    inputs = ", ".join((*form.data_inputs, *form.table_inputs))
    outputs = ", ".join(f"{x}_out" for x in form.data_inputs)
    function = onnx.parser.parse_function(
        f'<domain: "{names.DOMAIN}", opset_import: ["" : {opset}]>\n'
        f"{form.op_type} <{', '.join(form.attribute_names)}> ({inputs}) => ({outputs}) "
        f"{{ {_nodes(form, body)} }}"
    )
    function.doc_string = form.contract
    return function


def apply_rope_function(opset: int, body: Body = "adaptive") -> onnx.FunctionProto:
    """Return the model-local function ``ropeexport::ApplyRope`` for a model of ``opset``."""
    return rope_function(APPLY_ROPE, opset, body)
