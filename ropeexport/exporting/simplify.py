"""Bring a graph into its simplest form: constants folded, norms as one operator, valid everywhere.

Source of the folding rules: onnxscript's optimiser would fold a weight's Transpose into a copy;
:func:`_may_fold` refuses that, so every weight keeps its parameter's name and layout in the file.
A norm written out is a cast, a square, a mean, a root and two products: a pass over the data for
each in onnxruntime, and nothing that TensorRT would know as a normalisation.  And some of what is
valid ONNX is written in the way that onnxruntime has kernels for: onnxruntime 1.32's Attention
refuses a mask with one row for all queries, which the standard lets broadcast, its Where has no
booleans, and what it has no half kernels for it may leave unrounded.
"""

from __future__ import annotations

from collections.abc import Container
from contextlib import suppress
from typing import Any

import numpy as np
import onnx_ir as ir
import onnxscript.optimizer
from onnx_ir.passes import common as passes
from onnxscript.rewriter import pattern
from onnxscript.rewriter.rules.common import materialize_reshape_shape_rule
from onnxscript.rewriter.rules.fusion import _rms_normalization

from ropeexport.fusion.movement import closure, inputs_of
from ropeexport.onnx_files.budget import is_small
from ropeexport.operators import MOVERS, is_standard

_FOLD_INPUT_LIMIT = 8192  # elements; larger constants are weights and tables, not shapes
_FOLD_OUTPUT_LIMIT = 262144
_HIDDEN = "ropeexport.hidden"
_MASK = 3  # Attention's input
_ROWS = -2
_FLOAT = ir.DataType.FLOAT
_HALVES = (ir.DataType.FLOAT16, ir.DataType.BFLOAT16)
_ARITHMETIC = ("Add", "Div", "Mul", "Neg", "Sub")


def simplify(model: ir.Model, weights: Container[str]) -> None:
    """Fold constants and drop what is unused.

    ``weights`` are the names of the module's parameters, which keep their layout and type.
    A Reshape to a size that is known but for one dimension gets it as a constant: a runtime that
    cannot follow the arithmetic of the shape (OpenVINO) knows the others from then on.  Further
    rewriting rules (the matching of most is quadratic in a large graph) and a merge of equal
    initializers (two norms both full of ones are two parameters) do not belong here.
    """
    with suppress(RuntimeError):  # of a node that its folding cannot read; what is folded holds
        onnxscript.optimizer.fold_constants(
            model,
            onnx_shape_inference=True,
            input_size_limit=_FOLD_INPUT_LIMIT,
            output_size_limit=_FOLD_OUTPUT_LIMIT,
            should_fold=lambda node: _may_fold(_without_origins(node), weights),
        )
    materialize_reshape_shape_rule.apply_to_model(model)
    clean(model)


def clean(model: ir.Model) -> None:
    """Drop what is unused, merge what is computed twice, keep constants as initializers.

    Outputs keep their names, also where two of them are one value.
    """
    outputs = [value.name for value in model.graph.outputs]
    _drop_identities(model)
    ir.passes.Sequential(
        passes.RemoveUnusedNodesPass(),
        passes.CommonSubexpressionEliminationPass(),
        passes.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0),
        passes.RemoveUnusedOpsetsPass(),
        passes.OutputFixPass(),
    )(model)
    for value, name in zip(model.graph.outputs, outputs, strict=True):
        if value.name != name:
            value.name = name
    passes.NameFixPass()(model)


def _drop_identities(model: ir.Model) -> None:
    """Drop each Identity that is not needed for an output's own name, in place."""
    parts = (model.graph, *model.functions.values())
    needed = [node for part in parts for node in part.all_nodes() if _names_output(node)]
    for node in needed:
        node.domain = _HIDDEN
    passes.IdentityEliminationPass()(model)
    for node in needed:
        node.domain = ""


def _names_output(node: ir.Node) -> bool:
    """Say whether a node gives an output's name to another output, or to what a branch reads."""
    if not is_standard(node, "Identity") or not node.outputs[0].is_graph_output():
        return False
    source = node.inputs[0]
    while source is not None and not source.is_graph_output():
        maker = source.producer()
        if maker is None or not is_standard(maker, "Identity"):
            return maker is not None and maker.graph is not node.graph
        source = maker.inputs[0]
    return source is not None


def _without_origins(node: ir.Node) -> ir.Node:
    """Return the node, whose inputs forget which names they were folded from.

    onnxscript sorts and prints all of them at each node: the square of a long chain's length.
    """
    for x in node.inputs:
        if x is not None:
            x.meta.pop(onnxscript.optimizer.FOLDED_FROM_KEY, None)
    return node


def _may_fold(node: ir.Node, weights: Container[str]) -> bool | None:
    """Refuse to fold what is made of a weight; else the usual rules.

    A weight that went into a constant would be lost under its name, and with it to a comparison.
    """
    inputs = [x for x in node.inputs if x is not None]
    # what lies in a file, no folding may read; of text it reads none
    if any(isinstance(x.const_value, ir.ExternalTensor) for x in inputs):
        return False
    if any(x.dtype == ir.DataType.STRING for x in inputs):
        return False
    reads_weight = any(x.is_initializer() and x.name in weights for x in inputs)
    if reads_weight and not is_standard(node, "Shape", "Size"):
        return False
    return None if is_small(node) else False


