"""Which angles are read from tables, and which stay as they are written."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest
from fusion.graphs import FREQUENCIES, ROPE, X, assert_same, graph, has_exact_angles, ops

from ropeexport.exporting.passes import attach_functions
from ropeexport.fusion.fuse import Fused, fuse
from ropeexport.fusion.products import exact_frequencies

WHOLE, REAL = f"{X}, int64[length] pos", f"{X}, float[length] pos"
ANGLE = "column = Unsqueeze({}, one) angle = Mul(column, frequencies)"
WAVES = """
  angles = Concat<axis = -1>(angle, angle)
  cos = Cos(angles)
  sin = Sin(angles)
"""
VALUES = (
    f"{FREQUENCIES}, float[4] fast = {{2.0, 0.1, 0.01, 0.001}}, float eighth = {{0.125}}, "
    "float half_number = {0.5}, float nought = {0.0}, float eight = {8.0}, float sixteen = {16.0}, "
    "int64 seven = {7}, float whole_number = {1.0}"
)


def fused(
    positions: str, inputs: str = WHOLE, frequencies: str = "frequencies", **options: int
) -> Fused:
    """Fuse a rope of what is made of ``pos``, which is called ``p``."""
    angle = ANGLE.format("p").replace("frequencies", frequencies)
    made = fuse(graph(positions + angle + WAVES + ROPE, inputs, values=VALUES), **options)
    assert ops(made) == ["ApplyRopeCosSinHalfSingle"]
    left = set() if has_exact_angles(made) else {"cos", "sin"}
    assert {refusal.node for refusal in made.comparison.left} == left
    return made


CAST = "p = Cast<to = 1>(pos)"
READ_FROM_TABLES = {
    "whole": (CAST, WHOLE, "frequencies"),
    "whole, at high frequencies": (CAST, WHOLE, "fast"),
    "real": ("p = Identity(pos)", REAL, "frequencies"),
    "floored": ("p = Floor(pos)", REAL, "fast"),
    "interpolated": ("q = Cast<to = 1>(pos) p = Mul(q, eighth)", WHOLE, "frequencies"),
    "divided": ("q = Cast<to = 1>(pos) p = Div(q, eight)", WHOLE, "frequencies"),
    "negated": ("q = Cast<to = 1>(pos) p = Neg(q)", WHOLE, "fast"),
    "interpolated, at high ones": ("q = Cast<to = 1>(pos) p = Mul(q, eighth)", WHOLE, "fast"),
    "shifted by a whole number": ("q = Cast<to = 1>(pos) p = Add(q, eight)", WHOLE, "fast"),
    "scaled up": ("p = Mul(pos, sixteen)", REAL, "frequencies"),
    "in float64": ("q = Cast<to = 11>(pos) p = Cast<to = 1>(q)", WHOLE, "frequencies"),
}  # fmt: skip
FRACTIONS = "positions in angle may have fractions, and a frequency is above 1"
AS_WRITTEN = {
    "real, at high frequencies": ("p = Identity(pos)", REAL, "fast"),
    "shifted by a fraction": ("q = Cast<to = 1>(pos) p = Add(q, half_number)", WHOLE, "fast"),
    "made small and shifted": ("q = Mul(pos, eighth) p = Add(q, eight)", REAL, "fast"),
}


@pytest.mark.parametrize("name", [*READ_FROM_TABLES, *AS_WRITTEN])
def test_angles_are_read_from_tables_where_those_hold_them(name: str) -> None:
    positions, inputs, frequencies = (READ_FROM_TABLES | AS_WRITTEN)[name]
    made = fused(positions, inputs, frequencies)
    assert has_exact_angles(made) == (name in READ_FROM_TABLES)
    for refusal in made.comparison.left:
        assert refusal.reason == FRACTIONS
    assert_same(made)


BEHIND = {
    "divided by one": "scaled = Div(angle, whole_number)",
    "divided and multiplied": "part = Div(angle, eight) scaled = Mul(sixteen, part)",
    "negated": "scaled = Neg(angle)",
}


@pytest.mark.parametrize("name", BEHIND)
@pytest.mark.parametrize("positions", [CAST, "q = Cast<to = 1>(pos) p = Mul(q, eighth)"])
def test_what_scales_a_product_goes_to_its_frequencies(name: str, positions: str) -> None:
    nodes = positions + ANGLE.format("p") + BEHIND[name]
    waves = WAVES.replace("(angle, angle)", "(scaled, scaled)")
    made = fuse(graph(nodes + waves + ROPE, WHOLE, values=VALUES))
    assert ops(made) == ["ApplyRopeCosSinHalfSingle"]
    assert has_exact_angles(made)
    assert_same(made)


@pytest.mark.parametrize("place", ["before", "behind"])
def test_a_number_that_adds_an_axis_is_no_factor_of_frequencies(place: str) -> None:
    """A table of what is multiplied would not have the axis; of positions, the product has it."""
    tall = "float[1, 1, 1] tall = {0.5}"
    if place == "before":
        nodes = CAST + " q = Mul(p, tall) column = Unsqueeze(q, last)" + ANGLE.split("one)")[1]
    else:
        nodes = CAST + ANGLE.format("p") + " scaled = Mul(angle, tall)"
    last = "angle" if place == "before" else "scaled"
    waves = WAVES.replace("(angle, angle)", f"({last}, {last})")
    made = fuse(graph(nodes + waves + ROPE, WHOLE, values=f"{VALUES}, {tall}"))
    assert ops(made) == ["ApplyRopeCosSinHalfSingle"]
    assert has_exact_angles(made) == (place == "before")
    assert_same(made)


@pytest.mark.parametrize("half", [10, 16])
@pytest.mark.parametrize("then", ["p = Identity(wide)", "p = Mul(wide, eighth)"])
def test_positions_that_a_half_type_has_rounded_stay_rounded(half: int, then: str) -> None:
    """Long ones that were neighbours are the same, and would be two again in the tables."""
    rounded = f"q = Cast<to = 1>(pos) narrow = Cast<to = {half}>(q) wide = Cast<to = 1>(narrow)"
    assert_same(fused(rounded + then))


def test_an_angle_that_a_half_type_has_rounded_stays_as_it_is() -> None:
    nodes = ANGLE.format("p") + "narrow = Cast<to = 10>(angle) rounded = Cast<to = 1>(narrow)"
    waves = WAVES.replace("(angle, angle)", "(rounded, rounded)")
    made = fuse(graph(CAST + nodes + waves + ROPE, WHOLE, values=VALUES))
    assert {refusal.reason for refusal in made.comparison.left} == {"narrow is FLOAT16"}
    assert not has_exact_angles(made)
    assert_same(made)


def test_a_wave_of_one_frequency_is_no_table() -> None:
    nodes = (
        CAST + "column = Unsqueeze(p, one) angles = Mul(column, eighth)" + WAVES.split("\n", 2)[2]
    )
    model = graph(nodes + ROPE, WHOLE, values=VALUES)
    assert not has_exact_angles(fuse(model))


def test_tables_hold_the_positions_that_are_asked_for() -> None:
    made = fused(CAST, max_position=2000)
    (table,) = (n for n in made.model.graph if n.op_type == "RopeTable")
    assert table.inputs[1].shape[0] == 2
    assert made.comparison.max_position < 1024


def types(made: Fused, *op_types: str) -> list[str]:
    return [node.op_type for node in made.model.graph if node.op_type in op_types]


def test_positions_in_float32_are_not_cast() -> None:
    made = fused("p = Floor(pos)", REAL)
    assert types(made, "Cast") == []


# angles in float64, which TensorRT does not have
WIDE_ANGLE = "column = Unsqueeze(p, one) angle = Mul(column, wide)"
WIDE = {
    "cast from whole numbers": (f"p = Cast<to = 11>(pos) {WIDE_ANGLE}", WHOLE),
    "cast from float32": (f"q = Floor(pos) p = Cast<to = 11>(q) {WIDE_ANGLE}", REAL),
    "cast, then moved": (
        f"r = Cast<to = 11>(pos) q = Unsqueeze(r, one) p = Squeeze(q, one) {WIDE_ANGLE}",
        WHOLE,
    ),
    "cast, then interpolated": (
        f"q = Cast<to = 11>(pos) p = Mul(q, wide_eighth) {WIDE_ANGLE}",
        WHOLE,
    ),
    "cast, then shifted": (f"q = Cast<to = 11>(pos) p = Add(q, wide_eight) {WIDE_ANGLE}", WHOLE),
    "given": (f"p = Identity(pos) {WIDE_ANGLE}", WHOLE.replace("int64", "double")),
    "given and floored": (f"p = Floor(pos) {WIDE_ANGLE}", WHOLE.replace("int64", "double")),
}
WIDE_WAVES = {
    "moved before": """
      angles = Concat<axis = -1>(angle, angle)
      wide_cos = Cos(angles) wide_sin = Sin(angles)""",
    "moved after": """
      half_cos = Cos(angle) half_sin = Sin(angle)
      wide_cos = Concat<axis = -1>(half_cos, half_cos)
      wide_sin = Concat<axis = -1>(half_sin, half_sin)""",
    "scaled": """
      half_cos = Cos(angle) half_sin = Sin(angle)
      part_cos = Mul(half_cos, wide_eighth) part_sin = Mul(half_sin, wide_eighth)
      wide_cos = Concat<axis = -1>(part_cos, part_cos)
      wide_sin = Concat<axis = -1>(part_sin, part_sin)""",
}


@pytest.mark.parametrize("waves", WIDE_WAVES)
@pytest.mark.parametrize("name", WIDE)
def test_angles_in_float64_are_read_from_tables_in_float32(name: str, waves: str) -> None:
    angle, inputs = WIDE[name]
    back = "cos = Cast<to = 1>(wide_cos) sin = Cast<to = 1>(wide_sin)"
    values = (
        "double[4] wide = {1.0, 0.1, 0.01, 0.001}, double wide_eighth = {0.125}, "
        "double wide_eight = {8.0}"
    )
    made = fuse(graph(angle + WIDE_WAVES[waves] + back + ROPE, inputs, values=values))
    assert ops(made) == ["ApplyRopeCosSinHalfSingle"]
    assert made.comparison.left == ()
    assert has_exact_angles(made)
    assert_same(made)


# what is done to angles before their cosine: movement is done to the tables instead
MOVED = {
    "taken in another order": ("angles = Gather<axis = -1>(angle, order)", True),
    "cut": ("twice = Concat<axis = -1>(angle, angle) angles = Slice(twice, zero, end, last)", True),
    "in another shape": (
        "twice = Concat<axis = -1>(angle, angle) flat = Unsqueeze(twice, zero) "
        "angles = Squeeze(flat, zero)",
        True,
    ),
    "split": (
        "p_1, p_2 = Split<axis = -1, num_outputs = 2>(angle) "
        "angles = Concat<axis = -1>(p_1, p_2, p_1, p_2)",
        False,
    ),
    "negated": ("twice = Concat<axis = -1>(angle, angle) angles = Neg(twice)", False),
    "scaled": ("twice = Concat<axis = -1>(angle, angle) angles = Mul(twice, eighth)", False),
    "divided": ("twice = Concat<axis = -1>(angle, angle) angles = Div(twice, eight)", False),
    "filled up": ("angles = Pad(angle, pads, nought)", False),
    "joined with others": ("angles = Concat<axis = -1>(angle, others)", False),
    "shifted": ("twice = Concat<axis = -1>(angle, angle) angles = Add(twice, eighth)", False),
}


@pytest.mark.parametrize("name", MOVED)
def test_angles_are_moved_as_they_were(name: str) -> None:
    moved, exact = MOVED[name]
    nodes = CAST + ANGLE.format("p") + moved + " cos = Cos(angles) sin = Sin(angles)" + ROPE
    values = (
        f"{VALUES}, int64[8] order = {{0, 1, 2, 3, 0, 1, 2, 3}}, int64[4] pads = {{0, 0, 0, 4}}"
    )
    made = fuse(graph(nodes, f"{WHOLE}, float[length, 4] others", values=values))
    assert made.count.replaced == 1
    assert has_exact_angles(made) == exact
    assert (made.comparison.left == ()) == exact
    assert_same(made)


COMPUTED = "the frequencies in angle are computed, not constants"
OTHER = "angle is no product of positions and frequencies"
PRODUCTS = {
    "the other way around": ("angle = Mul(frequencies, column)", None),
    "frequencies of two axes": (
        "row = Unsqueeze(frequencies, zero) angle = Mul(column, row)",
        None,
    ),
    "frequencies that were cast": (
        "wide = Cast<to = 11>(frequencies) row = Cast<to = 1>(wide) angle = Mul(column, row)",
        None,
    ),
    "frequencies that were computed": ("row = Exp(frequencies) angle = Mul(column, row)", COMPUTED),
    "frequencies that are given": ("angle = Mul(column, given)", COMPUTED),
    "a quotient": ("angle = Div(column, frequencies)", OTHER),
    "a sum": ("angle = Add(column, frequencies)", OTHER),
    "positions for each pair": (
        "four = Concat<axis = -1>(column, column, column, column) angle = Mul(four, frequencies)",
        COMPUTED,
    ),
}


@pytest.mark.parametrize("name", PRODUCTS)
def test_angles_are_positions_times_frequencies(name: str) -> None:
    product, reason = PRODUCTS[name]
    nodes = CAST + "column = Unsqueeze(p, one)" + product + WAVES + ROPE
    made = fuse(graph(nodes, f"{WHOLE}, float[4] given", values=VALUES))
    assert made.count.replaced == 1
    assert has_exact_angles(made) == (reason is None)
    assert {x.reason for x in made.comparison.left} == ({reason} if reason else set())
    assert_same(made)


def test_angles_that_tables_do_not_hold_are_taken_back_by_name() -> None:
    """Whatever the input is, the positions that are made of it lie beyond."""
    angle = ANGLE.format("p")
    nodes = "q = Add(pos, far) p = Cast<to = 1>(q)" + angle + WAVES + ROPE
    model = graph(nodes, WHOLE, values=f"{VALUES}, int64 far = {{3000000}}")
    made = fuse(model)
    assert (made.count.found, made.count.replaced, made.count.refused) == (1, 1, ())
    assert {refusal.node for refusal in made.comparison.left} == {"cos", "sin"}
    for refusal in made.comparison.left:
        assert refusal.reason.startswith("cannot be compared with the graph as it was: RopeTable ")
        assert "positions beyond the tables" in refusal.reason
    assert ops(made) == ["ApplyRopeCosSinHalfSingle"]
    assert not has_exact_angles(made)
    assert_same(made)


def test_frequencies_of_a_whole_base_are_made_exact() -> None:
    exact = 10000.0 ** (-np.arange(4) / 4)
    np.testing.assert_array_equal(exact_frequencies(exact.astype(np.float32).astype("f8")), exact)


@pytest.mark.parametrize("change", [4.0, -4.0])
@pytest.mark.parametrize("place", range(4))
def test_frequencies_beside_those_of_a_base_are_taken_as_they_are(
    place: int, change: float
) -> None:
    stored = (10000.0 ** (-np.arange(4) / 4)).astype(np.float32).astype("f8")
    stored[place] *= 1.0 + change * 2.0**-23
    np.testing.assert_array_equal(exact_frequencies(stored), stored)


@pytest.mark.parametrize("stored", [[1.0], [1.0, 0.0], [1.0, -0.5], [-1.0, 0.5]])
def test_numbers_that_are_powers_of_no_base_are_taken_as_they_are(stored: list[float]) -> None:
    assert exact_frequencies(np.array(stored)).tolist() == stored


def test_an_angle_that_something_else_reads_is_the_same_for_it() -> None:
    """The cosines are an output too, which stays as it was written."""
    nodes = CAST + ANGLE.format("p") + WAVES + ROPE + "twice = Mul(cos, eight)"
    outputs = "float[batch, 2, length, 8] y, float[length, 8] cos, float[length, 8] twice"
    made = fuse(graph(nodes, WHOLE, outputs, VALUES))
    assert has_exact_angles(made)
    assert [value.name for value in made.model.graph.outputs] == ["y", "cos", "twice"]
    assert made.model.graph.outputs[1].producer().op_type == "Cos"
    assert_same(made)


SLOW = "float[4] slow = {0.5, 0.05, 0.005, 0.0005}"
CHOSEN = """
  column = Unsqueeze(p, one) longest = ReduceMax<keepdims = 0>(pos)
  is_long = Greater(longest, many)
  row = Where(is_long, slow, frequencies)
  angle = Mul(column, row)
