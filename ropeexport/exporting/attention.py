"""ONNX's Attention as ``ropeexport::Attention``, where that is the same."""

from __future__ import annotations

import onnx_ir as ir

from ropeexport.onnx_ops import names
from ropeexport.onnx_ops.attention import FROM, NUM_HEADS, SCALE

# The types that every onnxruntime has the kernel in blocks for, and the S from which it is the
# faster one on a CPU, copies included (``python -m benchmarks.attention_kernels``).
_BLOCKS_FROM = {ir.DataType.FLOAT: 2048, ir.DataType.FLOAT16: 1024}
_HEADS = 1
_RANK = 4
_INPUTS = 3  # q, k, v; a mask and a past follow
# attributes that must be absent, or 0, where the op is to compute the same
_OFF = ("is_causal", "softcap", "qk_matmul_output_mode", "softmax_precision")


def share_attention(model: ir.Model) -> int:
    """Put the op in place of each Attention that it computes, in place; return how many."""
    count = 0
    for node in model.graph:
        heads, limit = _heads(node), _BLOCKS_FROM.get(node.outputs[0].dtype)
        if heads is not None and limit is not None:
            scale = node.attributes.get(SCALE)
            node.domain, node.version = names.DOMAIN, None
            node.attributes.clear()
            node.attributes[NUM_HEADS] = ir.AttrInt64(NUM_HEADS, heads)
            node.attributes[FROM] = ir.AttrInt64(FROM, limit)
            if scale is not None:
                node.attributes[SCALE] = scale
            count += 1
    return count


def _heads(node: ir.Node) -> int | None:
    """Return the number of heads of an Attention that the op computes; None of any other node."""
    if node.domain not in ("", "ai.onnx") or node.op_type != "Attention":
        return None
    inputs = [x for x in node.inputs if x is not None]
    outputs = [y for y in node.outputs if y.uses() or y.is_graph_output()]
    if len(inputs) != _INPUTS or outputs != [node.outputs[0]]:
        return None
    if any(node.attributes[name].value for name in _OFF if name in node.attributes):
        return None
    found = {x.shape[_HEADS] if x.shape and len(x.shape) == _RANK else None for x in inputs}
    heads = found.pop()
    return heads if not found and isinstance(heads, int) else None
