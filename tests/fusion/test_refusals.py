"""What looks like a rotary application and is none: why it is refused, and that nothing changes."""

from __future__ import annotations

import onnx_ir as ir
import pytest
from fusion.graphs import (
    FREQUENCIES,
    ROPE,
    SUMMED,
    TURNED,
    X,
    Y,
    assert_same,
    assert_unchanged,
    graph,
    ops,
)

from ropeexport.fusion.fuse import fuse

MIXED = "its elements are mixed, but not in pairs that are interleaved or half"


def assert_refused(model: ir.Model, reason: str) -> None:
    fused = fuse(model)
    assert (fused.count.found, fused.count.replaced) == (1, 0)
    (refusal,) = fused.count.refused
    assert refusal.node == "y"
    assert reason in refusal.reason
    assert_unchanged(fused, model)


def test_the_graph_that_the_others_depart_from_is_fused() -> None:
    fused = fuse(graph(ROPE))
    assert (fused.count.found, fused.count.replaced, fused.count.refused) == (1, 1, ())
    assert ops(fused) == ["ApplyRopeHalfSingle"]
    assert_same(fused)


# each moves one thing of the rotation to another place, which its nodes do not show
OTHER_PAIRS = {
    "a slice is off by one": """
        a = Slice(x, zero, half, last) b = Slice(x, three, seven, last) c = Neg(b)
        turned = Concat<axis = -1>(c, a)""",
    "a half is longer by one": """
        a = Slice(x, zero, three, last) b = Slice(x, three, end, last) c = Neg(b)
        turned = Concat<axis = -1>(c, a)""",
    "elements are rolled by one": """
        a = Slice(x, zero, one, last) b = Slice(x, one, end, last)
        turned = Concat<axis = -1>(b, a)""",
    "pairs lie within quarters": """
        a, b, c, d = Split<axis = -1, num_outputs = 4>(x) e = Neg(b) f = Neg(d)
        turned = Concat<axis = -1>(e, a, f, c)""",
    "elements are reversed": """
        turned = Slice(x, minus_one, far, last, minus_one)""",
    "a half is reversed": """
        a = Slice(x, zero, half, last) b = Slice(x, minus_one, half_less, last, minus_one)
        c = Neg(b) turned = Concat<axis = -1>(c, a)""",
    "partners are of another position": """
        n = Shape<start = 2, end = 3>(x) before = Sub(n, one)
        first = Slice(x, zero, before, two) final = Slice(x, before, n, two)
        moved = Concat<axis = 2>(final, first)
    """ + TURNED.replace("Slice(x,", "Slice(moved,"),
    "partners are of another head": """
        swapped = Gather<axis = 1>(x, other_heads)
    """ + TURNED.replace("Slice(x,", "Slice(swapped,"),
}  # fmt: skip
CONSTANTS = (
    "int64[1] minus_one = {-1}, int64[1] far = {-100}, int64[1] half_less = {3}, "
    "int64[2] other_heads = {1, 0}, int64[1] seven = {7}"
)


@pytest.mark.parametrize("name", OTHER_PAIRS)
def test_other_pairs_are_refused(name: str) -> None:
    assert_refused(graph(OTHER_PAIRS[name] + SUMMED, values=CONSTANTS), MIXED)


DOUBLED = """
  some = Slice({0}, zero, two, last)
  others = Slice({0}, two, end, last)
  twice = Mul(some, number)
  {0}_scaled = Concat<axis = -1>(twice, others)
"""
OTHER_TABLES = {
    "two cosines are added": (
        "m00",
        TURNED
        + """
        one_cosine = Mul(x, cos) another = Mul(x, sin) left = Add(one_cosine, another)
        right = Mul(turned, sin) y = Add(left, right)""",
    ),
    "a part of the cosines is scaled": (
        "m00",
        TURNED
        + "left = Mul(x, cos)"
        + DOUBLED.format("left")
        + "right = Mul(turned, sin) y = Add(left_scaled, right)",
    ),
    "a part of the sines is scaled": (
        "m01",
        TURNED
        + "left = Mul(x, cos) right = Mul(turned, sin)"
        + DOUBLED.format("right")
        + "y = Add(left, right_scaled)",
    ),
    "a part of the second row is scaled": (
        "m10",
        """
        a = Slice(x, zero, half, last) b = Slice(x, half, end, last)"""
        + DOUBLED.format("a").replace("end", "half")
        + "c = Neg(b) turned = Concat<axis = -1>(c, a_scaled)"
        + SUMMED,
    ),
}


