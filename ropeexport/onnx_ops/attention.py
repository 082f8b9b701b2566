"""``ropeexport::Attention``: the standard's Attention, for long sequences by a kernel in blocks.

onnxruntime's CPU kernel of ``Attention`` keeps all scores, (B, H, L, S) of them; its kernel of
``com.microsoft::MultiHeadAttention`` goes through them in blocks that stay in the cache (flash
attention), but wants heads side by side, (B, L, H*D), which costs three copies.  So the body of
this op chooses by S at run time; the attribute ``blocks_from`` says where.  ``MultiHeadAttention``
has a body in turn, for runtimes without it.  What cannot use either gets the standard's operator
in the first place, see :func:`ropeexport.onnx_files.variants.with_standard_attention`.

The op takes what the kernel in blocks takes: no mask, no past, nothing causal, and the same number
of heads on both sides.
"""

from __future__ import annotations

import onnx
import onnx_ir as ir

from ropeexport.onnx_ops import names

CONTRACT = (
    "Attention(q, k, v) -> y: ONNX's Attention of q (B, H, L, D), k (B, H, S, D), v (B, H, S, Dv) "
    "without a mask; B and L at least 1; y (B, H, L, Dv)"
)
NUM_HEADS, SCALE = "num_heads", "scale"  # MultiHeadAttention's names
FROM = "blocks_from"  # the S from which the kernel in blocks is used
_KERNEL, _KERNEL_DOMAIN, _KERNEL_VERSION = "MultiHeadAttention", "com.microsoft", 1

_SIDE_BY_SIDE = """
  {x}_by_length = Transpose<perm = [0, 2, 1, 3]>({x})
  {x}_rows = Reshape({x}_by_length, rows)
"""
_IN_BLOCKS = f"""
  rows = Constant<value_ints = [0, 0, -1]>()
  {"".join(_SIDE_BY_SIDE.format(x=x) for x in "qkv")}
  y_rows = {_KERNEL_DOMAIN}.{_KERNEL}<{NUM_HEADS}: int = @{NUM_HEADS}, {SCALE}: float = @{SCALE}>(
    q_rows, k_rows, v_rows)
  same = Constant<value_ints = [0, 0]>()
  heads = Shape<start = 1, end = 2>(q)
  rest = Constant<value_ints = [-1]>()
  by_heads = Concat<axis = 0>(same, heads, rest)
  y_by_length = Reshape(y_rows, by_heads)
  y_of_blocks = Transpose<perm = [0, 2, 1, 3]>(y_by_length)
"""
_AT_ONCE = f"y_at_once = Attention<{SCALE}: float = @{SCALE}>(q, k, v)"
_NODES = f"""
  length_1d = Shape<start = 2, end = 3>(k)
  length = Squeeze(length_1d)
  limit = Constant<value_int: int = @{FROM}>()
  is_long = GreaterOrEqual(length, limit)
  y = If (is_long) <
    then_branch = in_blocks () => (y_of_blocks) {{ {_IN_BLOCKS} }},
    else_branch = at_once () => (y_at_once) {{ {_AT_ONCE} }}
  >
"""
_KERNEL_NODES = (
    f"y = Attention<q_num_heads: int = @{NUM_HEADS}, kv_num_heads: int = @{NUM_HEADS}, "
    f"{SCALE}: float = @{SCALE}>(q, k, v)"
)


def attention_functions(opset: int) -> list[onnx.FunctionProto]:
    """Return its kernel's function and the op's, which calls that, for a model of ``opset``."""
    kernel_import = f'"{_KERNEL_DOMAIN}" : {_KERNEL_VERSION}'
    op = onnx.parser.parse_function(
        f'<domain: "{names.DOMAIN}", opset_import: ["" : {opset}, {kernel_import}]>\n'
        f"{names.ATTENTION} <{NUM_HEADS}, {SCALE}, {FROM}> (q, k, v) => (y) {{ {_NODES} }}"
    )
    op.doc_string = CONTRACT
    kernel = onnx.parser.parse_function(
        f'<domain: "{_KERNEL_DOMAIN}", opset_import: ["" : {opset}]>\n'
        f"{_KERNEL} <{NUM_HEADS}, {SCALE}> (q, k, v) => (y) {{ {_KERNEL_NODES} }}"
    )
    kernel.doc_string = "for runtimes without this operator: what it computes, by the standard's"
    return [kernel, op]  # onnx's reference evaluator knows what stands before


def is_op(node: ir.Node) -> bool:
    """Say whether a node is the op."""
    return (node.domain, node.op_type) == (names.DOMAIN, names.ATTENTION)


def make_standard(node: ir.Node) -> None:
    """Turn a node of the op into ONNX's own Attention, in place."""
    node.domain = ""
    for name in [name for name in node.attributes if name != SCALE]:
        del node.attributes[name]


FUNCTIONS = ((names.DOMAIN, names.ATTENTION), (_KERNEL_DOMAIN, _KERNEL))
