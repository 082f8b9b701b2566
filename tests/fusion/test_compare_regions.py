"""The comparison of a rewritten graph with the one that it was made from, both written by hand."""

from __future__ import annotations

import math
from dataclasses import replace

import onnx
import onnx_ir as ir
import pytest
from fusion.graphs import FREQUENCIES, ROPE, X, Y, graph

from ropeexport.fusion.comparison import Outcome, compare_regions
from ropeexport.fusion.rewrite import region_of
from ropeexport.ops.forms import form_of
from ropeexport.ops.rope_table import digit_tables

POSITIONS = f"{X}, int64[length] pos"
REALS = f"{X}, float[length] pos"
WAVES = """
  column = Unsqueeze(pos, one)
  real = Cast<to = 1>(column)
  angle = Mul(real, frequencies)
  cos_angle = Cos(angle)
  sin_angle = Sin(angle)
"""
BEFORE = WAVES + """
  cos = Concat<axis = -1>(cos_angle, cos_angle)
  sin = Concat<axis = -1>(sin_angle, sin_angle)
""" + ROPE  # fmt: skip
# what the rewrite made of it; each fault below is a line of it in another way
OP = """
  cos_table = Unsqueeze(cos_angle, zero)
  sin_table = Unsqueeze(sin_angle, zero)
  y = ropeexport.ApplyRopeCosSinHalfSingle<pairing = "half">(x, cos_table, sin_table)
"""
VALUES = f"{FREQUENCIES}, float number = {{0.5}}, int64 thousand = {{1023}}"


def rewritten(nodes: str, inputs: str = POSITIONS, values: str = VALUES) -> ir.Model:
    model = onnx.parser.parse_model(
        f"""<ir_version: 10, opset_import: ["" : 23, "other" : 1, "ropeexport" : 1]>
        g ({inputs}) => ({Y}) <int64[1] zero = {{0}}, int64[1] one = {{1}}, int64[1] two = {{2}},
        int64[1] last = {{-1}}, {values}> {{ {nodes} }}"""
    )
    return ir.from_proto(onnx.shape_inference.infer_shapes(model))


def compared(
    after: str, before: str = BEFORE, inputs: str = POSITIONS, values: str = VALUES
) -> Outcome:
    """Compare the one region, from x to y, of two graphs."""
    made = rewritten(after, inputs, values)
    (op,) = (node for node in made.graph if form_of(node.domain, node.op_type))
    region = replace(region_of(op), data=(("x", made.graph.inputs[0]),))
    outcomes = compare_regions(graph(before, inputs, values=values), made, [region])
    assert list(outcomes) == ["y"]
    return outcomes["y"]


def changed(edits: dict[str, str]) -> str:
    """Return what the rewrite made, with other words in some places."""
    after = WAVES + OP
    for old, new in edits.items():
        assert after.count(old) == 1
        after = after.replace(old, new)
    return after


def test_what_is_the_same_is_found_to_be_so() -> None:
    outcome = compared(WAVES + OP)
    assert outcome.reason is None
    assert 0.0 <= outcome.worst < 1e-3
    assert outcome.shapes[::2] == [
        {"batch": 2, "length": 6},
        {"batch": 4, "length": 4},
        {"batch": 3, "length": 7},
    ]
    assert outcome.shapes[::2] == outcome.shapes[1::2]  # long positions, and then short ones
    assert 1 << 16 < outcome.largest < 1 << 17


FAULTS = {
    "a swapped sign": {
        "cos_table =": "minus = Neg(sin_angle) cos_table =",
        "(sin_angle, zero)": "(minus, zero)",
    },
    "a wrong table": {"(sin_angle, zero)": "(cos_angle, zero)"},
    "swapped tables": {"(x, cos_table, sin_table)": "(x, sin_table, cos_table)"},
    "another pairing": {"CosSinHalf": "CosSin", '"half"': '"interleaved"'},
    "a wrong scale": {
        "cos_table =": "scaled = Mul(sin_angle, near) cos_table =",
        "(sin_angle, zero)": "(scaled, zero)",
    },
    "a wrong scale of the angles": {
        "angle = Mul(real, frequencies)": "a = Mul(real, frequencies) angle = Mul(a, near)"
    },
    "other frequencies": {"frequencies)": "others)"},
    "the next position": {
        "(column)": "(next)",
        "real =": "next = Add(column, one) real =",
    },
    "the length for positions": {
        "(column)": "(rows)",
        "real =": "n = Shape(pos) n_0 = Squeeze(n) row = Range(nought, n_0, step) "
        "rows = Unsqueeze(row, one) real =",
    },
    "an off-by-one slice": {
        "(sin_angle, zero)": "(moved, zero)",
        "cos_table =": "first = Slice(sin_angle, zero, one, zero) "
        "rest = Slice(sin_angle, zero, minus_one, zero) "
        "moved = Concat<axis = 0>(first, rest) cos_table =",
    },
    "data that was moved": {
        "(x, cos_table": "(moved, cos_table",
        "y =": "moved = Gather<axis = 1>(x, other_heads) y =",
    },
    "long positions": {
        "(column)": "(bounded)",
        "real =": "bounded = Min(column, thousand) real =",
    },
}
MORE = (
    f"{VALUES}, float near = {{1.00001}}, int64[1] minus_one = {{-1}}, "
    "float[4] others = {1.0, 0.1, 0.01, 0.0011}, int64[2] other_heads = {1, 0}, "
    "int64 nought = {0}, int64 step = {1}"
)


