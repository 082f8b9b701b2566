"""What reads a rotation, or its tables, inside a branch: nothing moves there, nothing is lost."""

from __future__ import annotations

import pytest
from fusion.graphs import (
    ANGLES,
    FREQUENCIES,
    ROPE,
    TURNED,
    X,
    Y,
    again,
    assert_same,
    graph,
    has_exact_angles,
    ops,
)

from ropeexport.fusion.fuse import fuse

TABLES = "float[length, 8] cos, float[length, 8] sin, bool flag"
Y_2 = "float[batch, 2, length, 8] y_2"


def chosen(result: str, one: str, other: str = "x", shape: str = "batch, 2, length, 8") -> str:
    """Return an If that computes one value, or gives another."""
    return f"""
      {result} = If (flag) <
        then_branch = then () => (float[{shape}] {result}_then) {{ {one} }},
        else_branch = other () => (float[{shape}] {result}_else) {{
          {result}_else = Identity({other}) }}
      >
    """


ROTATED = ROPE.replace("y = ", "rotated = ")
ROWS = """
  a, b = Split<axis = -1, num_outputs = 2>(x) c, c_rest = Split<axis = -1, num_outputs = 2>(cos)
  s, s_rest = Split<axis = -1, num_outputs = 2>(sin)
  ac = Mul(a, c) bs = Mul(b, s) bc = Mul(b, c) as = Mul(a, s)
  first = Sub(ac, bs) second = Add(bc, as)
"""
READERS = {
    "the rotated data": (ROTATED + chosen("y", "y_then = Relu(rotated)"), 1),
    "the rotated data, in both": (ROTATED + chosen("y", "y_then = Relu(rotated)", "rotated"), 1),
    "the rotated data, transposed": (
        ROTATED
        + chosen("y", "m = Transpose<perm = [0, 2, 1, 3]>(rotated) y_then = Reshape(m, shape)"),
        1,
    ),
    "and another outside": (
        ROTATED + chosen("z", "z_then = Relu(rotated)") + "y = Add(z, rotated)",
        1,
    ),
    "what is rotated": (ROPE.replace("y =", "r =") + chosen("y", "y_then = Add(r, x)"), 1),
    "a part of the tables": (
        ROTATED + chosen("y", "y_then = Mul(rotated, cos)"),
        1,
    ),
    "half of the rotated data": (
        ROWS + chosen("y", "y_then = Concat<axis = -1>(first, second)"),
        0,
    ),
}


@pytest.mark.parametrize("name", READERS)
def test_a_reader_in_a_branch_is_read_on(name: str) -> None:
    nodes, count = READERS[name]
    fused = fuse(graph(nodes, f"{X}, {TABLES}", values="int64[4] shape = {0, 2, -1, 8}"))
    assert len(ops(fused)) == count
    assert len(fused.count.not_judged) == 1 - count
    assert_same(fused)


def test_a_cast_back_in_a_branch_stays_there() -> None:
    nodes = (
        "x = Cast<to = 1>(given)"
        + ROTATED
        + chosen("y", "y_then = Cast<to = 10>(rotated)", "given").replace("float[", "float16[")
    )
    given, y = (
        X.replace("float[", "float16[").replace(" x", " given"),
        Y.replace("float[", "float16["),
    )
    fused = fuse(graph(nodes, f"{given}, {TABLES}", y))
    assert ops(fused) == ["ApplyRopeHalfSingle"]
    assert_same(fused)


def test_the_rest_that_is_joined_in_a_branch_stays_there() -> None:
    whole = "float[batch, 2, length, 12]"
    nodes = (
        "x, rest = Split<axis = -1>(given, parts)"
        + ROTATED
        + chosen("y", "y_then = Concat<axis = -1>(rotated, rest)", "given", "batch, 2, length, 12")
    )
    fused = fuse(graph(nodes, f"{whole} given, {TABLES}", f"{whole} y", "int64[2] parts = {8, 4}"))
    assert ops(fused) == ["ApplyRopeHalfSingle"]
    assert_same(fused)


def test_a_second_that_needs_the_first_through_a_branch_is_another_op() -> None:
    nodes = ROPE + chosen("x_2", "x_2_then = Relu(y)") + again(ROPE, "x")
    fused = fuse(graph(nodes, f"{X}, {TABLES}", f"{Y}, {Y_2}"))
    assert ops(fused) == ["ApplyRopeHalfSingle"] * 2
    assert_same(fused)


@pytest.mark.parametrize("wide", [False, True])
def test_tables_that_a_branch_reads_are_exact_too(wide: bool) -> None:
    """Float64 tables stay float64 in the branch, and its result keeps the type that it has."""
    angles = ANGLES
    branch = chosen("more", "more_then = Identity(cos)", "sin", "length, 8")
    frequencies, rope = FREQUENCIES, ROPE
    if wide:
        angles = angles.replace("to = 1", "to = 11")
        frequencies = frequencies.replace("float[", "double[")
        branch = branch.replace("float[", "double[")
        rope = (
            "cos_1 = Cast<to = 1>(cos) sin_1 = Cast<to = 1>(sin)"
            + TURNED
            + ("left = Mul(x, cos_1) right = Mul(turned, sin_1) y = Add(left, right)")
        )
    kind = "double" if wide else "float"
    outputs = f"{Y}, {kind}[length, 8] more"
    inputs = f"{X}, float[length] pos, bool flag"
    fused = fuse(graph(angles + branch + rope, inputs, outputs, frequencies))
    assert ops(fused) == ["ApplyRopeCosSinHalfSingle"]
    assert has_exact_angles(fused)
    assert_same(fused, 2.0**-23)


def test_float64_tables_that_are_outputs_keep_their_type() -> None:
    angles = ANGLES.replace("to = 1", "to = 11") + "moved = Unsqueeze(cos, zero)"
    rope = (
        TURNED
        + """
      cos_1 = Cast<to = 1>(moved) sin_1 = Cast<to = 1>(sin)
      left = Mul(x, cos_1) right = Mul(turned, sin_1) y = Add(left, right)"""
    )
    frequencies = FREQUENCIES.replace("float[", "double[")
    outputs = f"{Y}, double[1, length, 8] moved"
    fused = fuse(graph(angles + rope, f"{X}, float[length] pos", outputs, frequencies))
    assert has_exact_angles(fused)
    assert_same(fused, 2.0**-23)
