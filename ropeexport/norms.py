"""Root mean square norms as the one operator that ONNX has for them.

A norm written out is a cast, a square, a mean, a root and two products: a pass over the data for
each in onnxruntime, and nothing that TensorRT would know as a normalisation.  The rules are
onnxscript's own; only these two of its set are applied, because matching all of them is quadratic
in a large graph.
"""

from __future__ import annotations

import onnx_ir as ir


def fuse_norms(model: ir.Model) -> int:
    """Put ``RMSNormalization`` in place of what computes it, in place; return how many."""
    from onnxscript.rewriter.rules.fusion import _rms_normalization

    return int(_rms_normalization.rms_normalization_ruleset.apply_to_model(model))
