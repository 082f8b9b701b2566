"""``ropeexport::AttentionInBlocks``: the standard's Attention as onnxruntime computes it best.

onnxruntime's CPU kernel of ``Attention`` keeps all scores, (B, H, L, S) of them; its kernel of
``com.microsoft::MultiHeadAttention`` goes through them in blocks that stay in the cache (flash
attention), but wants heads side by side, (B, L, H*D), which costs three copies.  So the body of
this op chooses by S at run time; the attribute ``blocks_from`` says where.  ``MultiHeadAttention``
has a body in turn, for runtimes without it.

A file has the standard's operator, and the op is made where ropeexport loads it in onnxruntime
(:func:`ropeexport.onnx_files.variants.with_attention_in_blocks`).  A file that was asked for with
the op is for onnxruntime alone; here, every other reader of it gets the standard's operator
(:func:`ropeexport.onnx_files.variants.with_standard_attention`).

The op takes what the kernel in blocks takes: no mask, no past, nothing causal, and the same number
of heads on both sides.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir

from ropeexport.operators import is_standard
from ropeexport.ops import names
from ropeexport.ops.op import FLOATS, Array, Op, function_of

_STANDARD = "Attention"
_NAMES = (names.ATTENTION_IN_BLOCKS, "Attention")
CONTRACT = (
    "AttentionInBlocks(q, k, v) -> y: ONNX's Attention of q (B, H, L, D), k (B, H, S, D), "
    "v (B, H, S, Dv) without a mask; B and L at least 1; y (B, H, L, Dv)"
)
NUM_HEADS, SCALE = "num_heads", "scale"  # MultiHeadAttention's names
FROM = "blocks_from"  # the S from which the kernel in blocks is used
# The types that every onnxruntime has the kernel in blocks for, and the S from which it is the
# faster one on a CPU, copies included (``python -m benchmarks.attention_kernels``).
_BLOCKS_FROM = {ir.DataType.FLOAT: 2048, ir.DataType.FLOAT16: 1024}
_HEADS, _SIZE = 1, 3  # axes
_RANK = 4
_INPUTS = 3  # q, k, v; a mask and a past follow
# attributes that must be absent, or 0, where the op is to compute the same
_OFF = ("is_causal", "softcap", "qk_matmul_output_mode", "softmax_precision")

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
    op = function_of(
        f'<domain: "{names.DOMAIN}", opset_import: ["" : {opset}, {kernel_import}]>\n'
        f"{names.ATTENTION_IN_BLOCKS} <{NUM_HEADS}, {SCALE}, {FROM}> (q, k, v) => (y) "
        f"{{ {_NODES} }}",
        CONTRACT,
    )
    kernel = function_of(
        f'<domain: "{_KERNEL_DOMAIN}", opset_import: ["" : {opset}]>\n'
        f"{_KERNEL} <{NUM_HEADS}, {SCALE}> (q, k, v) => (y) {{ {_KERNEL_NODES} }}",
        "for runtimes without this operator: what it computes, by the standard's",
    )
    return [kernel, op]  # onnx's reference evaluator knows what stands before


def is_op(node: ir.Node) -> bool:
    """Say whether a node is the op, under its present name or that of version 0.1.0."""
    return node.domain == names.DOMAIN and node.op_type in _NAMES


def make_standard(node: ir.Node) -> None:
    """Turn a node of the op into ONNX's own Attention, in place."""
    node.domain, node.op_type = "", _STANDARD
    for name in [name for name in node.attributes if name != SCALE]:
        del node.attributes[name]


FUNCTIONS = (*((names.DOMAIN, name) for name in _NAMES), (_KERNEL_DOMAIN, _KERNEL))


def put_in_blocks(model: ir.Model) -> int:
    """Put the op in place of each Attention that it computes, in place; return how many."""
    found = list(_replaceable(model))
    for node, heads, size, limit in found:
        scale = node.attributes.get(SCALE) or ir.AttrFloat32(SCALE, size**-0.5)
        node.domain, node.op_type, node.version = names.DOMAIN, names.ATTENTION_IN_BLOCKS, None
        node.attributes.clear()
        made = (ir.AttrInt64(NUM_HEADS, heads), scale, ir.AttrInt64(FROM, limit))
        node.attributes.update({attribute.name: attribute for attribute in made})
    return len(found)


def limits(model: ir.Model) -> set[int]:
    """Return the S from which the op would compute in blocks what it can replace in a model."""
    return {limit for *_, limit in _replaceable(model)}


def _replaceable(model: ir.Model) -> Iterator[tuple[ir.Node, int, int, int]]:
    """Yield each Attention that the op computes, its heads, their size, and where blocks begin."""
    for node in model.graph:
        heads, limit = _heads(node), _BLOCKS_FROM.get(node.outputs[0].dtype)
        if heads is not None and limit is not None:
            yield node, *heads, limit


def _heads(node: ir.Node) -> tuple[int, int] | None:
    """Return the heads and their size of an Attention that the op computes; None of other nodes."""
    if not is_standard(node, _STANDARD):
        return None
    inputs = [x for x in node.inputs if x is not None]
    outputs = [y for y in node.outputs if y.uses() or y.is_graph_output()]
    if len(inputs) != _INPUTS or outputs != [node.outputs[0]]:
        return None
    if any(node.attributes[name].value for name in _OFF if name in node.attributes):
        return None
    shapes = [x.shape for x in inputs if x.shape is not None and len(x.shape) == _RANK]
    heads = {shape[_HEADS] for shape in shapes}
    if len(shapes) != _INPUTS or len(heads) != 1:
        return None
    found = heads.pop(), shapes[0][_SIZE]
    return found if all(isinstance(size, int) for size in found) else None


def _evaluate(attributes: Mapping[str, Any], inputs: Sequence[Array]) -> tuple[Array, ...]:
    q, k, v = inputs
    scores = attributes[SCALE] * (q @ k.swapaxes(-1, -2))
    weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return (weights / weights.sum(axis=-1, keepdims=True) @ v,)


OP = Op(
    op_type=names.ATTENTION_IN_BLOCKS,
    contract=CONTRACT,
    inputs={"q": "T", "k": "T", "v": "T"},
    outputs={"y": "T"},
    types={"T": FLOATS},
    functions=attention_functions,
    evaluate=_evaluate,
    options={NUM_HEADS: "int", SCALE: "float", FROM: "int"},
    matcher=f"{__name__}:put_in_blocks",
    on_request=True,
)