"""


@pytest.mark.parametrize("last", [900, 90_000])
def test_frequencies_that_a_length_chooses_have_exact_angles(last: int) -> None:
    """As Phi-3 has them for long sequences: float64 is the judge, at the row that is chosen."""
    values = f"{VALUES}, {SLOW}, int64 many = {{1000}}"
    made = fuse(graph(CAST + CHOSEN + WAVES + ROPE, WHOLE, values=values))
    assert (has_exact_angles(made), made.comparison.left) == (True, ())
    assert_same(made)
    pos = np.arange(last - 20, last)
    feed = {"x": np.ones((1, 2, len(pos), 8), np.float32), "pos": pos}
    model = made.model.clone()
    attach_functions(model)
    session = onnxruntime.InferenceSession(ir.to_proto(model).SerializeToString())
    (found,) = session.run(None, feed)
    slow = np.array([0.5, 0.05, 0.005, 0.0005], np.float32).astype("f8")  # powers of no base
    angle = pos[:, None] * (slow if last > 1000 else 10000.0 ** (-np.arange(4) / 4))
    expected = np.concatenate([np.cos(angle) - np.sin(angle), np.cos(angle) + np.sin(angle)], -1)
    # each of two terms within 2^-23, and their products and sum rounded
    assert np.abs(found - expected).max() <= 4 * 2.0**-23


@pytest.mark.parametrize("condition", ["float[4, 1] some", "float[4] some"])
def test_frequencies_that_are_chosen_one_by_one_stay_as_they_are(condition: str) -> None:
    nodes = (
        "flags = Greater(some, nought) row = Where(flags, slow, frequencies)"
        "column = Unsqueeze(p, one) angle = Mul(column, row)"
    )
    inputs = f"{WHOLE.replace('length', '4')}, {condition}"
    values = f"{VALUES}, {SLOW}"
    made = fuse(graph(CAST + nodes + WAVES + ROPE, inputs, "float[batch, 2, 4, 8] y", values))
    assert not has_exact_angles(made)
    assert {refusal.reason for refusal in made.comparison.left} == {COMPUTED}
    assert_same(made)


def test_angles_in_float64_are_exact_as_they_are() -> None:
    nodes = """
      q = Cast<to = 11>(pos) column = Unsqueeze(q, one) row = Cast<to = 11>(given)
      angle = Mul(column, row) angles = Concat<axis = -1>(angle, angle)
      wide_cos = Cos(angles) wide_sin = Sin(angles)
      cos = Cast<to = 1>(wide_cos) sin = Cast<to = 1>(wide_sin)
    """
    made = fuse(graph(nodes + ROPE, f"{WHOLE}, float[4] given", values=VALUES))
    assert ops(made) == ["ApplyRopeCosSinHalfSingle"]
    assert (has_exact_angles(made), made.comparison.left) == (False, ())


def test_angles_inside_of_a_branch_are_said_to_stay() -> None:
    nodes = CAST + "column = Unsqueeze(p, one) angle = Mul(column, frequencies)"
    for wave in ("cos", "sin"):
        op = wave.capitalize()
        nodes += f"""
          {wave}_4 = If (flag) <
            then_branch = then () => (float[length, 4] {wave}_1) {{ {wave}_1 = {op}(angle) }},
            else_branch = other () => (float[length, 4] {wave}_2) {{
              {wave}_3 = {op}(angle) {wave}_2 = Mul({wave}_3, eighth) }}
          >
          {wave} = Concat<axis = -1>({wave}_4, {wave}_4)"""
    made = fuse(graph(nodes + ROPE, f"{WHOLE}, bool flag", values=VALUES))
    assert ops(made) == ["ApplyRopeCosSinHalfSingle"]
    left = {refusal.node: refusal.reason for refusal in made.comparison.left}
    assert left == dict.fromkeys(("cos_4", "sin_4"), "the angles lie inside of If")
    assert_same(made)
