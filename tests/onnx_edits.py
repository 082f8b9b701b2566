"""Edits of an ONNX file's message, for tests that change what was exported."""

from __future__ import annotations

import onnx
import onnx_ir as ir

from ropeexport.onnx_files import variants
from ropeexport.ops.apply_rope import Body


def make_standard(node: onnx.NodeProto) -> None:
    """Turn a node of ropeexport's Attention into ONNX's own, in place."""
    node.domain = ""
    kept = [attribute for attribute in node.attribute if attribute.name == "scale"]
    del node.attribute[:]
    node.attribute.extend(kept)


def with_body(model: onnx.ModelProto, body: Body) -> onnx.ModelProto:
    """Return a message whose rotary ops have another body."""
    changed: onnx.ModelProto = ir.to_proto(variants.with_body(ir.from_proto(model), body))
    return changed
