"""Rotary applications written by hand, in ONNX text, and what becomes of them."""

from __future__ import annotations

import re

import numpy as np
import onnx
import onnx_ir as ir
from onnx.reference import ReferenceEvaluator
from onnx_ir.passes.common import RemoveUnusedNodesPass

from ropeexport.exporting.passes import attach_functions
from ropeexport.fusion.fuse import Fused
from ropeexport.ops.forms import form_of
from ropeexport.ops.names import ROPE_TABLE

X = "float[batch, 2, length, 8] x"
TABLES = "float[length, 8] cos, float[length, 8] sin"
Y = "float[batch, 2, length, 8] y"
# half pairs: each element of the first half turned with the one of the second
TURNED = """
  a = Slice(x, zero, half, last)
  b = Slice(x, half, end, last)
  c = Neg(b)
  turned = Concat<axis = -1>(c, a)
"""
SUMMED = """
  left = Mul(x, cos)
  right = Mul(turned, sin)
  y = Add(left, right)
"""
ROPE = TURNED + SUMMED
# cosines and sines (length, 8) of whole positions
ANGLES = """
  column = Unsqueeze(pos, one)
  real = Cast<to = 1>(column)
  angle = Mul(real, frequencies)
  angles = Concat<axis = -1>(angle, angle)
  cos = Cos(angles)
  sin = Sin(angles)
"""
FREQUENCIES = "float[4] frequencies = {1.0, 0.1, 0.01, 0.001}"
_CONSTANTS = """
  int64[1] zero = {0}, int64[1] one = {1}, int64[1] two = {2}, int64[1] three = {3},
  int64[1] half = {4}, int64[1] end = {8}, int64[1] last = {-1}
"""


def graph(
    nodes: str, inputs: str = f"{X}, {TABLES}", outputs: str = Y, values: str = ""
) -> ir.Model:
    """Return a graph of nodes, its shapes inferred; ``values``: further constants, and shapes."""
    more = f", {values}" if values else ""
    model = onnx.parser.parse_model(
        f"""<ir_version: 10, opset_import: ["" : 23, "other" : 1, "ropeexport" : 1]>
        g ({inputs}) => ({outputs}) <{_CONSTANTS}{more}> {{ {nodes} }}"""
    )
    return ir.from_proto(onnx.shape_inference.infer_shapes(model, strict_mode=True))


def again(nodes: str, *renamed: str) -> str:
    """Return nodes once more, with other names for what they make and for what is named here."""
    made = re.findall(r"(\w+) = [A-Z]", nodes)
    return re.sub(rf"\b({'|'.join((*made, *renamed))})\b", r"\1_2", nodes)


def ops(fused: Fused) -> list[str]:
    """Return the rotary ops of what was fused, in its order."""
    nodes = fused.model.graph
    return [node.op_type for node in nodes if form_of(node.domain, node.op_type)]


def has_exact_angles(fused: Fused) -> bool:
    """Say whether anything that the outputs need is read from tables of angles."""
    made = fused.model.clone()
    RemoveUnusedNodesPass()(made)
    return ROPE_TABLE in {node.op_type for node in made.graph}


def assert_unchanged(fused: Fused, model: ir.Model) -> None:
    """Hold what was fused to the bytes of what came in."""
    assert ops(fused) == []
    made, given = (
        ir.to_proto(m).SerializeToString(deterministic=True) for m in (fused.model, model)
    )
    assert made == given


def assert_same(fused: Fused, least: float = 0.0, **sizes: int) -> None:
    """Hold what was fused to what came in, on random numbers, by onnx's own evaluation.

    ``least`` is a unit of rounding where float64 is not expected to be kept.
    """
    rng = np.random.default_rng(7)
    sizes = {"batch": 3, "length": 5} | sizes
    feed = {}
    for value in fused.before.graph.inputs:
        shape = [dim if isinstance(dim, int) else sizes[str(dim)] for dim in value.shape]
        kind = value.dtype.numpy()
        drawn = (
            rng.standard_normal(shape)
            if value.dtype.is_floating_point()
            else rng.integers(0, 9, shape)
        )
        feed[value.name] = drawn.astype(kind)
    made = fused.model.clone()
    attach_functions(made)
    onnx.checker.check_model(ir.to_proto(made), full_check=True)  # every type agrees
    ours, theirs = (
        ReferenceEvaluator(ir.to_proto(m)).run(None, feed) for m in (made, fused.before)
    )
    for x, y in zip(ours, theirs, strict=True):
        assert x.shape == y.shape
        assert x.dtype == y.dtype
        size = float(np.abs(y.astype("f8")).max())
        eps = max(least, float(np.finfo(y.dtype).eps))
        assert np.abs(x.astype("f8") - y).max() <= 8 * eps * max(1.0, size)
