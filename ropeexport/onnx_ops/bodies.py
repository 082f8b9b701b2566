"""Function bodies of ``ropeexport::ApplyRope``: three ways to compute one contract.

``adaptive`` decides at run time and is what a file is exported with.  ``general`` (products and a
sum, right for any matrix, equal to eager bit for bit) and ``rotation`` (``RotaryEmbedding``, right
for rotations only) are what a TensorRT build swaps in, see :func:`with_body`.

This module needs onnx alone, so that a build imports no torch.
"""

from __future__ import annotations

from typing import Literal

import onnx

from ropeexport.onnx_ops import names

Body = Literal["adaptive", "general", "rotation"]

_FLOAT = onnx.TensorProto.FLOAT
_BOOL = onnx.TensorProto.BOOL
_INT32 = onnx.TensorProto.INT32

# pe (Bp, Hp, L, P, 2, 2) to its four entries, each (Bp, Hp, L, P).  Gather with a scalar index is
# the form that onnxruntime fuses into one Split.
_ENTRIES = """
  zero = Constant<value_int = 0>()
  one = Constant<value_int = 1>()
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

# RotaryEmbedding wants tables of the data's batch and without a head axis: (B, L, P).
_ROTARY = """
  cos_1 = Gather<axis = 1>(m00, zero)
  sin_1 = Gather<axis = 1>(m10, zero)
  batch = Shape<start = 0, end = 1>(q)
  ones = Constant<value_ints = [1, 1]>()
  table_shape = Concat<axis = 0>(batch, ones)
  cos = Expand(cos_1, table_shape)
  sin = Expand(sin_1, table_shape)
"""

_ROTARY_EACH = f"""
  {{x}}_wide = Cast<to = {_FLOAT}>({{x}})
  {{x}}_rotated = RotaryEmbedding<interleaved = 1>({{x}}_wide, cos, sin)
"""

_PRODUCTS = """
  pairs = Constant<value_ints = [0, 0, 0, -1, 2]>()
  last = Constant<value_ints = [-1]>()
"""

_PRODUCTS_EACH = f"""
  {{x}}_wide = Cast<to = {_FLOAT}>({{x}})
  {{x}}_pairs = Reshape({{x}}_wide, pairs)
  {{x}}_0 = Gather<axis = -1>({{x}}_pairs, zero)
  {{x}}_1 = Gather<axis = -1>({{x}}_pairs, one)
  {{x}}_00 = Mul(m00, {{x}}_0)
  {{x}}_01 = Mul(m01, {{x}}_1)
  {{x}}_10 = Mul(m10, {{x}}_0)
  {{x}}_11 = Mul(m11, {{x}}_1)
  {{x}}_row0 = Add({{x}}_00, {{x}}_01)
  {{x}}_row1 = Add({{x}}_10, {{x}}_11)
  {{x}}_col0 = Unsqueeze({{x}}_row0, last)
  {{x}}_col1 = Unsqueeze({{x}}_row1, last)
  {{x}}_stacked = Concat<axis = -1>({{x}}_col0, {{x}}_col1)
  {{x}}_shape = Shape({{x}})
  {{x}}_rotated = Reshape({{x}}_stacked, {{x}}_shape)
"""

_CAST_BACK = """
  q_out = CastLike(q_rotated, q)
  k_out = CastLike(k_rotated, k)
"""


def _each(template: str, suffix: str = "") -> str:
    text = "".join(template.format(x=x) for x in ("q", "k"))
    return text.replace("_rotated", f"_rotated{suffix}")


def _branch(name: str, nodes: str, suffix: str) -> str:
    # The branches cast up, the function casts back: so onnxruntime drops both casts for float32.
    outputs = ", ".join(f"float[b, h_{x}, l, d] {x}_rotated{suffix}" for x in ("q", "k"))
    return f"{name} () => ({outputs}) {{ {nodes} }}"


_GENERAL = _PRODUCTS + _each(_PRODUCTS_EACH)
_ROTATION = _ROTARY + _each(_ROTARY_EACH)
_ADAPTIVE = (
    _DECISION
    + "q_rotated, k_rotated = If (use_rotary) <then_branch = "
    + _branch("rotations", _ROTARY + _each(_ROTARY_EACH, "_by_rotary"), "_by_rotary")
    + ", else_branch = "
    + _branch("matrices", _PRODUCTS + _each(_PRODUCTS_EACH, "_by_products"), "_by_products")
    + ">"
)

_NODES: dict[Body, str] = {
    "adaptive": _ENTRIES + _ADAPTIVE + _CAST_BACK,
    "general": _ENTRIES + _GENERAL + _CAST_BACK,
    "rotation": _ENTRIES + _ROTATION + _CAST_BACK,
}


def apply_rope_function(opset: int, body: Body = "adaptive") -> onnx.FunctionProto:
    """Return the model-local function ``ropeexport::ApplyRope`` for a model of ``opset``."""
    attributes = ", ".join(names.PLUGIN_ATTRIBUTES)
    function = onnx.parser.parse_function(
        f'<domain: "{names.DOMAIN}", opset_import: ["" : {opset}]>\n'
        f"{names.APPLY_ROPE} <{attributes}> (q, k, pe) => (q_out, k_out) {{ {_NODES[body]} }}"
    )
    function.doc_string = names.CONTRACT
    return function


def with_body(model: onnx.ModelProto, body: Body) -> onnx.ModelProto:
    """Return a copy of ``model`` in which ApplyRope has another body; weights are shared files."""
    swapped = onnx.ModelProto()
    swapped.CopyFrom(model)
    opset = next(entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx"))
    for function in swapped.functions:
        if (function.domain, function.name) == (names.DOMAIN, names.APPLY_ROPE):
            function.CopyFrom(apply_rope_function(opset, body))
    return swapped
