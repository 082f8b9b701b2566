"""What an op takes beside the rotation itself: casts around it, and the rest of a head."""

from __future__ import annotations

import onnx_ir as ir
import pytest
from fusion.graphs import ROPE, X, Y, assert_same, graph, ops

from ropeexport.fusion.fuse import Fused, fuse
from ropeexport.ops.forms import form_of

HALF_X, HALF_Y = (f"float16[batch, 2, length, 8] {name}" for name in ("z", "w"))
TABLES = "float[length, 8] cos, float[length, 8] sin"


def op_of(fused: Fused) -> ir.Node:
    (op,) = (node for node in fused.model.graph if form_of(node.domain, node.op_type))
    return op


def test_casts_around_a_rotation_are_the_ops_own() -> None:
    nodes = "x = Cast<to = 1>(z)" + ROPE + "w = Cast<to = 10>(y)"
    op = op_of(fuse(graph(nodes, f"{HALF_X}, {TABLES}", HALF_Y)))
    assert [op.inputs[0].name, op.outputs[0].name] == ["z", "w"]
    assert op.outputs[0].dtype == ir.DataType.FLOAT16


KEPT = {
    "a cast to another type": ("w = Cast<to = 16>(y)", HALF_Y.replace("float16", "bfloat16")),
    "a cast of one reader alone": ("w = Cast<to = 10>(y) v = Neg(y)", f"{HALF_Y}, {Y[:-1]}v"),
    "an output before the cast": ("w = Cast<to = 10>(y)", f"{HALF_Y}, {Y}"),
    "no cast": ("v = Neg(y)", f"{Y[:-1]}v"),
}


@pytest.mark.parametrize("name", KEPT)
def test_other_casts_stay(name: str) -> None:
    nodes, outputs = KEPT[name]
    op = op_of(fuse(graph("x = Cast<to = 1>(z)" + ROPE + nodes, f"{HALF_X}, {TABLES}", outputs)))
    assert op.inputs[0].name == "x"
    assert op.outputs[0].dtype == ir.DataType.FLOAT


def test_whole_numbers_are_cast_before_the_op() -> None:
    inputs = f"int64[batch, 2, length, 8] z, {TABLES}"
    nodes = "x = Cast<to = 1>(z)" + ROPE + "w = Cast<to = 7>(y)"
    op = op_of(fuse(graph(nodes, inputs, "int64[batch, 2, length, 8] w")))
    assert op.inputs[0].name == "x"


WHOLE, ALL = "float[batch, 2, length, 12] whole", "float[batch, 2, length, 12] joined"
WAVES = """
  angle = Unsqueeze(turns, zero)
  angles = Concat<axis = -1>(angle, angle)
  cos_1 = Cos(angles)
  sin_1 = Sin(angles)
  cos = Squeeze(cos_1, zero)
  sin = Squeeze(sin_1, zero)
  x = Slice(whole, zero, end, last)
"""
TURNS = "float[length, 4] turns"
REST = "rest = Slice(whole, end, far, last)"
JOINED = "joined = Concat<axis = -1>(y, rest)"


def test_the_rest_of_a_head_passes_through_the_op() -> None:
    fused = fuse(
        graph(WAVES + ROPE + REST + JOINED, f"{WHOLE}, {TURNS}", ALL, "int64[1] far = {12}")
    )
    assert ops(fused) == ["ApplyRopeCosSinHalfPartialSingle"]
    assert (op_of(fused).inputs[0].name, op_of(fused).outputs[0].name) == ("whole", "joined")
    assert_same(fused)


RESTS = {
    "off by one": "rest = Slice(whole, seven, eleven, last)",
    "of other data": "rest = Slice(more, end, far, last)",
    "scaled": "unscaled = Slice(whole, end, far, last) rest = Mul(unscaled, by)",
    "negated": "unscaled = Slice(whole, end, far, last) rest = Neg(unscaled)",
}
JOINTS = {
    "in front": "joined = Concat<axis = -1>(rest, y)",
    "of three": "joined = Concat<axis = -1>(y, rest, nothing)",
    "read twice": "joined = Concat<axis = -1>(y, rest) other = Neg(y)",
    "an output": "joined = Concat<axis = -1>(y, rest)",
    "added": "joined = Add(rest_0, y_0)",
}