def fuse_norms(model: ir.Model) -> int:
    """Put ``RMSNormalization`` in place of what computes it, in place; return how many.

    The rules are onnxscript's own; only these two of its set are applied, because matching all of
    them is quadratic in a large graph.
    """
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


def make_portable(model: ir.Model) -> int:
    """Rewrite, in place, what onnxruntime refuses or rounds otherwise; return how many."""
    count = sum(map(_round_in_words, _half_angles(model.graph)))
    for node in list(model.graph):
        if is_standard(node, "Attention") and _has_one_row(node):
            _expand_mask(node)
        elif is_standard(node, "Where") and node.outputs[0].dtype == ir.DataType.BOOL:
            _choose_by_logic(node)
        elif _scatters_halves(node):
            _round_in_words(node)
        else:
            continue
        count += 1
    return count


def _half_angles(graph: ir.Graph) -> list[ir.Node]:
    """Return the arithmetic in a half type on the way to a sine or a cosine."""
    angles = [
        x for node in graph if is_standard(node, "Cos", "Sin") for x in inputs_of(node.outputs[0])
    ]
    way = closure(angles, lambda x: inputs_of(x) if _is_on_the_way(x) else [])
    nodes = dict.fromkeys(x.producer() for x in way if x.dtype in _HALVES)
    return [node for node in nodes if node is not None and is_standard(node, *_ARITHMETIC)]


def _is_on_the_way(value: ir.Value) -> bool:
    node = value.producer()
    return node is not None and is_standard(node, *_ARITHMETIC, *MOVERS, "Cast")


def _scatters_halves(node: ir.Node) -> bool:
    """Say whether a node adds, or the like, in a half type where the same place is met again."""
    reduces = node.attributes.get_string("reduction", "none") != "none"
    is_scatter = is_standard(node, "ScatterElements", "ScatterND")
    return is_scatter and reduces and node.outputs[0].dtype in _HALVES


def _round_in_words(node: ir.Node) -> int:
    """Compute in float32 and cast, as eager does; onnxruntime would leave out the rounding.

    It has no kernels of half types for these on a CPU, so it adds casts of its own, and drops a
    pair of them where the result is cast to float32 anyway: 1000 times a timestep is then another
    angle.  Casts that are written stay.
    """
    old = node.outputs[0]
    casts = [_cast(x, _FLOAT) if x is not None and x.dtype in _HALVES else None
             for x in node.inputs]  # fmt: skip
    wide = [x if c is None else c.outputs[0] for x, c in zip(node.inputs, casts, strict=True)]
    made = ir.node(node.op_type, wide, node.attributes)
    made.outputs[0].dtype, made.outputs[0].shape = _FLOAT, old.shape
    narrow = _cast(made.outputs[0], old.dtype)
    narrow.outputs[0].name, old.name = old.name, f"{old.name}_half"
    _insert_before(node, *(c for c in casts if c is not None), made, narrow)
    ir.convenience.replace_all_uses_with(old, narrow.outputs[0], replace_graph_outputs=True)
    return 1


def _cast(x: ir.Value, to: ir.DataType) -> ir.Node:
    node = ir.node("Cast", [x], {"to": to})
    node.outputs[0].dtype, node.outputs[0].shape = to, x.shape
    return node


def _has_one_row(node: ir.Node) -> bool:
    mask = node.inputs[_MASK] if len(node.inputs) > _MASK else None
    if mask is None or mask.shape is None:
        return False
    return len(mask.shape) < 2 or mask.shape[_ROWS] == 1


def _expand_mask(node: ir.Node) -> None:
    """Repeat the row for every query."""
    query, mask = node.inputs[0], node.inputs[_MASK]
    assert query is not None
    assert mask is not None
    length = ir.node("Shape", [query], {"start": 2, "end": 3})
    one = ir.node("Constant", [], {"value": ir.tensor(np.array([1], dtype=np.int64))})
    shape = ir.node("Concat", [length.outputs[0], one.outputs[0]], {"axis": 0})
    expanded = ir.node("Expand", [mask, shape.outputs[0]])
    expanded.outputs[0].dtype = mask.dtype
    _insert_before(node, length, one, shape, expanded)
    node.replace_input_with(_MASK, expanded.outputs[0])


def _choose_by_logic(node: ir.Node) -> None:
    """Write ``c ? a : b`` of booleans as ``(c and a) or (not c and b)``."""
    condition, first, second = node.inputs
    inverse = ir.node("Not", [condition])
    chosen = ir.node("And", [condition, first])
    other = ir.node("And", [inverse.outputs[0], second])
    either = ir.node("Or", [chosen.outputs[0], other.outputs[0]])
    old, new = node.outputs[0], either.outputs[0]
    new.dtype, new.shape = old.dtype, old.shape
    _insert_before(node, inverse, chosen, other, either)
    ir.convenience.replace_all_uses_with(old, new, replace_graph_outputs=True)


def _insert_before(node: ir.Node, *nodes: ir.Node) -> None:
    assert node.graph is not None  # it was found in one
    node.graph.insert_before(node, nodes)
