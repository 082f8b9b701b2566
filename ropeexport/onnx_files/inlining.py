"""A model without function bodies, for runtimes that know ONNX's own operators only."""

from __future__ import annotations

import onnx
import onnx.inliner

from ropeexport.ops.attention import with_standard_attention


def inlined(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a model with its function bodies in the place of their calls."""
    return onnx.inliner.inline_local_functions(with_standard_attention(model))