@pytest.mark.parametrize("name", [*RESTS, *JOINTS])
def test_another_rest_does_not(name: str) -> None:
    rest, joint = RESTS.get(name, REST), JOINTS.get(name, JOINED)
    outputs = {"read twice": f"{ALL}, {Y[:-1]}other", "an output": f"{ALL}, {Y}"}.get(name, ALL)
    if name == "added":
        rest += """
          y_0 = Slice(y, zero, half, last) rest_0 = Slice(rest, zero, half, last)
        """
        outputs = "float[batch, 2, length, 4] joined"
    if name == "of three":
        rest += " nothing = Slice(rest, zero, zero, last)"
    fused = fuse(
        graph(
            WAVES + ROPE + rest + joint,
            f"{WHOLE}, float[batch, 2, length, 12] more, {TURNS}",
            outputs,
            "int64[1] far = {12}, int64[1] seven = {7}, int64[1] eleven = {11}, float by = {1.5}",
        )
    )
    assert ops(fused) == ["ApplyRopeCosSinHalfSingle"]
    assert_same(fused)


PAIR = "angles = Concat<axis = -1>(turns, turns) cos = Cos(angles) sin = Sin(angles)"
# general matrices say what no cosine and sine can
GENERAL = {
    "a plus for a minus": PAIR + ROPE.replace("(c, a)", "(b, a)"),
    "a scaled half": PAIR + ROPE.replace("turned =", "d = Mul(a, near) turned =").replace(
        "(c, a)", "(c, d)"),
    "another angle of the second half": PAIR.replace("(turns, turns)", "(turns, more)") + ROPE,
    "halves exchanged": PAIR + ROPE.replace("Mul(x, cos)", "Mul(turned, cos)").replace(
        "Mul(turned, sin)", "Mul(x, turns_2)"),
}  # fmt: skip
ROTATIONS = {
    "as most write it": PAIR + ROPE,
    "the other way around": PAIR + ROPE.replace("turned =", "d = Neg(a) turned =").replace(
        "(c, a)", "(b, d)"),
    "sines that are cosines": PAIR + ROPE.replace("Mul(turned, sin)", "Mul(turned, cos)"),
    "scaled": PAIR.replace("cos =", "cos_1 =").replace("sin =", "sin_1 =")
    + "cos = Mul(cos_1, near) sin = Mul(sin_1, near)" + ROPE,
}  # fmt: skip


@pytest.mark.parametrize("name", [*GENERAL, *ROTATIONS])
def test_cosines_and_sines_are_for_rotations_alone(name: str) -> None:
    inputs = f"{X}, {TURNS}, float[length, 4] more, float[length, 8] turns_2"
    nodes = GENERAL.get(name) or ROTATIONS[name]
    fused = fuse(graph(nodes, inputs, values="float near = {1.0001}"))
    assert ops(fused) == ["ApplyRopeHalfSingle" if name in GENERAL else "ApplyRopeCosSinHalfSingle"]
    assert_same(fused)


# the axes of the data, and of tables that broadcast against it
ORDERS = {
    "heads first": ("batch, 2, length, 8", "length, 8"),
    "heads first, tables by batch": ("batch, 2, length, 8", "batch, 1, length, 8"),
    "length first": ("batch, length, 2, 8", "length, 1, 8"),
    "length first, tables by batch": ("batch, length, 2, 8", "batch, length, 1, 8"),
    "tables by head": ("batch, length, 2, 8", "length, 2, 8"),
    "no heads": ("batch, length, 8", "length, 8"),
    "no heads, tables by batch": ("batch, length, 8", "batch, length, 8"),
    "no batch": ("length, 2, 8", "length, 1, 8"),
    "neither": ("length, 8", "length, 8"),
}


@pytest.mark.parametrize("name", ORDERS)
def test_axes_of_every_order_are_rotated(name: str) -> None:
    data, table = ORDERS[name]
    inputs = f"float[{data}] x, float[{table}] cos, float[{table}] sin"
    fused = fuse(graph(ROPE, inputs, f"float[{data}] y"))
    assert ops(fused) == ["ApplyRopeHalfSingle"]
    assert_same(fused)