@pytest.mark.parametrize("name", FAULTS)
def test_another_meaning_departs(name: str) -> None:
    reason = compared(changed(FAULTS[name]), values=MORE).reason
    assert reason is not None
    assert reason.startswith("departs from the graph as it was: an element of up to")


def test_exact_frequencies_for_stored_ones_do_not_depart() -> None:
    """Each within a rounding of float32, which is what an angle may move by."""
    values = f"{VALUES}, float[4] others = {{1.0, 0.10000001, 0.0099999998, 0.0010000001}}"
    outcome = compared(changed({"frequencies)": "others)"}), values=values)
    assert outcome.reason is None
    assert outcome.worst > 1e-2


def test_tables_that_are_no_angles_are_held_to_the_rounding_of_float64() -> None:
    """There is no angle whose frequency may be another by a rounding of float32."""
    inputs = f"{X}, float[length, 4] cos_angle, float[length, 4] sin_angle"
    before = BEFORE.replace(WAVES, "")
    assert compared(OP, before, inputs).reason is None
    scaled = "scaled = Mul(sin_angle, next_to_one)" + OP.replace("(sin_angle", "(scaled")
    values = f"{VALUES}, float next_to_one = {{1.00000012}}"
    reason = compared(scaled, before, inputs, values).reason
    assert reason is not None
    assert reason.startswith("departs")


@pytest.mark.parametrize(
    "moved",
    [
        "signless = Abs(column) real = Cast<to = 1>(signless)",
        "whole = Floor(column) real = Cast<to = 1>(whole)",
        "narrow = Cast<to = 10>(column) real = Cast<to = 1>(narrow)",
        "narrow = Cast<to = 16>(column) real = Cast<to = 1>(narrow)",
    ],
)
def test_positions_that_are_real_numbers_are_tried_with_signs_and_fractions(moved: str) -> None:
    after = WAVES.replace("real = Cast<to = 1>(column)", moved) + OP
    reason = compared(after, inputs=REALS).reason
    assert reason is not None
    assert reason.startswith("departs")


def test_a_half_type_counts_where_it_was_written() -> None:
    rounded = "narrow = Cast<to = 10>(column) real = Cast<to = 1>(narrow)"
    before, after = (
        nodes.replace("real = Cast<to = 1>(column)", rounded) for nodes in (BEFORE, WAVES + OP)
    )
    assert compared(after, before, REALS).reason is None
    reason = compared(WAVES + OP, before, REALS).reason
    assert reason is not None
    assert reason.startswith("departs")


def test_a_half_type_of_the_tables_is_no_difference() -> None:
    """Rounding is not what is compared, but for what makes another position of a long one."""
    nodes = WAVES.replace("cos_angle =", "cos_half =") + "cos_narrow = Cast<to = 10>(cos_half) "
    after = nodes + "cos_angle = Cast<to = 1>(cos_narrow)" + OP
    assert compared(after).reason is None


def test_nothing_that_is_no_number_passes_for_one() -> None:
    divided = "nought = Sub(real, real) scaled = Div(real, nought) angle = Mul(scaled, frequencies)"
    before, after = (
        nodes.replace("angle = Mul(real, frequencies)", divided, 1)
        for nodes in (BEFORE, WAVES + OP)
    )
    outcome = compared(after)
    assert outcome.worst == math.inf
    assert outcome.reason is not None
    assert "differs by inf" in outcome.reason
    assert compared(WAVES + OP, before).worst == math.inf
    assert compared(after, before).reason is None  # NaN where NaN was


def test_another_shape_departs() -> None:
    other = "third = Gather<axis = 1>(x, three_heads) y ="
    after = (WAVES + OP).replace("y =", other).replace("(x, cos", "(third, cos")
    outcome = compared(after, values=f"{VALUES}, int64[3] three_heads = {{0, 1, 0}}")
    assert outcome.worst == math.inf
    assert outcome.reason == (
        "departs from the graph as it was: its shape is (3, 3, 7, 8), not (3, 2, 7, 8)"
    )


