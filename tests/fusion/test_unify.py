"""Axes without names, or with names of their own, that are of one size wherever the graph runs."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from fusion.graphs import ANGLES, FREQUENCIES, ROPE, TURNED, again, graph, ops

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
    return fused_from(nodes, f"float[{x}] x, float[{tables}] cos, float[{second or tables}] sin")


def fused_from(nodes: str, inputs: str, *more: str, values: str = "") -> Fused:
    outputs = ", ".join(f"float[a, b, c, d] {name}" for name in ("y", *more))
    model = graph(nodes, inputs, outputs, values)
    for output in model.graph.outputs:
        output.shape = None
    name_dimensions(model)
    infer_shapes(model)
    return fuse(model)


def assert_same_at(fused: Fused, x: tuple[int, ...], table: tuple[int, ...]) -> None:
    """Hold both to each other at sizes, by onnxruntime."""
    assert_same(fused, {"x": x, "cos": table, "sin": table})


def assert_same(fused: Fused, shapes: dict[str, tuple[int, ...]]) -> None:
    made = fused.model.clone()
    attach_functions(made)
    onnx.checker.check_model(ir.to_proto(made), full_check=True)
    rng = np.random.default_rng(5)
    feed = {n: rng.standard_normal(shape).astype(np.float32) for n, shape in shapes.items()}
    before = fused.before.clone()
    for value in (value for node in before.graph for value in node.outputs):
        value.shape = None  # as inferred they say that nothing is broadcast
    for ours, theirs in zip(run(made, feed), run(before, feed), strict=True):
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


ONE_OF_TWO = [((1, 2, 5, 8), (3, 5)), ((3, 2, 1, 8), (1, 5)), ((3, 2, 5, 8), (3, 1))]


@pytest.mark.parametrize(("x", "positions"), ONE_OF_TWO)
def test_data_of_one_batch_or_row_is_that_of_all(x: tuple[int, ...], positions) -> None:
    """In a proven rotation, whose operator in onnxruntime wants as many as its tables have."""
    nodes = ANGLES.replace("pos, one", "pos, two") + ROPE
    for name in ("cos", "sin"):
        nodes = nodes.replace(f"{name} = ", f"flat_{name} = ")
        nodes = nodes.replace("left = ", f"{name} = Unsqueeze(flat_{name}, one) left = ", 1)
    inputs = "float[batch, 2, seq, 8] x, float[others, rows] pos"
    fused = fused_from(nodes, inputs, values=FREQUENCIES)
    assert ops(fused) == ["ApplyRopeCosSinHalfSingle"]
    assert_same(fused, {"x": x, "pos": positions})


def test_data_of_one_row_is_that_of_all_of_a_table() -> None:
    fused = fused_with("batch, 2, seq, 8", "others, 1, rows, 8")
    for x, table in (((1, 2, 5, 8), (3, 1, 5, 8)), ((3, 2, 1, 8), (1, 1, 5, 8))):
        assert_same_at(fused, x, table)


def test_either_table_may_have_one_batch_or_row() -> None:
    fused = fused_with("batch, 2, seq, 8", "first, 1, rows, 8", second="second, 1, other, 8")
    for cos, sin in (((1, 1, 5, 8), (3, 1, 5, 8)), ((3, 1, 1, 8), (1, 1, 5, 8))):
        assert_same(fused, {"x": (3, 2, 5, 8), "cos": cos, "sin": sin})


def test_a_table_of_one_row_is_that_of_two_lengths() -> None:
    nodes = ROPE + again(ROPE, "x")
    inputs = "float[batch, 2, few, 8] x, float[batch, 2, many, 8] x_2, "
    fused = fused_from(nodes, inputs + "float[rows, 8] cos, float[rows, 8] sin", "y_2")
    assert ops(fused) == 2 * ["ApplyRopeHalfSingle"]
    for few, many, rows in ((5, 9, 1), (5, 5, 5), (1, 9, 9), (9, 1, 9)):
        tables = dict.fromkeys(("cos", "sin"), (rows, 8))
        assert_same(fused, {"x": (3, 2, few, 8), "x_2": (3, 2, many, 8), **tables})


def test_two_of_one_length_are_one_op_though_the_table_has_its_own() -> None:
    inputs = "float[batch, 2, seq, 8] x, float[batch, 3, seq, 8] x_2, "
    tables = "float[rows, 8] cos, float[rows, 8] sin"
    fused = fused_from(ROPE + again(ROPE, "x"), inputs + tables, "y_2")
    assert ops(fused) == ["ApplyRopeHalf"]
    for rows in (1, 5):
        shapes = {"x": (3, 2, 5, 8), "x_2": (3, 3, 5, 8), "cos": (rows, 8), "sin": (rows, 8)}
        assert_same(fused, shapes)


def test_rows_as_many_as_the_data_meet_a_table_of_a_size() -> None:
    """What is computed may have one row though a table says six; no shape claims otherwise."""
    positions = """
      size = Shape<start = 2, end = 3>(x) count = Squeeze(size)
      pos = Range(zero_number, count, one_number)"""
    tables = ANGLES.replace("cos = ", "plain_cos = ").replace("sin = ", "plain_sin = ")
    scaled = "cos = Mul(plain_cos, scale) sin = Mul(plain_sin, scale)"
    values = f"{FREQUENCIES}, int64 zero_number = {{0}}, int64 one_number = {{1}}, "
    values += "float[6, 1] scale = {1.0, 0.5, 2.0, 1.5, 0.75, 3.0}"
    nodes = positions + tables + scaled + ROPE
    fused = fused_from(nodes, "float[batch, 2, seq, 8] x", values=values)
    assert len(ops(fused)) == 1
    for length in (6, 1):
        assert_same(fused, {"x": (3, 2, length, 8)})