PARTS = "first = Slice(x, zero, half, last) second = Slice(x, half, end, last)"
EACH = """
  p = Mul(first, cos) q = Mul(second, sin) one_side = Sub(p, q)
  r = Mul(second, cos) s = Mul(first, sin) other_side = Add(r, s)
"""
PAIRED = """
  by_two = Reshape(x, pairs)
  first = Gather<axis = -1>(by_two, nought)
  second = Gather<axis = -1>(by_two, first_place)
"""
STACKED = """
  column = Unsqueeze(one_side, last)
  other_column = Unsqueeze(other_side, last)
  both = Concat<axis = -1>(column, other_column)
  y = Reshape(both, eight)
"""
ENTRIES = """
  row = Gather<axis = -2>(matrices, nought) other_row = Gather<axis = -2>(matrices, first_place)
  m00 = Gather<axis = -1>(row, nought) m01 = Gather<axis = -1>(row, first_place)
  m10 = Gather<axis = -1>(other_row, nought) m11 = Gather<axis = -1>(other_row, first_place)
  p = Mul(first, m00) q = Mul(second, m01) one_side = Add(p, q)
  r = Mul(first, m10) s = Mul(second, m11) other_side = Add(r, s)
"""
FOUR = "float[length, 4] cos, float[length, 4] sin"
BY_PARTS = {
    "halves": (PARTS + EACH + "y = Concat<axis = -1>(one_side, other_side)", FOUR, "CosSinHalf"),
    "neighbours": (PAIRED + EACH + STACKED, FOUR, "CosSin"),
    "matrices": (PAIRED + ENTRIES + STACKED, "float[length, 4, 2, 2] matrices", ""),
    "matrices of halves": (
        PARTS + ENTRIES + "y = Concat<axis = -1>(one_side, other_side)",
        "float[length, 4, 2, 2] matrices",
        "Half",
    ),
    "columns of matrices": (
        "by_two = Reshape(x, pairs) first = Slice(by_two, zero, one, last) "
        "second = Slice(by_two, one, two, last) p = Mul(columns, first) "
        "q = Mul(second, other_columns) both = Add(p, q) y = Reshape(both, eight)",
        "float[length, 4, 2] columns, float[length, 4, 2] other_columns",
        "",
    ),
    "complex numbers": (
        PAIRED
        + "cos = Gather<axis = -1>(polar, nought) sin = Gather<axis = -1>(polar, first_place)"
        + EACH
        + STACKED,
        "float[length, 4, 2] polar",
        "CosSin",
    ),
}


@pytest.mark.parametrize("name", BY_PARTS)
def test_a_rotation_of_two_sums_is_one_application(name: str) -> None:
    nodes, tables, form = BY_PARTS[name]
    values = (
        "int64[5] pairs = {0, 0, 0, 4, 2}, int64[4] eight = {0, 0, 0, 8}, "
        "int64 nought = {0}, int64 first_place = {1}"
    )
    fused = fuse(graph(nodes, f"{X}, {tables}", values=values))
    assert (fused.count.found, fused.count.replaced) == (1, 1)
    assert ops(fused) == [f"ApplyRope{form}Single"]
    assert_same(fused)


STORED = "float[50, 8] stored_cos, float[50, 8] stored_sin"
TAKEN = {
    "by positions": "cos = Gather(stored_cos, pos) sin = Gather(stored_sin, pos)",
    "by a part of the shape": "shape = Shape(x) n = Slice(shape, two, three, , one) "
    "cos = Slice(stored_cos, zero, n, zero) sin = Slice(stored_sin, zero, n, zero)",
    "by the length": "n = Shape<start = 2, end = 3>(x) "
    "cos = Slice(stored_cos, zero, n, zero) sin = Slice(stored_sin, zero, n, zero)",
}


@pytest.mark.parametrize("name", TAKEN)
def test_tables_that_are_stored_are_taken(name: str) -> None:
    nodes = TAKEN[name]
    shapes = "float[length, 8] cos, float[length, 8] sin"
    fused = fuse(graph(nodes + ROPE, f"{X}, {STORED}, int64[length] pos", values=shapes))
    assert ops(fused) == ["ApplyRopeHalfSingle"]
    assert_same(fused)


def test_an_output_keeps_its_name() -> None:
    model = graph(ROPE + "z = Neg(y)", outputs=f"{Y}, {Y[:-1]}z")
    fused = fuse(model)
    assert [value.name for value in fused.model.graph.outputs] == ["y", "z"]
    assert op_of(fused).outputs[0].name == "y"
    names = [value.name for node in fused.model.graph for value in node.outputs]
    assert names.count("y") == 1


def test_an_op_that_is_there_already_is_counted_and_left() -> None:
    nodes = 'y = ropeexport.ApplyRopeCosSinHalfSingle<pairing = "half">(x, cos, sin)'
    tables = "float[batch, length, 4] cos, float[batch, length, 4] sin"
    model = graph(nodes, f"{X}, {tables}")
    fused = fuse(model)
    assert (fused.count.found, fused.count.replaced) == (1, 1)
    assert fused.comparison.regions == 0
    made, given = (ir.to_proto(m).SerializeToString() for m in (fused.model, model))
    assert made == given