@pytest.mark.parametrize("name", OTHER_TABLES)
def test_coefficients_that_are_no_table_are_refused(name: str) -> None:
    coefficient, nodes = OTHER_TABLES[name]
    model = graph(nodes, values="float number = {1.5}")
    assert_refused(model, f"its coefficient {coefficient} is no slice of a table")


PLACES = {
    "one number for all cosines": (ROPE, f"{X}, float cos, float[length, 8] sin"),
    "tables of more axes than data": (
        TURNED
        + "long_left = Mul(x, cos) left = Squeeze(long_left, zero)"
        + "long_right = Mul(turned, sin) right = Squeeze(long_right, zero) y = Add(left, right)",
        f"{X}, float[1, 1, 1, length, 8] cos, float[1, 1, 1, length, 8] sin",
    ),
    "tables for data in another order": (
        TURNED
        + "x_by_length = Transpose<perm = [0, 2, 1, 3]>(x) p = Mul(x_by_length, cos)"
        + "turned_by_length = Transpose<perm = [0, 2, 1, 3]>(turned)"
        + "q = Mul(turned_by_length, sin) left = Transpose<perm = [0, 2, 1, 3]>(p)"
        + "right = Transpose<perm = [0, 2, 1, 3]>(q) y = Add(left, right)",
        f"{X}, float[length, 1, 8] cos, float[length, 1, 8] sin",
    ),
}


@pytest.mark.parametrize("name", PLACES)
def test_tables_that_no_op_could_take_as_they_are_are_refused(name: str) -> None:
    assert_refused(graph(*PLACES[name]), "its coefficient m00 is no slice of a table")


