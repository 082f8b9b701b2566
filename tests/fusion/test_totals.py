"""Matrices times pairs as a product and a sum over the last axis, as Kandinsky 5 writes it."""

from __future__ import annotations

import pytest
from fusion.graphs import X, assert_same, assert_unchanged, graph, ops

from ropeexport.fusion.fuse import fuse

WAVES = """
  c = Cos(turns) s = Sin(turns) n = Neg(s)
  c_1 = Unsqueeze(c, last) s_1 = Unsqueeze(s, last) n_1 = Unsqueeze(n, last)
  flat = Concat<axis = -1>(c_1, n_1, s_1, c_1)
  pe_shape = Constant<value_ints = [0, 0, 2, 2]>() pe = Reshape(flat, pe_shape)
"""
TURNS = "float[length, 4] turns"
PE = "float[length, 4, 2, 2] pe"
PAIRS = "pair_shape = Constant<value_ints = [0, 0, 0, 4, 1, 2]>() pairs = Reshape(x, pair_shape)"
TOTAL = """
  products = Mul(pe, pairs) total = ReduceSum<keepdims = 0>(products, last)
  shape = Shape(x) y = Reshape(total, shape)
"""


def test_proven_rotations_take_cosines_and_sines() -> None:
    fused = fuse(graph(WAVES + PAIRS + TOTAL, f"{X}, {TURNS}"))
    assert (fused.count.found, fused.count.replaced) == (1, 1)
    assert ops(fused) == ["ApplyRopeCosSinSingle"]
    assert_same(fused)


def test_matrices_that_are_an_input_stay_matrices() -> None:
    fused = fuse(graph(PAIRS + TOTAL, f"{X}, {PE}"))
    assert ops(fused) == ["ApplyRopeSingle"]
    assert_same(fused)


def test_halves_are_found_too() -> None:
    halves = """
      split_shape = Constant<value_ints = [0, 0, 0, 2, 4]>() split = Reshape(x, split_shape)
      turned = Transpose<perm = [0, 1, 2, 4, 3]>(split) pairs = Unsqueeze(turned, four)
      products = Mul(pe, pairs) total = ReduceSum<keepdims = 0>(products, last)
      back = Transpose<perm = [0, 1, 2, 4, 3]>(total) shape = Shape(x) y = Reshape(back, shape)
    """
    fused = fuse(graph(halves, f"{X}, {PE}", values="int64[1] four = {4}"))
    assert ops(fused) == ["ApplyRopeHalfSingle"]
    assert_same(fused)


OTHER = {
    "the sum is over pairs": TOTAL.replace("(products, last)", "(products, minus_two)"),
    "the axis is not known": TOTAL.replace("(products, last)", "(products, axis)"),
}  # fmt: skip


@pytest.mark.parametrize("name", OTHER)
def test_other_sums_stay(name: str) -> None:
    nodes = PAIRS + OTHER[name]
    inputs = f"{X}, {PE}" + (", int64[1] axis" if "axis" in name else "")
    model = graph(nodes, inputs, values="int64[1] minus_two = {-2}")
    fused = fuse(model)
    assert fused.count.replaced == 0
    assert_unchanged(fused, model)


def test_a_sum_of_more_than_two_is_no_pair() -> None:
    """So is a state that is read by a key, in a linear attention: nothing is said of it."""
    nodes = "p = Mul(x, cos) t = ReduceSum<keepdims = 1>(p, last) y = Mul(t, cos)"
    model = graph(nodes)
    fused = fuse(model)
    assert (fused.count.found, fused.count.replaced) == (0, 0)
    assert_unchanged(fused, model)


def test_a_matrix_times_its_own_row_is_no_rotation() -> None:
    """As a triangular system is solved, row by row, in a gated linear attention."""
    nodes = """
      row = Gather<axis = 2>(m, first) column = Unsqueeze(row, last)
      products = Mul(column, {}) y = ReduceSum<keepdims = 0>(products, minus_two)
    """
    inputs, values = "float[batch, 4, 2, 2] m", "int64 first = {0}, int64[1] minus_two = {-2}"
    own = graph(nodes.format("m"), inputs, "float[batch, 4, 2] y", values=values)
    fused = fuse(own)
    assert (fused.count.found, fused.count.replaced) == (0, 0)
    assert_unchanged(fused, own)
    inputs += ", float[batch, 4, 2, 2] n"
    other = fuse(graph(nodes.format("n"), inputs, "float[batch, 4, 2] y", values=values))
    assert other.count.found == 1, "of another matrix there is something to say"


def test_sums_of_attention_are_no_rotations() -> None:
    """Weights times values, summed over keys: no element meets its partner."""
    nodes = "w = Unsqueeze(weights, last) p = Mul(w, values) y = ReduceSum<keepdims = 0>(p, two)"
    inputs = "float[batch, 2, length] weights, float[batch, 2, length, 8] values"
    model = graph(nodes, inputs, "float[batch, 2, 8] y")
    fused = fuse(model)
    assert (fused.count.found, fused.count.replaced) == (0, 0)
    assert_unchanged(fused, model)
