"""Axes without names, or with names of their own, that are of one size wherever the graph runs."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from fusion.graphs import ROPE, TURNED, graph, ops

from ropeexport.exporting.foreign import infer_shapes, name_dimensions
from ropeexport.exporting.passes import attach_functions
from ropeexport.fusion.fuse import Fused, fuse


def run(model: ir.Model, feed: dict[str, np.ndarray]) -> list[np.ndarray]:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    message = ir.to_proto(model).SerializeToString()
    return onnxruntime.InferenceSession(message, options).run(None, feed)


def fused_with(x: str, tables: str, nodes: str = ROPE, second: str = "") -> Fused:
    """Fuse a rope of inputs of these dimensions, of which the output's are not known."""
    inputs = f"float[{x}] x, float[{tables}] cos, float[{second or tables}] sin"
    model = graph(nodes, inputs, "float[a, b, c, d] y")
    model.graph.outputs[0].shape = None
    name_dimensions(model)
    infer_shapes(model)
    return fuse(model)


def assert_same_at(fused: Fused, x: tuple[int, ...], table: tuple[int, ...]) -> None:
    """Hold both to each other at sizes, by onnxruntime."""
    made = fused.model.clone()
    attach_functions(made)
    onnx.checker.check_model(ir.to_proto(made), full_check=True)
    rng = np.random.default_rng(5)
    feed = {"x": rng.standard_normal(x)} | {n: rng.standard_normal(table) for n in ("cos", "sin")}
    feed = {name: value.astype(np.float32) for name, value in feed.items()}
    (ours,), (theirs,) = run(made, feed), run(fused.before, feed)
    assert ours.shape == theirs.shape
    assert np.abs(ours - theirs).max() <= 4 * 2.0**-23 * np.abs(theirs).max()


NAMES = {
    "none": ("?, 2, ?, 8", "1, 1, ?, 8"),
    "their own": ("batch, 2, seq, 8", "rows, 8"),
    "none but the size of a head": ("?, ?, ?, 8", "?, ?, ?, 8"),
    "of each table": ("batch, 2, seq, 8", "rows, 8", "others, 8"),
    "a size": ("batch, 2, 6, 8", "rows, 8"),
}


@pytest.mark.parametrize("name", NAMES)
def test_axes_of_other_names_are_taken_for_one(name: str) -> None:
    x, tables, *second = NAMES[name]
    fused = fused_with(x, tables, second=second[0] if second else "")
    assert (fused.count.found, fused.count.replaced, fused.count.not_judged) == (1, 1, ())
    before, after = (
        [(v.name, v.dtype, v.shape) for v in m.graph.inputs] for m in (fused.before, fused.model)
    )
    assert before == after
    rank = tables.count(",") + 1
    for batch, length in ((2, 6), (1, 6), *(() if "6" in x else ((3, 5), (2, 1)))):
        assert_same_at(fused, (batch, 2, length, 8), (1, 1, length, 8)[4 - rank :])


@pytest.mark.parametrize("name", NAMES)
def test_a_table_of_one_row_is_the_row_of_all(name: str) -> None:
    x, tables, *second = NAMES[name]
    fused = fused_with(x, tables, second=second[0] if second else "")
    rank = tables.count(",") + 1
    assert_same_at(fused, (2, 2, 6, 8), (1, 1, 1, 8)[4 - rank :])


def test_a_table_by_batch_and_by_head_is_right_as_well() -> None:
    fused = fused_with("?, ?, ?, 8", "?, ?, ?, 8")
    for table in ((3, 1, 5, 8), (1, 2, 5, 8), (3, 2, 5, 8), (3, 1, 1, 8)):
        assert_same_at(fused, (3, 2, 5, 8), table)


def test_rows_of_a_rotary_operator_are_taken_for_one() -> None:
    nodes = "y = RotaryEmbedding(x, cos, sin)"
    fused = fused_with("batch, 2, seq, 8", "other, rows, 4", nodes)
    assert ops(fused) == ["ApplyRopeCosSinHalfSingle"]
    assert_same_at(fused, (3, 2, 5, 8), (3, 5, 4))


def test_sizes_that_differ_are_not_one() -> None:
    """What is not multiplied keeps its own size."""
    nodes = (
        TURNED
        + """
      left = Mul(x, cos) right = Mul(turned, sin) rotated = Add(left, right)
      y = Concat<axis = 2>(rotated, past)"""
    )
    inputs = "float[batch, 2, seq, 8] x, float[rows, 8] cos, float[rows, 8] sin, "
    model = graph(nodes, inputs + "float[batch, 2, before, 8] past", "float[a, b, c, d] y")
    model.graph.outputs[0].shape = None
    infer_shapes(model)
    fused = fuse(model)
    assert ops(fused) == ["ApplyRopeHalfSingle"]
    past = fused.model.graph.inputs[3]
    assert str(past.shape) == "[batch,2,before,8]"
