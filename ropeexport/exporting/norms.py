"""Root mean square norms as the one operator that ONNX has for them.

A norm written out is a cast, a square, a mean, a root and two products: a pass over the data for
each in onnxruntime, and nothing that TensorRT would know as a normalisation.  The rules are
onnxscript's own; only these two of its set are applied, because matching all of them is quadratic
in a large graph.
"""

from __future__ import annotations

from typing import Any

import onnx_ir as ir
from onnxscript.rewriter import pattern
from onnxscript.rewriter.rules.fusion import _rms_normalization


def fuse_norms(model: ir.Model) -> int:
    """Put ``RMSNormalization`` in place of what computes it, in place; return how many."""
    rules = [
        _OneType.rule(f"RMSNormalization {order}", mul_order=order == "scale last")
        for order in ("scale last", "scale first")
    ]
    return int(pattern.RewriteRuleSet(rules).apply_to_model(model))


class _OneType(_rms_normalization.RmsNormFusion):  # type: ignore[misc]
    """onnxscript's rule, for data and scale of one type.

    A float32 scale of half data (Gemma's) would make the output float32, which neither onnx's
    inference nor onnxruntime expects of the operator.
    """

    def check(self, context: Any, x: Any, scale: Any, **given: Any) -> pattern.MatchResult:
        """Refuse what onnxscript's rule refuses, and a scale of another type."""
        if x.dtype != scale.dtype:
            return pattern.MatchResult().fail("Data and scale are of different types.", scale)
        return super().check(context, x, scale, **given)