WIDER = "float[batch, 3, 2, length, 8]"
LAYOUTS = {
    "five axes": (f"{WIDER} x, float[length, 8] cos, float[length, 8] sin", f"{WIDER} y"),
    "one table for all positions": (f"{X}, float[8] cos, float[8] sin", Y),
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_layouts_that_the_op_does_not_know_are_refused(name: str) -> None:
    assert_refused(graph(ROPE, *LAYOUTS[name]), "its layout is none that the op knows: data (2, ")


def test_float64_is_refused() -> None:
    inputs = "double[batch, 2, length, 8] x, double[length, 8] cos, double[length, 8] sin"
    model = graph(ROPE, inputs, Y.replace("float", "double"))
    assert_refused(model, "x is DOUBLE, for which there is no op")


# ONNX's own operator is taken at its word, so what it is given is asked instead
HALVES = "float[batch, length, 4] cos, float[batch, length, 4] sin"
NATIVE = {
    "RotaryEmbedding on heads of unknown size": (
        "y = RotaryEmbedding<num_heads = 2>(x, cos, sin)",
        f"float[batch, length, hidden] x, {HALVES}",
        "float[batch, length, hidden] y",
    ),
    "RotaryEmbedding with tables of unknown shape": (
        "cos, sin = other.tables(x) y = RotaryEmbedding(x, cos, sin)",
        X,
        Y,
    ),
    "cannot be compared with the op: RotaryEmbedding : Last dimension of cos cache (8)": (
        "y = RotaryEmbedding(x, cos, sin)",
        f"{X}, float[batch, length, 8] cos, float[batch, length, 8] sin",
        Y,
    ),
    "cannot be compared with the op: RotaryEmbedding : all the input array dimensions": (
        "y = RotaryEmbedding(x, cos, sin)",
        f"float[1, 2, length, 8] x, {HALVES}",
        "float[1, 2, length, 8] y",
    ),
}


@pytest.mark.parametrize("reason", NATIVE)
def test_what_no_op_can_take_from_rotary_embedding_is_refused(reason: str) -> None:
    assert_refused(graph(*NATIVE[reason]), reason)


@pytest.mark.parametrize("attribute", ["", "<interleaved = 1>"])
def test_rotary_embedding_that_an_op_can_take_is_fused(attribute: str) -> None:
    fused = fuse(graph(f"y = RotaryEmbedding{attribute}(x, cos, sin)", f"{X}, {HALVES}"))
    half = "" if attribute else "Half"
    assert ops(fused) == [f"ApplyRopeCosSin{half}Single"]
    assert len(fused.model.graph) == 2  # what was there, and the op on the same data
    assert_same(fused)


def test_a_part_by_rotary_embedding_is_fused() -> None:
    tables = "float[batch, length, 2] cos, float[batch, length, 2] sin"
    nodes = "y = RotaryEmbedding<rotary_embedding_dim = 4>(x, cos, sin)"
    fused = fuse(graph(nodes, f"{X}, {tables}"))
    assert ops(fused) == ["ApplyRopeCosSinHalfPartialSingle"]
    assert_same(fused)


def test_what_is_no_number_proves_nothing() -> None:
    nodes = TURNED + "nothing = Div(cos, nought)" + SUMMED.replace("cos", "nothing")
    model = graph(nodes, values="float nought = {0.0}")
    assert_refused(model, "the op would differ by nan")


# A rotation at the first sizes that are tried (length 6), and something else at others: what is
# put in its place is right where it is proven, and only a second look at other sizes tells
AT_SIX = """
  n = Shape<start = 2, end = 3>(x)
  is_six = Equal(n, six)
"""
BY_SIZE = {
    "a sign": """
        a = Slice(x, zero, half, last) b = Slice(x, half, end, last) minus = Neg(b)
        c = Where(is_six, minus, b) turned = Concat<axis = -1>(c, a)""" + SUMMED,
    "a small factor": TURNED + """
        scaled = Mul(x, number) data = Where(is_six, x, scaled) left = Mul(data, cos)
        right = Mul(turned, sin) y = Add(left, right)""",
    "a slice": """
        a = Slice(x, zero, half, last) b = Slice(x, half, end, last)
        e = Slice(x, three, seven, last) d = Where(is_six, b, e) c = Neg(d)
        turned = Concat<axis = -1>(c, a)""" + SUMMED,
    "a half": """
        a = Slice(x, zero, half, last) b = Slice(x, half, end, last) c = Neg(b)
        d = Where(is_six, c, a) turned = Concat<axis = -1>(d, a)""" + SUMMED,
    "infinite": TURNED + """
        scaled = Mul(x, infinity) data = Where(is_six, x, scaled) left = Mul(data, cos)
        right = Mul(turned, sin) y = Add(left, right)""",
}  # fmt: skip


@pytest.mark.parametrize("name", BY_SIZE)
def test_what_is_a_rotation_at_some_sizes_alone_is_refused(name: str) -> None:
    values = (
        "int64[1] six = {6}, int64[1] seven = {7}, float number = {1.000001}, "
        "float infinity = {inf}"
    )
    model = graph(AT_SIX + BY_SIZE[name], values=values)
    assert_refused(model, "departs from the graph as it was: an element of up to")


def test_an_infinite_angle_makes_no_room_for_another_sign() -> None:
    """One position is infinitely far; the others are held to what they are."""
    angles = """
      rows = Squeeze(n)
      row = Range(nought, rows, step)
      column = Unsqueeze(row, one)
      real = Cast<to = 1>(column)
      inverse = Reciprocal(real)
      angle = Mul(inverse, frequencies)
      angles = Concat<axis = -1>(angle, angle)
      cos = Cos(angles)
      sin = Sin(angles)
    """
    values = (
        f"int64[1] six = {{6}}, int64 nought = {{0}}, int64 step = {{1}}, {FREQUENCIES}, "
        "int64[length] row, float[length, 4] angle"
    )
    model = graph(AT_SIX + angles + BY_SIZE["a sign"], X, values=values)
    assert_refused(model, "departs from the graph as it was")


def test_what_cannot_be_compared_is_refused() -> None:
    """What another's operator gives has a shape that nobody knows, so no numbers stand for it."""
    nodes = """
      raw = other.table(pos)
      cos = ReduceMax<keepdims = 0>(raw, zero)
      sin = ReduceMin<keepdims = 0>(raw, zero)
    """
    model = graph(
        nodes + ROPE,
        f"{X}, int64[length] pos",
        values="float[length, 8] cos, float[length, 8] sin",
    )
    reason = "cannot be compared with the graph as it was: the shape of raw is not known"
    assert_refused(model, reason)


def test_what_has_no_known_type_is_refused() -> None:
    nodes = "raw = other.table(pos) cos = ReduceMax(raw) sin = ReduceMin(raw)"
    shapes = "float[length, 8] cos, float[length, 8] sin"
    model = graph(nodes + ROPE, f"{X}, int64[length] pos", values=shapes)
    raw = next(node.outputs[0] for node in model.graph if node.op_type == "table")
    raw.shape, raw.type = ir.Shape(["length", 8]), None
    reason = "cannot be compared with the graph as it was: the type of raw is not known"
    assert_refused(model, reason)


def test_one_refusal_leaves_the_others() -> None:
    """The one that departs is taken back alone."""
    other = """
      a_2 = Slice(z, zero, half, last) b_2 = Slice(z, half, end, last) minus = Neg(b_2)
      c_2 = Where(is_six, minus, b_2) turned_2 = Concat<axis = -1>(c_2, a_2)
      left_2 = Mul(z, cos) right_2 = Mul(turned_2, sin_2) w = Add(left_2, right_2)
    """
    model = graph(
        AT_SIX + ROPE + other,
        f"{X}, {X[:-1]}z, float[length, 8] cos, float[length, 8] sin, float[length, 8] sin_2",
        f"{Y}, {Y[:-1]}w",
        "int64[1] six = {6}",
    )
    fused = fuse(model)
    assert (fused.count.found, fused.count.replaced) == (2, 1)
    (refusal,) = fused.count.refused
    assert refusal.node == "w"
    assert_same(fused)
    assert_same(fused, length=6)


# no element has influence on another, or no pairs can be: nothing says that it is a rotation
ROLLED = """
  first = Slice(x, zero, one, last) rest = Slice(x, one, end, last)
  turned = Concat<axis = -1>(rest, first)
"""
NONE = {
    "one product twice": TURNED + "right = Mul(turned, sin) y = Add(right, right)",
    "a scale and a sum": "p = Mul(x, cos) q = Mul(x, sin) y = Add(p, q)",
    "products of x with itself": TURNED
    + "swapped = Concat<axis = -1>(b, a) p = Mul(x, swapped) q = Mul(turned, sin) y = Add(p, q)",
    "a single product": TURNED + "right = Mul(turned, sin) y = Add(x, right)",
    "an odd head size": ROLLED + SUMMED,
    "one axis": TURNED + SUMMED,
}
AXES = {"an odd head size": "batch, 2, length, 7", "one axis": "8"}


@pytest.mark.parametrize("name", NONE)
def test_what_is_no_rotation_is_not_even_found(name: str) -> None:
    axes = AXES.get(name, "batch, 2, length, 8")
    table = ", ".join(axes.split(", ")[-2:])
    inputs = f"float[{axes}] x, float[{table}] cos, float[{table}] sin"
    model = graph(NONE[name], inputs, f"float[{axes}] y")
    fused = fuse(model)
    assert fused.count.found == 0
    assert_unchanged(fused, model)


def test_a_shape_that_is_not_as_stated_is_no_rotation() -> None:
    """The file says one head, and its nodes make two."""
    one_head = X.replace("2", "1"), Y.replace("2", "1")
    tiled = "shape = Shape(x) rank = Shape(shape) n = Add(rank, minus_two) "
    tiled += "times = Concat<axis = 0>(one, n, one, one) twice = Tile(turned, times)"
    model = graph(
        TURNED + tiled + SUMMED.replace("turned", "twice"),
        f"{one_head[0]}, float[length, 8] cos, float[length, 8] sin",
        one_head[1],
        "int64[1] minus_two = {-2}, float[batch, 1, length, 8] twice",
    )
    fused = fuse(model)
    assert fused.count.found == 0
    assert_unchanged(fused, model)
