"""Pairs that lie in another way in the result than in the data, as MLA's neighbours become halves.

Source: DeepSeek V3's rotation, which writes each row of its pairs as a sum of its own.
"""

from __future__ import annotations

import pytest
from fusion.graphs import X, Y, again, assert_same, assert_unchanged, graph, ops

from ropeexport.fusion.fuse import fuse
from ropeexport.ops.forms import form_of

TABLES = "float[length, 4] cos, float[length, 4] sin"
NEIGHBOURS = "a = Slice(x, zero, end, last, two) b = Slice(x, one, end, last, two)"
HALVES = "a = Slice(x, zero, half, last) b = Slice(x, half, end, last)"
ROWS = """
  ac = Mul(a, cos) bs = Mul(b, sin) first = Sub(ac, bs)
  bc = Mul(b, cos) as = Mul(a, sin) second = Add(bc, as)
"""
AS_HALVES = "y = Concat<axis = -1>(first, second)"
AS_NEIGHBOURS = """
  one_each = Unsqueeze(first, last) other_each = Unsqueeze(second, last)
  each = Concat<axis = -1>(one_each, other_each) shape = Shape(x) y = Reshape(each, shape)
"""
CROSSED = {
    "neighbours become halves": (NEIGHBOURS + ROWS + AS_HALVES, "ApplyRopeCosSinSingle"),
    "halves become neighbours": (HALVES + ROWS + AS_NEIGHBOURS, "ApplyRopeCosSinHalfSingle"),
}


@pytest.mark.parametrize("name", CROSSED)
def test_the_op_has_the_datas_pairs_and_its_result_is_moved(name: str) -> None:
    nodes, op_type = CROSSED[name]
    fused = fuse(graph(nodes, f"{X}, {TABLES}"))
    assert (fused.count.found, fused.count.replaced, fused.count.refused) == (1, 1, ())
    assert ops(fused) == [op_type]
    assert_same(fused)


@pytest.mark.parametrize("name", CROSSED)
def test_two_of_one_kind_share_an_op(name: str) -> None:
    nodes, op_type = CROSSED[name]
    model = graph(nodes + again(nodes, "x"), f"{X}, {X}_2, {TABLES}", f"{Y}, {Y}_2")
    fused = fuse(model)
    assert ops(fused) == [op_type.removesuffix("Single")]
    assert_same(fused)


def test_two_whose_results_lie_in_other_ways_share_none() -> None:
    straight = "\n".join((NEIGHBOURS, ROWS, AS_NEIGHBOURS))
    crossed = again(NEIGHBOURS + ROWS + AS_HALVES, "x")
    fused = fuse(graph(straight + crossed, f"{X}, {X}_2, {TABLES}", f"{Y}, {Y}_2"))
    assert ops(fused) == ["ApplyRopeCosSinSingle", "ApplyRopeCosSinSingle"]
    assert_same(fused)


def test_the_rest_of_a_head_is_appended_behind_the_op() -> None:
    """The op of a part would move the whole head."""
    rest = "x = Slice(whole, zero, end, last) rest = Slice(whole, end, far, last)"
    nodes = rest + NEIGHBOURS + ROWS + AS_HALVES + "joined = Concat<axis = -1>(y, rest)"
    whole, joined = ("float[batch, 2, length, 12] whole", "float[batch, 2, length, 12] joined")
    fused = fuse(graph(nodes, f"{whole}, {TABLES}", joined, "int64[1] far = {12}"))
    assert (fused.count.found, fused.count.replaced) == (1, 1)
    (op,) = (node for node in fused.model.graph if form_of(node.domain, node.op_type))
    assert op.inputs[0].name == "x"
    assert_same(fused)


def test_heads_behind_the_length_keep_their_place() -> None:
    nodes = NEIGHBOURS + ROWS + AS_HALVES
    data = "float[batch, length, 2, 8]"
    fused = fuse(graph(nodes, f"{data} x, float[length, 1, 4] cos, float[length, 1, 4] sin",
                       f"{data} y"))  # fmt: skip
    assert (fused.count.found, fused.count.replaced) == (1, 1)
    assert_same(fused)


NONE = {
    "moved alone": NEIGHBOURS + "first = Mul(a, cos) second = Mul(b, cos)" + AS_HALVES,
    "a row of sines has the cosines": NEIGHBOURS + ROWS.replace("Mul(a, sin)", "Mul(a, cos)")
    + AS_HALVES,
    "the second row is of other elements": NEIGHBOURS
    + "c = Slice(x, zero, half, last)" + ROWS.replace("Mul(a, sin)", "Mul(c, sin)") + AS_HALVES,
}  # fmt: skip


@pytest.mark.parametrize("name", NONE)
def test_what_mixes_in_no_such_way_is_judged_as_ever(name: str) -> None:
    model = graph(NONE[name], f"{X}, {TABLES}")
    fused = fuse(model)
    if name == "a row of sines has the cosines":  # a general matrix for each pair, which an op has
        assert ops(fused) == ["ApplyRopeSingle"]
        assert_same(fused)
    else:
        assert_unchanged(fused, model)


def test_two_sums_of_one_refused_rotation_count_once() -> None:
    """Each row of pairs is a sum, and their place is where they meet."""
    fused = fuse(graph(NONE["the second row is of other elements"], f"{X}, {TABLES}"))
    assert (fused.count.found, fused.count.replaced) == (1, 0)
    assert len(fused.count.refused) == 1
