"""q and k become one op where they may, and two wherever one would compute something else."""

from __future__ import annotations

import numpy as np
import pytest
from fusion.graphs import ANGLES, FREQUENCIES, ROPE, X, Y, again, assert_same, graph, ops

from ropeexport.fusion.fuse import fuse

X_2, Y_2 = "float[batch, 3, length, 8] x_2", "float[batch, 3, length, 8] y_2"
TABLES = "float[length, 8] cos, float[length, 8] sin"
TABLES_2 = "float[length, 8] cos_2, float[length, 8] sin_2"
BOTH = ROPE + again(ROPE, "x")
OUTPUTS = f"{Y}, {Y_2}"


def test_two_that_share_their_tables_are_one_op() -> None:
    fused = fuse(graph(BOTH, f"{X}, {X_2}, {TABLES}", OUTPUTS))
    assert ops(fused) == ["ApplyRopeHalf"]
    assert fused.count.found == 1
    assert_same(fused)


def test_each_attention_has_an_op_of_its_own_for_its_two() -> None:
    third = again(again(ROPE, "x"), "x_2")
    fourth = again(third, "x_2_2")
    inputs = ", ".join(
        (X, X_2, "float[batch, 2, length, 8] x_2_2", "float[batch, 3, length, 8] x_2_2_2")
    )
    outputs = ", ".join(
        (OUTPUTS, "float[batch, 2, length, 8] y_2_2", "float[batch, 3, length, 8] y_2_2_2")
    )
    fused = fuse(graph(BOTH + third + fourth, f"{inputs}, {TABLES}", outputs))
    assert ops(fused) == ["ApplyRopeHalf", "ApplyRopeHalf"]
    assert_same(fused)


def test_tables_that_are_computed_twice_are_one_op() -> None:
    nodes = ANGLES + ROPE + again(ANGLES + ROPE, "x")
    fused = fuse(graph(nodes, f"{X}, {X_2}, float[length] pos", OUTPUTS, FREQUENCIES))
    assert ops(fused) == ["ApplyRopeCosSinHalf"]
    assert_same(fused)


OTHERS = {
    "other tables": (ROPE + again(ROPE, "x", "cos", "sin"), f"{X}, {X_2}, {TABLES}, {TABLES_2}"),
    "other sines": (
        ROPE + again(ROPE, "x", "sin"),
        f"{X}, {X_2}, {TABLES}, float[length, 8] sin_2",
    ),
    "another sign": (
        ROPE + again(ROPE, "x").replace("Concat<axis = -1>(c_2", "Concat<axis = -1>(b_2"),
        f"{X}, {X_2}, {TABLES}",
    ),
    "the next positions": (
        "next = Add(pos, step)"
        + ANGLES
        + ROPE
        + again(ANGLES + ROPE, "x").replace("(pos", "(next"),
        f"{X}, {X_2}, float[length] pos",
    ),
    "other positions": (
        ANGLES + ROPE + again(ANGLES + ROPE, "x", "pos"),
        f"{X}, {X_2}, float[length] pos, float[length] pos_2",
    ),
    "other frequencies": (
        ANGLES + ROPE + again(ANGLES + ROPE, "x", "frequencies"),
        f"{X}, {X_2}, float[length] pos",
    ),
    "sines for cosines": (
        ANGLES + ROPE + again(ANGLES + ROPE, "x").replace("Cos(", "Sin("),
        f"{X}, {X_2}, float[length] pos",
    ),
    "tables that another half type has rounded": (
        "half_cos = Cast<to = 10>(table) cos = Cast<to = 1>(half_cos)"
        "half_cos_2 = Cast<to = 16>(table) cos_2 = Cast<to = 1>(half_cos_2)"
        + ROPE
        + again(ROPE, "x", "cos"),
        f"{X}, {X_2}, float[length, 8] table, float[length, 8] sin",
    ),
    "tables in another order": (
        "cos = Transpose<perm = [0, 1]>(table) cos_2 = Transpose<perm = [1, 0]>(table)"
        + ROPE
        + again(ROPE, "x", "cos"),
        f"{X.replace('length', '8')}, {X_2.replace('length', '8')}, float[8, 8] table, "
        "float[8, 8] sin",
    ),
    "a second that needs the first": (
        ROPE + "x_2 = Gather<axis = 1>(y, three_heads)" + again(ROPE, "x"),
        f"{X}, {TABLES}",
    ),
    "the second output of a node": (
        "cos, cos_2 = Split<axis = 0, num_outputs = 2>(both)" + ROPE + again(ROPE, "x", "cos"),
        f"{X.replace('length', '3')}, {X_2.replace('length', '3')}, float[6, 8] both, "
        "float[3, 8] sin",
    ),
}


