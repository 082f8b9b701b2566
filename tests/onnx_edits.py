"""Edits of an ONNX file's message, for tests that change what was exported."""

from __future__ import annotations

import onnx
import onnx_ir as ir

from ropeexport.onnx_files import variants
from ropeexport.ops.apply_rope import Body


def make_causal(model: onnx.ModelProto) -> None:
    """Let a message's attention look at no later key: a fault that every runtime runs."""
    node = next(node for node in model.graph.node if node.op_type == "Attention")
    kept = [attribute for attribute in node.attribute if attribute.name != "is_causal"]
    del node.attribute[:]
    node.attribute.extend([*kept, onnx.helper.make_attribute("is_causal", 1)])


def in_blocks(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a message with attention in blocks, as a file has it that was asked for so."""
    changed: onnx.ModelProto = ir.to_proto(variants.with_attention_in_blocks(ir.from_proto(model)))
    return changed


def with_body(model: onnx.ModelProto, body: Body) -> onnx.ModelProto:
    """Return a message whose rotary ops have another body."""
    changed: onnx.ModelProto = ir.to_proto(variants.with_body(ir.from_proto(model), body))
    return changed