def test_a_table_of_few_rows_is_asked_for_the_rows_that_it_has() -> None:
    rows = "row = Gather<axis = 0>(stored, pos)"
    before, after = (
        nodes.replace("column = Unsqueeze(pos, one)", f"{rows} column = Unsqueeze(row, one)")
        for nodes in (BEFORE, WAVES + OP)
    )
    stored = ", ".join(str(n * n) for n in range(9))
    values = f"{VALUES}, int64[9] stored = {{{stored}}}"
    outcome = compared(after, before, values=values)
    assert outcome.reason is None
    assert 1 < outcome.largest < 8
    other = after.replace("(stored, pos)", "(other, pos)")
    more = values + f", int64[9] other = {{{stored.replace('49', '48')}}}"
    assert compared(other, before, values=more).reason is not None


def test_what_another_operator_gives_is_the_same_on_both_sides() -> None:
    given = "given = other.positions(pos) column = Unsqueeze(given, one)"
    before, after = (
        nodes.replace("column = Unsqueeze(pos, one)", given) for nodes in (BEFORE, WAVES + OP)
    )
    values = f"{VALUES}, float[length] given, float[length, 1] column, float[length, 4] angle"
    outcome = compared(after, before, values=values)
    assert outcome.reason is None
    assert outcome.largest > 1 << 16
    departed = after.replace("(column)", "(next)").replace(
        "real =", "next = Add(column, number) real ="
    )
    reason = compared(departed, before, values=values).reason
    assert reason is not None
    assert reason.startswith("departs")


RANDOM = {
    "RandomNormal": "noise = RandomNormal<shape = [1, 1]>()",
    "RandomUniform": "noise = RandomUniform<shape = [1, 1]>()",
    "RandomNormalLike": "noise = RandomNormalLike(steps)",
    "Bernoulli": "halves = Mul(steps, number) noise = Bernoulli(halves)",
}


@pytest.mark.parametrize("name", RANDOM)
def test_what_is_drawn_is_the_same_on_both_sides(name: str) -> None:
    moved = f"steps = Cast<to = 1>(column) {RANDOM[name]} real = Add(steps, noise)"
    before, after = (
        nodes.replace("real = Cast<to = 1>(column)", moved) for nodes in (BEFORE, WAVES + OP)
    )
    assert compared(after, before).reason is None
    departed = after.replace("Add(steps, noise)", "Sub(steps, noise)")
    assert compared(departed, before).reason is not None


def test_a_choice_by_truth_is_tried_both_ways() -> None:
    chosen = "chosen = Where(mask, column, other_column) real = Cast<to = 1>(chosen)"
    before, after = (
        nodes.replace("real = Cast<to = 1>(column)", chosen) for nodes in (BEFORE, WAVES + OP)
    )
    inputs = f"{POSITIONS}, bool[length, 1] mask"
    values = f"{VALUES}, int64 other_column = {{3}}, int64 another = {{4}}"
    assert compared(after, before, inputs, values).reason is None
    for old, new in (("other_column)", "another)"), ("mask, column,", "mask, other_column,")):
        reason = compared(after.replace(old, new), before, inputs, values).reason
        assert reason is not None
        assert reason.startswith("departs")


@pytest.mark.parametrize("rounded", [True, False])
def test_positions_of_a_table_are_rounded_where_a_half_type_says_so(rounded: bool) -> None:
    half = "narrow = Cast<to = 10>(pos) made = Cast<to = 1>(narrow) column = Unsqueeze(made, one)"
    before = BEFORE.replace("column = Unsqueeze(pos, one)", half)
    whole = half if rounded else half.replace("to = 10", "to = 1")
    after = f"""{whole} matrices = ropeexport.RopeTable(made, coarse, fine)
      pe = Unsqueeze(matrices, two_axes)
      y = ropeexport.ApplyRopeHalfSingle<pairing = "half">(x, pe)"""
    values = f"{VALUES}, float[1] coarse = {{0.0}}, float[1] fine = {{0.0}}, "
    values += "int64[2] two_axes = {0, 1}"
    made = rewritten(after, values=values)
    stored = graph(before, POSITIONS, values=VALUES).graph.initializers["frequencies"]
    frequencies = stored.const_value.numpy().astype("f8")
    for name, table in zip(("coarse", "fine"), digit_tables(frequencies), strict=True):
        made.graph.initializers[name].const_value = ir.tensor(table)
    (op,) = (node for node in made.graph if form_of(node.domain, node.op_type))
    region = replace(region_of(op), data=(("x", made.graph.inputs[0]),))
    reason = compare_regions(graph(before, POSITIONS, values=VALUES), made, [region])["y"].reason
    assert (reason is None) == rounded


def test_a_region_that_is_not_in_both_graphs_is_not_passed_over() -> None:
    outcome = Outcome()
    assert outcome.reason is not None
    assert outcome.reason.startswith("cannot be compared with the graph as it was")