@pytest.mark.parametrize("name", OTHERS)
def test_what_differs_stays_two_ops(name: str) -> None:
    nodes, inputs = OTHERS[name]
    values = (
        f"{FREQUENCIES}, float[4] frequencies_2 = {{1.0, 0.2, 0.02, 0.002}}, "
        "float[1] step = {1.0}, int64[3] three_heads = {0, 1, 0}"
    )
    outputs = OUTPUTS
    if "length" not in inputs:
        rows = "3" if "both" in inputs else "8"
        outputs = outputs.replace("length", rows)
    fused = fuse(graph(nodes, inputs, outputs, values))
    assert (fused.count.found, fused.count.replaced) == (2, 2)
    assert len(ops(fused)) == 2
    assert_same(fused)


def test_another_batch_stays_two_ops() -> None:
    """Their tables are the same; the op's q and k are of one batch."""
    second, rotated = (f"float[batch_2, 3, length, 8] {name}" for name in ("x_2", "y_2"))
    fused = fuse(graph(BOTH, f"{X}, {second}, {TABLES}", f"{Y}, {rotated}"))
    assert ops(fused) == ["ApplyRopeHalfSingle"] * 2
    assert_same(fused, batch_2=4)


def test_two_pairings_stay_two_ops() -> None:
    tables = "float[batch, length, 4] cos, float[batch, length, 4] sin"
    nodes = "y = RotaryEmbedding(x, cos, sin) y_2 = RotaryEmbedding<interleaved = 1>(x_2, cos, sin)"
    fused = fuse(graph(nodes, f"{X}, {X_2}, {tables}", OUTPUTS))
    assert ops(fused) == ["ApplyRopeCosSinHalfSingle", "ApplyRopeCosSinSingle"]
    assert_same(fused)


def test_two_types_stay_two_ops() -> None:
    tables = "float[batch, length, 4] cos, float[batch, length, 4] sin"
    second, rotated = (f"float16[batch, 3, length, 8] {name}" for name in ("x_2", "y_2"))
    nodes = """
      half_cos = Cast<to = 10>(cos) half_sin = Cast<to = 10>(sin)
      y = RotaryEmbedding(x, cos, sin) y_2 = RotaryEmbedding(x_2, half_cos, half_sin)
    """
    fused = fuse(graph(nodes, f"{X}, {second}, {tables}", f"{Y}, {rotated}"))
    assert len(ops(fused)) == 2


@pytest.mark.parametrize("rows", [16, 400])
def test_stored_tables_are_the_same_where_all_their_numbers_are(rows: int) -> None:
    """Rows are taken by the length: those in which the tables differ lie beyond what is tried."""
    numbers = np.random.default_rng(0).standard_normal((rows, 8)).astype(np.float32)
    changed = numbers.copy()
    changed[rows - 4] += 1.0
    tables = {"stored": numbers, "stored_2": changed}
    nodes = "n = Shape<start = 2, end = 3>(x)"
    for name, table in tables.items():
        text = ", ".join(map(str, table.flat))
        nodes += f"{name} = Constant<value = float[{rows}, 8] {{{text}}}>()"
    nodes += "cos = Slice(stored, zero, n, zero) cos_2 = Slice(stored_2, zero, n, zero)"
    model = graph(
        nodes + ROPE + again(ROPE, "x", "cos"),
        f"{X}, {X_2}, float[length, 8] sin",
        OUTPUTS,
        "float[length, 8] cos, float[length, 8] cos_2",
    )
    for node in model.graph:
        if node.op_type == "Constant":
            node.outputs[0].const_value = node.attributes["value"].as_tensor()
    fused = fuse(model)
    assert ops(fused) == ["ApplyRopeHalfSingle"] * 2
    assert_same(fused, length=rows)
