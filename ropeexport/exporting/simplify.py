"""Fold constants and drop what is unused, and leave every weight as it is.

Source of the folding rules: onnxscript's optimiser would fold a weight's Transpose into a copy;
:func:`_may_fold` refuses that, so every weight keeps its parameter's name and layout in the file.
"""

from __future__ import annotations

from collections.abc import Container

import onnx_ir as ir
import onnxscript.optimizer
from onnx_ir.passes import common as passes
from onnxscript.rewriter.rules.common import materialize_reshape_shape_rule

from ropeexport.operators import is_standard

_FOLD_INPUT_LIMIT = 8192  # elements; larger constants are weights and tables, not shapes
_FOLD_OUTPUT_LIMIT = 262144


def simplify(model: ir.Model, weights: Container[str]) -> None:
    """Fold constants and drop what is unused.

    ``weights`` are the names of the module's parameters, which keep their layout and type.
    A Reshape to a size that is known but for one dimension gets it as a constant: a runtime that
    cannot follow the arithmetic of the shape (OpenVINO) knows the others from then on.  Further
    rewriting rules (the matching of most is quadratic in a large graph) and a merge of equal
    initializers (two norms both full of ones are two parameters) do not belong here.
    """
    onnxscript.optimizer.fold_constants(
        model,
        onnx_shape_inference=True,
        input_size_limit=_FOLD_INPUT_LIMIT,
        output_size_limit=_FOLD_OUTPUT_LIMIT,
        should_fold=lambda node: _may_fold(node, weights),
    )
    materialize_reshape_shape_rule.apply_to_model(model)
    clean(model)


def clean(model: ir.Model) -> None:
    """Drop what is unused, merge what is computed twice, keep constants as initializers."""
    ir.passes.Sequential(
        passes.IdentityEliminationPass(),
        passes.RemoveUnusedNodesPass(),
        passes.CommonSubexpressionEliminationPass(),
        passes.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0),
        passes.RemoveUnusedOpsetsPass(),
        passes.OutputFixPass(),
        passes.NameFixPass(),
    )(model)


def _may_fold(node: ir.Node, weights: Container[str]) -> bool | None:
    """Refuse to fold what is made of a weight; else the usual rules.

    A weight that went into a constant would be lost under its name, and with it to a comparison.
    """
    if any(value is not None and _is_kept(value) for value in node.inputs):
        return False
    reads_weight = any(
        x is not None and x.is_initializer() and x.name in weights for x in node.inputs
    )
    return False if reads_weight and not is_standard(node, "Shape", "Size") else None


def _is_kept(value: ir.Value) -> bool:
    """Say whether a value lies in a file, which no folding may read, or is text: it reads none."""
    return isinstance(value.const_value, ir.ExternalTensor) or value.dtype == ir.DataType.STRING
